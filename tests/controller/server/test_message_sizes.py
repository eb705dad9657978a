"""Tests that agent, controller and CLI agree about the largest message."""

from efficientquant_agent.link import client
from efficientquant_controller.cli import connection
from efficientquant_controller.server import app

SEND, RECEIVE = "grpc.max_send_message_length", "grpc.max_receive_message_length"


def test_what_is_sent_is_taken() -> None:
    """The controller accepts the largest message of an agent, and the CLI the largest of the controller."""
    agent, controller, cli = dict(client._OPTIONS), dict(app.OPTIONS), dict(connection._CHANNEL_OPTIONS)

    assert agent[SEND] == controller[RECEIVE] == 256 << 20
    assert controller[SEND] == cli[RECEIVE] == 256 << 20
