"""How sure a run is: A, B or INVALID, with the reasons as sentences."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from math import fsum

from efficientquant_controller.analysis.facts import MEASURE, RunFacts
from efficientquant_controller.analysis.statistics import STATISTICS_VERSION, drift, summarize
from efficientquant_controller.analysis.telemetry import hot_zones

MAX_COV = 0.025
MAX_DRIFT = 0.02
CLOCK_TOLERANCE = 0.01
MIN_CLOCK_SHARE = 0.99
MAX_SAMPLER_SHARE = 0.01
HOT_C = 85.0
# NVML's reasons for a clock below what was asked for; the others (idle, an application's or the display's setting, a
# group's slowest member) are no throttling. Names and bits: nvmlClocksEventReasons in nvml.h.
THROTTLE_BITS = {
    0x04: "software power cap",
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}
_CLOCK = re.compile(r"clock_(gpu|emc|cpu)\d*_hz")


class Grade(StrEnum):
    """What a run's numbers are worth."""

    A = "A"  # every rule that could be checked holds
    B = "B"  # soft rules are broken, each of them named
    INVALID = "INVALID"  # the numbers are not those of what was asked for


@dataclass(frozen=True)
class Verdict:
    """A grade with what led to it; what could not be checked stands last, as "not checked: …"."""

    grade: Grade
    reasons: tuple[str, ...]
    statistics_version: int = STATISTICS_VERSION


@dataclass
class _Found:
    hard: list[str] = field(default_factory=list)
    soft: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def judge(facts: RunFacts) -> Verdict:
    """Grade a run that succeeded by the rules of docs/measurement.md.

    Any number of broken soft rules makes a B, since they are not independent: one busy neighbour breaks spread, drift
    and warm-up together, and counting them would count the same thing thrice. INVALID is kept for numbers that belong
    to another question: throttled, shared, at clocks nobody can vouch for, or too few.
    """
    found = _Found()
    _judge_samples(facts, found)
    _judge_steadiness(facts, found)
    found.hard += throttling(facts)
    _judge_clocks(facts, found)
    _judge_observer(facts, found)
    found.hard += [one.message for one in facts.findings if one.severity == "invalid"]
    found.soft += [one.message for one in facts.findings if one.severity == "soft"]
    _name_unknown(facts, found)
    grade = Grade.INVALID if found.hard else Grade.B if found.soft else Grade.A
    return Verdict(grade, (*dict.fromkeys([*found.hard, *found.soft, *found.unknown]),))


def throttling(facts: RunFacts) -> list[str]:
    """Say what held the device back in the measure window: its own word, its heat, or a locked clock that fell."""
    found = []
    seen = _union(facts.measured("throttle_bits"))
    if named := [name for bit, name in THROTTLE_BITS.items() if seen & bit]:
        found.append(f"throttled: {', '.join(named)}")
    for zone in hot_zones(facts.series):
        hottest_c = max(facts.measured(zone), default=0.0)
        if hottest_c >= HOT_C:
            found.append(f"{_zone(zone)} reached {hottest_c:.1f} °C ({HOT_C:.0f} °C is too hot to measure)")
    if facts.conditions.get("clocks") == "locked":
        found += [sentence for domain, low, sentence in _clocks_off(facts) if low and domain != "cpu"]
    return found


def was_throttled(facts: RunFacts) -> bool | None:
    """Whether the device was held back; None where nothing that would tell was read."""
    told = facts.measured("throttle_bits") or any(facts.measured(zone) for zone in hot_zones(facts.series))
    reasons = throttling(facts)
    return bool(reasons) if told or reasons or _checked_clocks(facts) else None


def _judge_samples(facts: RunFacts, found: _Found) -> None:
    count, elapsed_s = len(facts.latency_s), _elapsed_s(facts)
    if count < max(facts.required_count, 1):
        found.hard.append(f"too few samples: {count} of {max(facts.required_count, 1)}")
    if elapsed_s < facts.required_time_s:
        found.hard.append(f"measured for too short: {elapsed_s:.2f} of {facts.required_time_s:g} s")


def _elapsed_s(facts: RunFacts) -> float:
    """As the timed loop counts, whose sum is rounded otherwise; or the window, which holds what lies between too."""
    start_s, end_s = facts.windows.get(MEASURE, (0.0, 0.0))
    return max(end_s - start_s, fsum(facts.latency_s) * (1 + 1e-9))


