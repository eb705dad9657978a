"""The verdict on a run: A, B or INVALID, with its reasons."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from math import fsum

from efficientquant_controller.analysis.facts import MEASURE, RunFacts
from efficientquant_controller.analysis.statistics import STATISTICS_VERSION, drift, summarize
from efficientquant_controller.analysis.telemetry import hot_zones

MAX_COV = 0.025
MAX_USABLE_COV = 0.2
MAX_DRIFT = 0.02
CLOCK_TOLERANCE = 0.01
MIN_CLOCK_SHARE = 0.99
MAX_SAMPLER_SHARE = 0.01
MAX_CONTENTION = 0.05
MAX_USABLE_CONTENTION = 0.25
HOT_C = 85.0
# NVML's reasons for a clock below the requested one. The others (idle, an application's or the display's setting, a
# group's slowest member) are not throttling. Names and bits: nvmlClocksEventReasons in nvml.h.
THROTTLE_BITS = {
    0x04: "software power cap",
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}
_CLOCK = re.compile(r"clock_(gpu|emc|cpu)\d*_hz")


class Grade(StrEnum):
    """The quality of a run's numbers."""

    A = "A"  # every rule that could be checked holds
    B = "B"  # soft rules are broken, each of them named
    INVALID = "INVALID"  # the numbers do not answer the question


@dataclass(frozen=True)
class Verdict:
    """A grade with its reasons.

    Rules that could not be checked come last, as "not checked: …".
    """

    grade: Grade
    reasons: tuple[str, ...]
    statistics_version: int = STATISTICS_VERSION


@dataclass
class _Reasons:
    hard: list[str] = field(default_factory=list)
    soft: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def judge(facts: RunFacts) -> Verdict:
    """Grade a run that succeeded by the rules of docs/measurement.md.

    Any number of broken soft rules makes a B, because they are not independent: a clock that changes breaks spread,
    drift and warm-up together. INVALID is for numbers that do not answer the question: throttled, shared, at unverified
    clocks, too few, or too far apart.
    """
    reasons = _Reasons()
    _judge_samples(facts, reasons)
    _judge_contention(facts, reasons)
    _judge_steadiness(facts, reasons)
    reasons.hard += throttling(facts)
    _judge_clocks(facts, reasons)
    _judge_observer(facts, reasons)
    reasons.hard += [finding.message for finding in facts.findings if finding.severity == "invalid"]
    reasons.soft += [finding.message for finding in facts.findings if finding.severity == "soft"]
    _name_unknown(facts, reasons)
    grade = Grade.INVALID if reasons.hard else Grade.B if reasons.soft else Grade.A
    return Verdict(grade, (*dict.fromkeys([*reasons.hard, *reasons.soft, *reasons.unknown]),))


def throttling(facts: RunFacts) -> list[str]:
    """Return sentences on what throttled the device in the measure window.

    Causes are the device's own reasons, its heat, and a locked clock that fell.
    """
    sentences = []
    bits = _union(facts.measured("throttle_bits"))
    if named := [name for bit, name in THROTTLE_BITS.items() if bits & bit]:
        sentences.append(f"throttled: {', '.join(named)}")
    for zone in hot_zones(facts.series):
        hottest_c = max(facts.measured(zone), default=0.0)
        if hottest_c >= HOT_C:
            sentences.append(f"{_zone(zone)} reached {hottest_c:.1f} °C ({HOT_C:.0f} °C is too hot to measure)")
    if facts.conditions.get("clocks") == "locked":
        sentences += [sentence for domain, low, sentence in _clocks_off(facts) if low and domain != "cpu"]
    return sentences


def was_throttled(facts: RunFacts) -> bool | None:
    """Return whether the device was throttled, or None when unknown.

    It is unknown when no reading could have shown it.
    """
    was_read = facts.measured("throttle_bits") or any(facts.measured(zone) for zone in hot_zones(facts.series))
    reasons = throttling(facts)
    return bool(reasons) if was_read or reasons or _checked_clocks(facts) else None


def _judge_samples(facts: RunFacts, reasons: _Reasons) -> None:
    count, elapsed_s = len(facts.latency_s), _elapsed_s(facts)
    if count < max(facts.required_count, 1):
        reasons.hard.append(f"too few samples: {count} of {max(facts.required_count, 1)}")
    if elapsed_s < facts.required_time_s:
        reasons.hard.append(f"measured for too short: {elapsed_s:.2f} of {facts.required_time_s:g} s")


def _elapsed_s(facts: RunFacts) -> float:
    """Return the measured time in seconds.

    It is the window, which includes the time between inferences, or the sum of the latencies if that is longer. The sum
    is rounded up a little, because the timed loop's own sum is rounded too.
    """
    start_s, end_s = facts.windows.get(MEASURE, (0.0, 0.0))
    return max(end_s - start_s, fsum(facts.latency_s) * (1 + 1e-9))


def _judge_steadiness(facts: RunFacts, reasons: _Reasons) -> None:
    if not facts.warmup_converged:
        reasons.soft.append("the warm-up ended by its time limit, before three windows agreed within 5 %")
    if not facts.latency_s:
        return
    cov, change = summarize(facts.latency_s).cov, drift(facts.latency_s)
    _judge_share("the coefficient of variation is {}", cov, MAX_COV, MAX_USABLE_COV, reasons)
    if change is None:
        reasons.unknown.append("not checked: drift (fewer than three samples)")
    elif abs(change) > MAX_DRIFT:
        way = "above" if change > 0 else "below"
        limit = f"at most {_percent(MAX_DRIFT)}"
        reasons.soft.append(f"the last third's median is {_percent(abs(change))} {way} the first third's ({limit})")


