"""A variant's repeats beside its twin's: how many times better, with an interval, and whether they may be compared."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from itertools import product
from math import comb
from statistics import median
from typing import Any

MIN_EFFECT = 0.05
# The chance of each limit of an interval to be wrong is at most one in this many: a 90 % interval.
ONE_IN = 20

# What must be the same in all repeats of both sides, by the name that a person reads.
CONDITIONS: Mapping[str, str] = {
    "tier": "tier",
    "weights": "weights",
    "backend": "backend",
    "runtime_version": "runtime version",
    "providers": "providers",
    "session_options": "session options",
    "agent_version": "agent version",
    "snapshot_sha256": "device snapshot",
}
# The state of the device that the agent recorded of a run, by the name that a person reads.
STATES: Mapping[str, str] = {
    "power_mode": "power mode",
    "clocks": "clocks",
    "clock_gpu_target_hz": "GPU clock in Hz",
    "clock_emc_target_hz": "memory clock in Hz",
    "clock_cpu_target_hz": "CPU clock in Hz",
}


class Answer(StrEnum):
    """What a comparison says of the variant."""

    BETTER = "better"
    WORSE = "worse"
    SAME = "same"
    NOT_ENOUGH_DATA = "not enough data"


@dataclass(frozen=True)
class Comparison:
    """`ratio` is the twin's median over the variant's own: above 1 the variant is better, since less is better.

    `low` and `high` limit the ratio with at least 90 % confidence; None where there are too few repeats for that.
    """

    answer: Answer
    ratio: float | None = None
    low: float | None = None
    high: float | None = None


def compare(twin: Sequence[float], own: Sequence[float]) -> Comparison:
    """Compare two sets of repeats of which less is better: each value is one repeat's median, above 0.

    Better or worse takes an interval that leaves out 1 and a ratio of at least 1.05 or at most 1 / 1.05; the same is
    an interval within these two; everything else is not enough data. Raises ValueError for a value that is not above 0.
    """
    if not all(value > 0 for value in (*twin, *own)):
        raise ValueError(f"a repeat's value is not above 0: {[*twin, *own]}")
    if not twin or not own:
        return Comparison(Answer.NOT_ENOUGH_DATA)
    ratio = median(twin) / median(own)
    limits = ratio_interval(twin, own)
    if limits is None:
        return Comparison(Answer.NOT_ENOUGH_DATA, ratio)
    # The interval is one for the median of all ratios; it must hold the ratio of the medians too.
    low, high = min(limits[0], ratio), max(limits[1], ratio)
    return Comparison(answer_within(ratio, low, high), ratio, low, high)


def ratio_interval(twin: Sequence[float], own: Sequence[float]) -> tuple[float, float] | None:
    """Limits of the factor between two distributions of one shape, at least 90 % confident; None with too few values.

    It is the Mann-Whitney test turned into an interval (Moses; Hollander, Wolfe & Chicken, Nonparametric Statistical
    Methods, 3rd edition, 4.3, on logarithms): of all n × m ratios, ordered, the k-th from either end, with the largest
    k that the test allows at 5 % on each side. Three values against three are the fewest that allow any: k = 1.
    """
    place = _place(len(twin), len(own))
    if place == 0:
        return None
    ratios = sorted(one / other for one, other in product(twin, own))
    return ratios[place - 1], ratios[-place]


def differences(twin: Sequence[Mapping[str, Any]], own: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say what forbids a comparison: each of CONDITIONS and STATES that is not the same in all repeats of both sides.

    Rows of a release that recorded no states have none, and are alike in them.
    """
    found = []
    for name, label in CONDITIONS.items():
        theirs, ours = _values(twin, name), _values(own, name)
        if len({*theirs, *ours}) < 2:
            continue
        if name == "snapshot_sha256":
            found.append("device snapshot: the device, or what is installed on it, changed between the runs")
        else:
            found.append(f"{label}: {' and '.join(theirs)} for fp32, {' and '.join(ours)} here")
    for name, label in STATES.items():
        theirs, ours = _states(twin, name), _states(own, name)
        if len({*theirs, *ours}) > 1:
            found.append(f"{label}: {' and '.join(theirs)} for fp32, {' and '.join(ours)} here")
    return found


def answer_within(ratio: float, low: float, high: float) -> Answer:
    """Say what a ratio and its limits answer; see `compare`."""
    least = 1 + MIN_EFFECT
    if low > 1 and ratio >= least:
        return Answer.BETTER
    if high < 1 and ratio <= 1 / least:
        return Answer.WORSE
    if low >= 1 / least and high <= least:
        return Answer.SAME
    return Answer.NOT_ENOUGH_DATA


def _values(repeats: Sequence[Mapping[str, Any]], name: str) -> list[str]:
    """The different values of a condition, in the order they came."""
    return list(dict.fromkeys(_text(one[name]) for one in repeats))


def _states(repeats: Sequence[Mapping[str, Any]], name: str) -> list[str]:
    return list(dict.fromkeys(str((one.get("conditions") or {}).get(name) or "not recorded") for one in repeats))


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={value[key]}" for key in sorted(value))
    return str(value)


@cache
def _place(n: int, m: int) -> int:
    """How many places from either end the limits lie: the largest k with P(U < k) <= 1 / ONE_IN; 0 for none."""
    total, so_far = comb(n + m, n), 0
    for place, count in enumerate(_arrangements(n, m)):
        so_far += count
        if so_far * ONE_IN > total:
            return place
    return 0


def _arrangements(n: int, m: int) -> list[int]:
    """In how many of the orders of n + m values Mann and Whitney's U is 0, 1, … n × m, where both are alike.

    They are the coefficients of the Gaussian binomial (n + m over n): the product of (1 - q^(m + i)) / (1 - q^i).
    """
    counts = [1] + [0] * (n * m)
    for i in range(1, n + 1):
        for u in range(n * m, m + i - 1, -1):
            counts[u] -= counts[u - m - i]
        for u in range(i, n * m + 1):
            counts[u] += counts[u - i]
    return counts
