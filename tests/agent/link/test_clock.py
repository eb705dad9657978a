"""The controller's clock, as agents learn it from the answer to their hello."""

import pytest
from efficientquant_agent.link.clock import ControllerClock

WAIT_S = 60.0


def clock(sent_s=10.0, received_unix_s=1000.1, answered_unix_s=1000.3, back_s=10.4):
    learned = ControllerClock()
    learned.learn(sent_s, received_unix_s, answered_unix_s, back_s)
    return learned


def test_offset_is_ntps():
    """The offset follows from the four times of one exchange."""
    # The messages took 0.1 s each way, so monotonic 10 was 1000 on the controller.
    assert clock().offset_s(unix_s=1003.0, monotonic_s=10.0) == pytest.approx(3.0)


def test_time_in_the_controller_does_not_count():
    """A controller that takes long to answer does not change the offset."""
    slow = clock(answered_unix_s=1060.3, back_s=70.4)

    assert slow.offset_s(unix_s=1000.0, monotonic_s=15.0) == pytest.approx(-5.0)


def test_offset_follows_a_clock_that_is_set():
    """An offset is right before and after this device's clock was set."""
    learned = clock()

    before_s = learned.offset_s(unix_s=500.0, monotonic_s=20.0)
    after_s = learned.offset_s(unix_s=1011.0, monotonic_s=21.0)

    assert (before_s, after_s) == (pytest.approx(-510.0), pytest.approx(0.0))


@pytest.mark.parametrize(
    "times",
    [
        {"received_unix_s": 0.0, "answered_unix_s": 0.0},
        {"received_unix_s": float("nan")},
        {"answered_unix_s": float("inf")},
        {"back_s": 13.0},
    ],
)
def test_offset_stays_unknown(times):
    """A missing or broken time, or a slow exchange, teaches nothing."""
    assert clock(**times).offset_s(unix_s=1000.0, monotonic_s=10.0) is None


def test_slow_exchange_keeps_the_last_answer():
    """An exchange that took long does not replace an earlier one."""
    learned = clock()
    learned.learn(20.0, 2000.0, 2000.1, 29.0)

    assert learned.offset_s(unix_s=1003.0, monotonic_s=10.0) == pytest.approx(3.0)


def test_results_and_heartbeats_carry_the_offset(controller, start_agent, tiny_model):
    """A result and the heartbeats say how far the device's clock is ahead."""
    controller.clock_behind_s = 3600.0
    start_agent(controller.address)
    controller.assign("run-1", tiny_model)

    result = controller.reports.get(timeout=WAIT_S)

    assert result.measured["clock_offset_s"] == pytest.approx(3600.0, abs=1.0)
    beat = controller.heartbeats.get(timeout=WAIT_S).heartbeat
    assert beat.clock_offset_s == pytest.approx(3600.0, abs=1.0)


def test_controller_that_does_not_say_its_time(controller, start_agent, tiny_model):
    """With an older controller the offset is missing, and runs go on."""
    controller.hides_clock = True
    start_agent(controller.address)
    controller.assign("run-1", tiny_model)

    result = controller.reports.get(timeout=WAIT_S)

    assert (result.failure_type, "clock_offset_s" in result.measured) == ("", False)
    assert not controller.heartbeats.get(timeout=WAIT_S).heartbeat.HasField("clock_offset_s")