def _judge_contention(facts: RunFacts, reasons: _Reasons) -> None:
    """Judge how long the measured threads waited for a CPU.

    Where the kernel does not count that, the CPU time of other processes is judged by the same limits.
    """
    limits = MAX_CONTENTION, MAX_USABLE_CONTENTION
    if (waited := facts.readings.get("cpu_wait_share")) is not None:
        _judge_share("a measuring thread waited for a CPU in {} of the window", waited, *limits, reasons)
    elif (others := facts.readings.get("other_cpu_share")) is not None:
        _judge_share("other processes took {} of all CPU time in the window", others, *limits, reasons)
    else:
        reasons.unknown.append("not checked: contention for the CPU (the agent did not read it)")


def _judge_share(sentence: str, share: float, soft: float, hard: float, reasons: _Reasons) -> None:
    """Add the sentence if the share exceeds a limit."""
    if share > soft:
        broken, limit = (reasons.hard, hard) if share > hard else (reasons.soft, soft)
        broken.append(f"{sentence.format(_percent(share))} (at most {_percent(limit)})")


def _judge_clocks(facts: RunFacts, reasons: _Reasons) -> None:
    state = facts.conditions.get("clocks", "unverifiable")
    if facts.clocks_asked and state != "locked":
        reasons.hard.append(f"locked clocks were asked for, and the clocks are {state}")
    elif facts.clocks_asked and "gpu" not in _checked_clocks(facts):
        reasons.hard.append("locked clocks were asked for, and the GPU's clock was not read together with its target")
    for domain, low, sentence in _clocks_off(facts):
        if facts.clocks_asked and domain != "cpu":
            if not (low and state == "locked"):  # else it counts as throttled
                reasons.hard.append(f"the lock did not hold: {sentence}")
        elif sentence not in reasons.hard:
            reasons.soft.append(sentence)


def _clocks_off(facts: RunFacts) -> list[tuple[str, bool, str]]:
    """Return the clocks off their target in over 1 % of readings.

    Each is (domain, whether it was too low, sentence).
    """
    clocks_off = []
    for name, domain, target_hz in _clock_series(facts):
        values = facts.measured(name)
        low = sum(value < target_hz * (1 - CLOCK_TOLERANCE) for value in values) / len(values)
        high = sum(value > target_hz * (1 + CLOCK_TOLERANCE) for value in values) / len(values)
        if low + high > 1 - MIN_CLOCK_SHARE:
            # 1 % of a locked clock's readings may be stray. More of them below the target mean that the clock fell.
            fell = low > 1 - MIN_CLOCK_SHARE
            where = f"below {target_hz / 1e6:.0f} MHz" if fell else f"off {target_hz / 1e6:.0f} MHz"
            share = low if fell else low + high
            label = name.removeprefix("clock_").removesuffix("_hz").upper()
            clocks_off.append((domain, fell, f"the {label} clock was {where} in {_percent(share)} of its readings"))
    return clocks_off


def _clock_series(facts: RunFacts) -> list[tuple[str, str, float]]:
    """Return each clock with readings in the window and a target.

    Each is (series, domain, target in hertz).
    """
    clocks = []
    for name in sorted(facts.series):
        matched = _CLOCK.fullmatch(name)
        target_hz = facts.target_hz(matched[1]) if matched else None
        if matched and target_hz is not None and facts.measured(name):
            clocks.append((name, matched[1], target_hz))
    return clocks


def _checked_clocks(facts: RunFacts) -> set[str]:
    return {domain for _, domain, _ in _clock_series(facts)}


def _judge_observer(facts: RunFacts, reasons: _Reasons) -> None:
    share = facts.sampler_core_share
    if share is None:
        reasons.unknown.append("not checked: what the sampler cost")
    elif share >= MAX_SAMPLER_SHARE:
        reasons.soft.append(f"the sampler took {_percent(share)} of a core (less than {_percent(MAX_SAMPLER_SHARE)})")


def _name_unknown(facts: RunFacts, reasons: _Reasons) -> None:
    """Add the rules that could not be checked.

    Missing readings break no rule.
    """
    if not any(facts.measured(zone) for zone in hot_zones(facts.series)):
        reasons.unknown.append("not checked: temperature (no reading of the GPU or a CPU)")
    if not facts.measured("throttle_bits"):
        reasons.unknown.append("not checked: the device's own throttle reasons (none were read)")
    for finding in facts.findings:
        if finding.check == "gpu_processes" and finding.severity == "info":
            reasons.unknown.append(f"not checked: other processes on the GPU ({finding.message})")
    if not _checked_clocks(facts):
        reasons.unknown.append("not checked: clocks (no target, or no reading)")


def _union(values: Iterable[float]) -> int:
    bits = 0
    for value in values:
        bits |= int(value)
    return bits


def _zone(name: str) -> str:
    return name.removeprefix("temperature_").removesuffix("_c")


def _percent(share: float) -> str:
    return f"{share * 100:.3g} %"
