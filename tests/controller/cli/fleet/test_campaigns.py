"""`efficientquant campaigns` and `efficientquant cancel`."""

import json

import pytest
from efficientquant_protos.v1 import fleet_pb2 as pb


def test_list(command, control, messages):
    """The list has each campaign's state and request."""
    control.campaigns = [messages.campaign("running"), messages.campaign("failed", campaign_id="c0")]

    lines = command("campaigns").out.splitlines()

    (shown,) = [line.split() for line in lines if line.startswith("c1")]
    assert (shown[1], shown[-1]) == ("running", "4")
    assert "fp32, efficientquant" in " ".join(shown)
    assert any(line.startswith("c0") and "failed" in line for line in lines)


def test_json(command, control, messages):
    """--json prints the campaigns, with null as the end of a running one."""
    control.campaigns = [messages.campaign("running")]

    (shown,) = json.loads(command("campaigns", "--json").out)

    assert (shown["campaign_id"], shown["state"], shown["ended_unix_s"]) == ("c1", "running", None)
    assert shown["recipes"] == ["fp32", "efficientquant"]


@pytest.mark.usefixtures("control")
def test_none(command):
    """Without campaigns the command says how to start one."""
    assert command("campaigns").out.startswith("no campaigns yet; start one: efficientquant bench")


def test_cancel(command, control):
    """Cancelling says that the results stay, and how to show them."""
    outcome = command("cancel", "latest")

    assert control.requests == [pb.CancelCampaignRequest(campaign_id="latest")]
    assert outcome.exit_code == 0
    assert outcome.out == (
        "campaign c1 is cancelled; what was measured stays:\n  efficientquant results --campaign c1\n"
    )


@pytest.mark.usefixtures("control")
def test_cancel_json(command):
    """--json prints the cancelled campaign."""
    assert json.loads(command("cancel", "c1", "--json").out)["state"] == "cancelled"


def test_cancel_too_late(command, control):
    """A campaign that had already ended is unchanged, and the command says so."""
    control.state_after_cancel = "succeeded"

    assert command("cancel", "c1").out == "campaign c1 had already ended: succeeded\n"
