"""Tests of the reasons that a run has in addition to its verdict's."""

import pytest
from efficientquant_controller.analysis.derived import derived_columns
from efficientquant_controller.analysis.facts import RunFacts

WINDOWS = {"idle_before": (0.0, 2.0), "measure": (4.0, 12.0), "idle_after": (14.0, 16.0)}


def reasons(idle_before_w: float, idle_after_w: float) -> list[str]:
    """Return the reasons about net energy of a run at 5 W between two idle periods."""
    times = [index / 10 for index in range(161)]
    watts = [idle_before_w if time < 3 else 5.0 if time < 13 else idle_after_w for time in times]
    facts = RunFacts(
        latency_s=[0.1] * 80,
        required_count=64,
        required_time_s=6.0,
        warmup_converged=True,
        series={"power_pom_5v_in_w": (times, watts)},
        windows=WINDOWS,
        conditions={"rail_set": "POM_5V_IN"},
    )
    return [reason for reason in derived_columns(facts)["verdict_reasons"] if "net energy" in reason]


def test_changed_idle_power_is_reported() -> None:
    """Idle power that changed by more than a tenth makes the net energy uncertain, with the change."""
    assert reasons(2.0, 2.5) == [
        "net energy is uncertain: idle power after the run was 25% above that before it (at most 10%)"
    ]
    assert "20% below" in reasons(2.0, 1.6)[0]


@pytest.mark.parametrize("idle_after_w", [2.0, 2.15])
def test_idle_power_that_stayed_is_not(idle_after_w: float) -> None:
    """Idle power that changed by less than a tenth gives no reason."""
    assert reasons(2.0, idle_after_w) == []