def _judge_steadiness(facts: RunFacts, found: _Found) -> None:
    if not facts.warmup_converged:
        found.soft.append("the warm-up ended by its time limit, before three windows agreed within 5 %")
    if not facts.latency_s:
        return
    cov, change = summarize(facts.latency_s).cov, drift(facts.latency_s)
    if cov > MAX_COV:
        found.soft.append(f"the coefficient of variation is {_percent(cov)} (at most {_percent(MAX_COV)})")
    if change is None:
        found.unknown.append("not checked: drift (fewer than three samples)")
    elif abs(change) > MAX_DRIFT:
        way = "above" if change > 0 else "below"
        limit = f"at most {_percent(MAX_DRIFT)}"
        found.soft.append(f"the last third's median is {_percent(abs(change))} {way} the first third's ({limit})")


def _judge_clocks(facts: RunFacts, found: _Found) -> None:
    state = facts.conditions.get("clocks", "unverifiable")
    if facts.clocks_asked and state != "locked":
        found.hard.append(f"locked clocks were asked for, and the clocks are {state}")
    elif facts.clocks_asked and "gpu" not in _checked_clocks(facts):
        found.hard.append("locked clocks were asked for, and the GPU's clock was not read beside its target")
    hard = set(found.hard)
    found.soft += [sentence for _, _, sentence in _clocks_off(facts) if sentence not in hard]


def _clocks_off(facts: RunFacts) -> list[tuple[str, bool, str]]:
    """Domain, whether it is too low, and a sentence, for clocks off their target in more than 1 % of the readings."""
    found = []
    for name, domain, target_hz in _clock_series(facts):
        values = facts.measured(name)
        low = sum(value < target_hz * (1 - CLOCK_TOLERANCE) for value in values) / len(values)
        high = sum(value > target_hz * (1 + CLOCK_TOLERANCE) for value in values) / len(values)
        if low + high > 1 - MIN_CLOCK_SHARE:
            # Of a locked clock's readings 1 % may be stray; more below the target are a clock that fell.
            fell = low > 1 - MIN_CLOCK_SHARE
            where = f"below {target_hz / 1e6:.0f} MHz" if fell else f"off {target_hz / 1e6:.0f} MHz"
            share = low if fell else low + high
            label = name.removeprefix("clock_").removesuffix("_hz").upper()
            found.append((domain, fell, f"the {label} clock was {where} in {_percent(share)} of its readings"))
    return found


def _clock_series(facts: RunFacts) -> list[tuple[str, str, float]]:
    """Each clock that was read in the window and has a target: its series, its domain, the target in hertz."""
    found = []
    for name in sorted(facts.series):
        matched = _CLOCK.fullmatch(name)
        target_hz = facts.target_hz(matched[1]) if matched else None
        if matched and target_hz is not None and facts.measured(name):
            found.append((name, matched[1], target_hz))
    return found


def _checked_clocks(facts: RunFacts) -> set[str]:
    return {domain for _, domain, _ in _clock_series(facts)}


def _judge_observer(facts: RunFacts, found: _Found) -> None:
    share = facts.sampler_core_share
    if share is None:
        found.unknown.append("not checked: what the sampler cost")
    elif share >= MAX_SAMPLER_SHARE:
        found.soft.append(f"the sampler took {_percent(share)} of a core (less than {_percent(MAX_SAMPLER_SHARE)})")


def _name_unknown(facts: RunFacts, found: _Found) -> None:
    """Nobody asked for what could not be read, so it breaks no rule; that it was not checked is said."""
    if not any(facts.measured(zone) for zone in hot_zones(facts.series)):
        found.unknown.append("not checked: temperature (no reading of the GPU or a CPU)")
    if not facts.measured("throttle_bits"):
        found.unknown.append("not checked: the device's own throttle reasons (none were read)")
    for finding in facts.findings:
        if finding.check == "gpu_processes" and finding.severity == "info":
            found.unknown.append(f"not checked: other processes on the GPU ({finding.message})")
    if not _checked_clocks(facts):
        found.unknown.append("not checked: clocks (no target, or no reading)")


def _union(values: Iterable[float]) -> int:
    bits = 0
    for value in values:
        bits |= int(value)
    return bits


def _zone(name: str) -> str:
    return name.removeprefix("temperature_").removesuffix("_c")


def _percent(share: float) -> str:
    return f"{share * 100:.3g} %"
