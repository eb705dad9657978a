"""Tests of the verdict: each broken rule, each limit, and unchecked rules."""

from dataclasses import replace
from typing import Any

import pytest
from efficientquant_controller.analysis.facts import RunFacts
from efficientquant_controller.analysis.statistics import STATISTICS_VERSION
from efficientquant_controller.analysis.verdict import Grade, judge, was_throttled
from efficientquant_controller.model import Finding

TENTHS = [n / 10 for n in range(200)]  # 20 s at 10 Hz; the measure window holds 100 readings
STEADY = [0.1, 0.1001, 0.0999, 0.1] * 25
NO_CONTENTION = "not checked: contention for the CPU (the agent did not read it)"
NOT_READ = (
    "not checked: temperature (no reading of the GPU or a CPU)",
    "not checked: the device's own throttle reasons (none were read)",
    "not checked: clocks (no target, or no reading)",
)


def run(**changes: Any) -> RunFacts:
    """Return a quiet run with all readings: 100 samples over 10 s at locked 1.4 GHz."""
    series = {
        "temperature_gpu_c": (TENTHS, [60.0] * 200),
        "throttle_bits": (TENTHS, [0.0] * 200),
        "clock_gpu_hz": (TENTHS, [1.4e9] * 200),
    }
    facts = RunFacts(
        latency_s=STEADY,
        required_count=64,
        required_time_s=9.0,
        warmup_converged=True,
        series=series,
        windows={"measure": (5.0, 14.95)},
        conditions={"clocks": "locked"},
        readings={"clock_gpu_target_hz": 1.4e9, "cpu_wait_share": 0.05},
        sampler_core_share=0.002,
        clocks_asked=True,
    )
    return replace(facts, **changes)


def contended(name: str, share: float) -> RunFacts:
    """Return the quiet run with one reading of the contention for the CPU."""
    return run(readings={"clock_gpu_target_hz": 1.4e9, name: share})


def watched(name: str, *values: float, rest: float) -> RunFacts:
    """Return the quiet run with a series of `values` from the window's start, then `rest`."""
    readings = [rest] * 50 + [*values, *[rest] * (150 - len(values))]
    return run(series={**run().series, name: (TENTHS, readings)})


def test_a_quiet_run_is_an_a() -> None:
    """A run that breaks no rule gets an A without reasons, and the statistics version."""
    verdict = judge(run())

    assert (verdict.grade, verdict.reasons, verdict.statistics_version) == (Grade.A, (), STATISTICS_VERSION)


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        (run(latency_s=[0.1, 0.107, 0.1035] * 33), "the coefficient of variation is 2.78 % (at most 2.5 %)"),
        (run(latency_s=[0.1, 0.164, 0.132] * 33), "the coefficient of variation is 19.9 % (at most 2.5 %)"),
        (
            contended("cpu_wait_share", 0.051),
            "a measuring thread waited for a CPU in 5.1 % of the window (at most 5 %)",
        ),
        (contended("cpu_wait_share", 0.25), "a measuring thread waited for a CPU in 25 % of the window (at most 5 %)"),
        (
            contended("other_cpu_share", 0.051),
            "other processes took 5.1 % of all CPU time in the window (at most 5 %)",
        ),
        (
            run(latency_s=[0.1] * 40 + [0.1021] * 60),
            "the last third's median is 2.1 % above the first third's (at most 2 %)",
        ),
        (
            run(latency_s=[0.1] * 40 + [0.0979] * 60),
            "the last third's median is 2.1 % below the first third's (at most 2 %)",
        ),
        (run(warmup_converged=False), "the warm-up ended by its time limit, before three windows agreed within 5 %"),
        (run(sampler_core_share=0.01), "the sampler took 1 % of a core (less than 1 %)"),
        (
            replace(watched("clock_gpu_hz", 1.5e9, 1.5e9, rest=1.4e9), clocks_asked=False),
            "the GPU clock was off 1400 MHz in 2 % of its readings",
        ),
        (
            replace(
                watched("clock_gpu_hz", 1.0e9, 1.0e9, rest=1.4e9),
                conditions={"clocks": "free"},
                clocks_asked=False,
            ),
            "the GPU clock was below 1400 MHz in 2 % of its readings",
        ),
        (run(findings=(Finding("sensor", "soft", "in1_input: permission denied"),)), "in1_input: permission denied"),
    ],
)
def test_a_soft_rule_makes_a_b(facts: RunFacts, reason: str) -> None:
    """One broken soft rule gives a B with a reason that has its number."""
    verdict = judge(facts)

    assert (verdict.grade, verdict.reasons) == (Grade.B, (reason,))


