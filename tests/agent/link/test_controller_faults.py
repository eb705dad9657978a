"""Controllers that are busy, restart, hang or send what cannot be read."""

import threading
import time
from concurrent import futures

import grpc
import pytest
from efficientquant_agent.errors import ControllerUnreachableError
from efficientquant_agent.link.client import Client
from efficientquant_agent.link.stored import describe
from efficientquant_protos.v1 import fleet_pb2 as pb

WAIT_S = 60.0
SENTENCE = "the database is locked; it is tried again"


@pytest.fixture
def serve_bytes():
    """Return a function that serves raw bytes as a method's answers."""
    servers = []

    def serve(method, make_handler, answers):
        def give(_request, _context):
            for answer in answers:
                yield answer

        server = grpc.server(futures.ThreadPoolExecutor(max_workers=4), options=[("grpc.so_reuseport", 0)])
        handler = make_handler(give, response_serializer=lambda data: data)
        service = grpc.method_handlers_generic_handler("efficientquant.v1.AgentGateway", {method: handler})
        server.add_generic_rpc_handlers((service,))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        servers.append(server)
        return port

    yield serve
    for server in servers:
        server.stop(0).wait()


@pytest.fixture
def open_client():
    """Give a function that opens a client for a port."""
    clients = []

    def open_at(port):
        clients.append(Client("127.0.0.1", port, "127.0.0.1:{}".format(port)))
        return clients[-1]

    yield open_at
    for client in clients:
        client.close()


def test_session_of_a_busy_controller(controller, start_agent):
    """A refused session is retried, and the reason is logged once."""
    controller.refusal = (grpc.StatusCode.UNAVAILABLE, SENTENCE)
    agent = start_agent(controller.address)
    for _ in range(4):
        controller.hellos.get(timeout=WAIT_S)

    controller.refusal = None

    agent.wait_for_line("ready: connected")
    assert [line for line in agent.seen if "no controller" in line] == []
    said = [line for line in agent.seen if SENTENCE in line]
    assert [line.split(" ", 1)[1] for line in said] == [
        "the controller cannot serve now: {}; trying again".format(SENTENCE)
    ]


@pytest.mark.parametrize(("is_answered", "reason"), [(True, "cannot serve now: full"), (False, "is not ready: full")])
def test_answer_is_told_from_a_lost_connection(controller, open_client, is_answered, reason):
    """UNAVAILABLE means an absent controller, unless the metadata mark an answer."""
    controller.report_refusals = [grpc.StatusCode.UNAVAILABLE]
    controller.report_sentence = "full"
    controller.refusal_is_answered = is_answered

    with pytest.raises(ControllerUnreachableError, match=reason) as failure:
        open_client(controller.port).report(describe(b""))

    assert failure.value.answered is is_answered


def test_command_that_cannot_be_decoded(serve_bytes, start_agent):
    """After an undecodable command the agent logs one line and reconnects."""
    answers = [pb.ControllerCommand(welcome=pb.Welcome(heartbeat_interval_s=9)).SerializeToString(), b"\xff\xff"]
    port = serve_bytes("Connect", grpc.stream_stream_rpc_method_handler, answers)
    agent = start_agent("127.0.0.1:{}".format(port))

    for _ in range(2):
        agent.wait_for_line("ready: connected")
        agent.wait_for_line("the controller sent a message that cannot be decoded; trying again")

    assert [line for line in agent.seen if "Exception" in line or "Traceback" in line] == []


def test_chunk_that_cannot_be_decoded(serve_bytes, open_client, caplog):
    """An undecodable chunk fails the fetch without a traceback from gRPC."""
    port = serve_bytes("FetchArtifact", grpc.unary_stream_rpc_method_handler, [b"\xff\xff"])

    with pytest.raises(ControllerUnreachableError, match="cannot be decoded") as failure:
        list(open_client(port).fetch("a" * 64, 0))

    assert failure.value.answered
    assert caplog.records == []


def test_fetch_survives_a_restart(controller, start_agent, tiny_model):
    """A fetch without a controller goes on when the controller is back."""
    controller.chunk_bytes = 100
    controller.break_fetch_after = [1]
    controller.fetch_gate.clear()
    agent = start_agent(controller.address)
    controller.assign("run-1", tiny_model)
    controller.fetches.get(timeout=WAIT_S)
    controller.stop()
    controller.fetch_gate.set()
    agent.wait_for_line("no controller: connection refused")

    controller.fetch_refusals = [grpc.StatusCode.UNAVAILABLE] * 10
    controller.listen(controller.port)

    assert controller.reports.get(timeout=WAIT_S).failure_type == ""
    assert not controller.fetch_refusals


def test_hanging_fetch_is_cancelled(controller, start_agent, tiny_model):
    """A cancelled run ends its hanging fetch at once."""
    controller.fetch_gate.clear()
    start_agent(controller.address)
    controller.assign("run-1", tiny_model)
    controller.fetches.get(timeout=WAIT_S)

    started_s = time.monotonic()
    controller.cancel("run-1")

    assert controller.reports.get(timeout=WAIT_S).failure_type == "cancelled"
    assert time.monotonic() - started_s < 5.0
    controller.fetch_gate.set()


def test_interrupted_before_the_first_chunk(controller, open_client):
    """A fetch can be interrupted as soon as it was asked for."""
    controller.fetch_gate.clear()
    client = open_client(controller.port)
    chunks = client.fetch("a" * 64, 0)
    threading.Thread(target=client.interrupt_fetch).start()

    with pytest.raises(ControllerUnreachableError, match="CANCELLED"):
        next(chunks)

    controller.fetch_gate.set()
