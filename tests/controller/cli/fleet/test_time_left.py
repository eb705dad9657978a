"""The estimate of a campaign's remaining time."""

import pytest
from efficientquant_controller.cli.fleet.time_left import Pace
from efficientquant_controller.cli.records import CampaignStatus, DeviceStatus
from efficientquant_controller.config import TIERS
from efficientquant_controller.model import CampaignState


@pytest.fixture
def campaign(messages):
    """Return a function that makes a status of a campaign with these devices."""
    from efficientquant_controller.cli.convert import campaign_from_wire

    def make(*devices: DeviceStatus, state: str = "running", tier: str = "smoke") -> CampaignStatus:
        return CampaignStatus(campaign_from_wire(messages.campaign(state, tier=tier)), devices=devices)

    return make


def device(name: str, done: int, total: int = 10, state: str = "busy") -> DeviceStatus:
    return DeviceStatus(name, state, total, done)


def test_before_a_run_has_ended_the_tier_is_the_estimate(campaign):
    """The tier smoke measures 6 s between two rests of 2 s, and the overhead is estimated."""
    status = campaign(device("a", 0))
    pace = Pace()
    pace.note(status, 0.0)

    assert pace.left(status, 1.0) == "about 2 min left (an estimate from the tier)"


def test_runs_of_this_campaign_set_the_pace(campaign):
    """Two runs in a minute leave four minutes for eight more."""
    pace = Pace()
    pace.note(campaign(device("a", 0)), 100.0)
    later = campaign(device("a", 2))

    assert pace.left(later, 160.0) == "about 4 min left (at the pace of the runs so far)"


def test_runs_before_the_watch_began_do_not_count(campaign):
    """A campaign that is joined in the middle has the pace since then."""
    pace = Pace()
    pace.note(campaign(device("a", 5)), 0.0)

    assert pace.left(campaign(device("a", 6)), 30.0) == "about 2 min left (at the pace of the runs so far)"


def test_the_slowest_device_decides(campaign):
    """The slowest device sets the time, and offline devices are left out."""
    pace = Pace()
    devices = [device("a", 0), device("b", 0), device("c", 0, state="offline")]
    pace.note(campaign(*devices), 0.0)

    left = pace.left(campaign(device("a", 5), device("b", 1), devices[2]), 60.0)

    assert left == "about 9 min left (at the pace of the runs so far)"


def test_while_artifacts_are_built_only_measuring_is_estimated(campaign):
    """While artifacts are built, the sentence estimates the measuring only."""
    status = campaign(device("a", 0), state="building")
    pace = Pace()
    pace.note(status, 0.0)

    sentence = "about 2 min left of measuring once all artifacts are built (an estimate from the tier)"
    assert pace.left(status, 60.0) == sentence


@pytest.mark.parametrize("state", [state.value for state in CampaignState if state.ended])
def test_a_campaign_that_has_ended_has_no_time_left(campaign, state):
    """An ended campaign has no estimate."""
    assert Pace().left(campaign(device("a", 3), state=state), 5.0) == ""


def test_nothing_is_said_where_nothing_is_known(campaign):
    """An unknown tier has no estimate, and devices that are done need none."""
    assert Pace().left(campaign(device("a", 0), tier="of-tomorrow"), 5.0) == ""
    assert Pace().left(campaign(device("a", 10)), 5.0) == ""


@pytest.mark.parametrize("tier", TIERS)
def test_every_tier_has_an_estimate(campaign, tier):
    """Every tier has an estimate."""
    assert Pace().left(campaign(device("a", 0), tier=tier), 0.0).startswith("about ")