def test_several_soft_rules_make_a_b_that_names_them_all() -> None:
    """Any number of broken soft rules gives a B that names them all."""
    verdict = judge(run(latency_s=[0.1] * 50 + [0.11] * 50, warmup_converged=False, sampler_core_share=0.02))

    assert verdict.grade is Grade.B
    assert [reason.split()[1] for reason in verdict.reasons] == ["warm-up", "coefficient", "last", "sampler"]


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        (watched("throttle_bits", 0x04, 0x40, rest=0), "throttled: software power cap, hardware thermal slowdown"),
        (
            watched("temperature_gpu_c", 85.0, rest=80.0),
            "gpu reached 85.0 °C (85 °C is too hot to measure)",
        ),
        (
            watched("temperature_cpu-thermal_c", 91.5, rest=80.0),
            "cpu-thermal reached 91.5 °C (85 °C is too hot to measure)",
        ),
        (
            watched("clock_gpu_hz", 1.38e9, 1.38e9, rest=1.4e9),
            "the GPU clock was below 1400 MHz in 2 % of its readings",
        ),
        (
            watched("clock_gpu_hz", 1.42e9, 1.42e9, rest=1.4e9),
            "the lock did not hold: the GPU clock was off 1400 MHz in 2 % of its readings",
        ),
        (
            watched("clock_gpu_hz", rest=1.9e9),  # the driver dropped the lock, and the GPU boosts
            "the lock did not hold: the GPU clock was off 1400 MHz in 100 % of its readings",
        ),
        (run(latency_s=STEADY[:63]), "too few samples: 63 of 64"),
        (run(latency_s=[0.1, 0.166, 0.133] * 33), "the coefficient of variation is 20.4 % (at most 20 %)"),
        (
            contended("cpu_wait_share", 0.251),
            "a measuring thread waited for a CPU in 25.1 % of the window (at most 25 %)",
        ),
        (
            contended("other_cpu_share", 0.9),
            "other processes took 90 % of all CPU time in the window (at most 25 %)",
        ),
        (run(required_time_s=10.5), "measured for too short: 10.00 of 10.5 s"),
        (
            run(findings=(Finding("gpu_processes", "invalid", "another process uses the GPU: 4711 (python)"),)),
            "another process uses the GPU: 4711 (python)",
        ),
    ],
)
def test_a_hard_rule_makes_it_invalid(facts: RunFacts, reason: str) -> None:
    """Each broken hard rule alone gives INVALID, with one reason."""
    verdict = judge(facts)

    assert (verdict.grade, verdict.reasons) == (Grade.INVALID, (reason,))


@pytest.mark.parametrize("state", ["free", "unverifiable"])
def test_clocks_that_were_asked_for_must_be_verified(state: str) -> None:
    """Clocks that are not locked make a run INVALID only when locked clocks were requested."""
    conditions = {"clocks": state}

    asked, not_asked = (judge(run(conditions=conditions, clocks_asked=locked)) for locked in (True, False))

    assert asked.grade is Grade.INVALID
    assert asked.reasons == (f"locked clocks were asked for, and the clocks are {state}",)
    assert (not_asked.grade, not_asked.reasons) == (Grade.A, ())


def test_locked_clocks_that_nobody_read_are_not_verified() -> None:
    """Locked clocks without readings of the GPU's clock make a run INVALID."""
    series = {name: readings for name, readings in run().series.items() if name != "clock_gpu_hz"}

    verdict = judge(run(series=series))

    assert verdict.grade is Grade.INVALID
    assert "locked clocks were asked for, and the GPU's clock was not read together with its target" in verdict.reasons


@pytest.mark.parametrize(
    "facts",
    [
        watched("throttle_bits", 0x01, 0x02, 0x10, 0x100, rest=0x101),  # idle, settings, sync boost, display
        watched("temperature_gpu_c", 84.9, rest=80.0),
        watched("temperature_pmic_c", rest=100.0),
        watched("clock_gpu_hz", 1.0e9, rest=1.4e9),  # one reading of a hundred
        watched("clock_gpu_hz", rest=1.4e9 * 0.9901),
        run(latency_s=[0.1, 0.106, 0.103] * 33),  # 2.39 %
        run(latency_s=[0.1] * 40 + [0.1019] * 60),
        run(latency_s=STEADY[:64], required_time_s=9.9),  # the window counts
        run(latency_s=[0.1] * 100, required_time_s=10.0, windows={}, series={}, clocks_asked=False, conditions={}),
        run(findings=(Finding("swap", "info", "3 MiB were swapped out before"),)),
        contended("cpu_wait_share", 0.0),
        contended("other_cpu_share", 0.05),
    ],
)
def test_on_the_right_side_of_a_limit(facts: RunFacts) -> None:
    """A value just within a rule keeps the A."""
    verdict = judge(facts)

    assert (verdict.grade, [reason for reason in verdict.reasons if not reason.startswith("not checked")]) == (
        Grade.A,
        [],
    )


def test_what_lies_outside_the_window_does_not_count() -> None:
    """Heat and throttling outside the measure window do not count."""
    hot = [90.0] * 50 + [60.0] * 150
    bits = [64.0] * 50 + [0.0] * 150

    verdict = judge(run(series={**run().series, "temperature_gpu_c": (TENTHS, hot), "throttle_bits": (TENTHS, bits)}))

    assert verdict.grade is Grade.A


def test_what_nobody_could_read_is_listed_and_breaks_nothing() -> None:
    """A board without sensors can get an A, with the rules that were not checked."""
    verdict = judge(run(series={}, conditions={}, readings={}, clocks_asked=False, sampler_core_share=None))

    assert verdict.grade is Grade.A
    assert verdict.reasons == (NO_CONTENTION, "not checked: what the sampler cost", *NOT_READ)


def test_reasons_come_in_the_order_of_their_weight() -> None:
    """Broken hard rules come first, then broken soft rules, then unchecked rules."""
    verdict = judge(run(latency_s=[0.1, 0.11] * 10, series={}, conditions={}, clocks_asked=False, required_time_s=0.0))

    assert verdict.reasons[0] == "too few samples: 20 of 64"
    assert verdict.reasons[1].startswith("the coefficient of variation")
    assert verdict.reasons[2:] == NOT_READ


def test_no_samples_at_all() -> None:
    """A run without a sample is INVALID with too few samples."""
    verdict = judge(run(latency_s=[], required_count=0, required_time_s=0.0))

    assert (verdict.grade, verdict.reasons) == (Grade.INVALID, ("too few samples: 0 of 1",))


@pytest.mark.parametrize(
    ("facts", "throttled"),
    [
        (run(), False),
        (watched("throttle_bits", 0x08, rest=0), True),
        (watched("clock_gpu_hz", rest=1.2e9), True),
        (run(series={}, conditions={}, clocks_asked=False), None),
    ],
)
def test_throttled_is_unknown_where_nothing_tells(facts: RunFacts, throttled: bool | None) -> None:
    """Without a reading it is unknown whether the device was throttled."""
    assert was_throttled(facts) is throttled
