"""Comparison of two jobs that were measured in different campaigns.

The repeats of one campaign share that time's state of the device. An interval over them does not contain what
campaigns differ by, so other campaigns of the same jobs have to show it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import exp, fsum, log, sqrt
from statistics import NormalDist, median, variance

from efficientquant_controller.analysis.comparison import MIN_EFFECT, Answer, Comparison, answer_within
from efficientquant_controller.analysis.guard import is_same_job, subjects_of
from efficientquant_controller.analysis.metrics import Metric, Row, Side
from efficientquant_controller.analysis.statistics import percentile
from efficientquant_controller.analysis.verdict import MAX_CONTENTION, Grade

# How many other steady campaigns of each job must be stored.
MIN_CAMPAIGNS = 5
# Campaigns that lie close together share a state too: those of each job span this share of the time between the two.
MIN_SPAN = 0.5
MIN_STEADY_REPEATS = 3
# The share of a steady job's repeats that may be INVALID. They are left out.
MAX_INVALID = 0.1
# The middle half of a steady job's repeats lies within this share of their median.
MAX_SPREAD = 0.05
# The largest median CoV of a steady job's repeats. A run of twice this is INVALID.
MAX_COV = 0.10
# Two campaigns without a difference exceed the limit of chance this seldom, where they vary normally.
CHANCE = 0.01
_APART = "measured in different campaigns"
_RERUN = "'efficientquant compare FIRST SECOND --rerun' measures both in one campaign"
_MORE_CAMPAIGNS = "another campaign of this job adds to what is known"


@dataclass(frozen=True)
class BetweenCampaigns:
    """A comparison between campaigns, and the note about it."""

    comparison: Comparison
    note: str


def are_of_different_campaigns(first: Side, second: Side) -> bool:
    """Tell whether the repeats of two jobs were not interleaved."""
    return _campaigns(first.repeats) != _campaigns(second.repeats)


def compare_between_campaigns(
    comparison: Comparison, first: Side, second: Side, metric: Metric, min_effect: float
) -> BetweenCampaigns:
    """Widen a comparison to what campaigns of the jobs vary by.

    The answer is NOT_ENOUGH_DATA, without limits, unless both sides are steady and MIN_CAMPAIGNS other steady campaigns
    of each job were measured under its conditions, over a time comparable to that between the two.
    """
    unknown = replace(comparison, answer=Answer.NOT_ENOUGH_DATA, low=None, high=None)
    sides, is_same = (first, second), not subjects_of(first, second)
    advice = _MORE_CAMPAIGNS if is_same else _RERUN
    if unsteady := [f"{side.label} is not steady: {why}" for side in sides if (why := unsteadiness(side, metric))]:
        return BetweenCampaigns(unknown, f"{_APART}, and {', and '.join(unsteady)}; {advice}")
    campaigns = _campaigns(first.repeats) | _campaigns(second.repeats)
    others = [_others(side, metric, campaigns) for side in sides]
    known = _counted(others, is_same)
    if min(map(len, others)) < MIN_CAMPAIGNS:
        return BetweenCampaigns(unknown, f"{_APART}, with {known}, where {MIN_CAMPAIGNS} are needed; {advice}")
    apart_s = _span_s(sides)
    if min(map(_span_s, others)) < MIN_SPAN * apart_s:
        span = f"each job's have to span {_hours(MIN_SPAN * apart_s)}"
        return BetweenCampaigns(unknown, f"{_APART}, {_hours(apart_s)} apart, with {known}; {span}; {advice}")
    chance = limit_of_chance(*([_level(other, metric) for other in each] for each in others))
    compared = widened(comparison, chance, min_effect)
    note = f"{_APART}, and {known} may differ by {_percent(chance - 1)} without a cause"
    if compared.answer is Answer.NOT_ENOUGH_DATA:
        note += f"; {advice}"
    return BetweenCampaigns(compared, note)


def widened(comparison: Comparison, chance: float, min_effect: float = MIN_EFFECT) -> Comparison:
    """Return a comparison whose limits are `chance` from its ratio or farther.

    The answer is that of the new limits. Without limits there is none.
    """
    ratio = comparison.ratio
    if ratio is None or comparison.low is None or comparison.high is None:
        return replace(comparison, answer=Answer.NOT_ENOUGH_DATA)
    low, high = min(comparison.low, ratio / chance), max(comparison.high, ratio * chance)
    return Comparison(answer_within(ratio, low, high, min_effect), ratio, low, high)


def unsteadiness(side: Side, metric: Metric) -> str:
    """Return why a side is not steady, or an empty text."""
    valid = _valid(side.repeats)
    invalid = len(side.repeats) - len(valid)
    if invalid > MAX_INVALID * len(side.repeats):
        return f"{invalid} of {len(side.repeats)} repeats are INVALID"
    values = _values(side.repeats, metric)
    if len(values) < MIN_STEADY_REPEATS:
        return f"it has {len(values)} of the {MIN_STEADY_REPEATS} repeats that show it"
    spread = (percentile(values, 75) - percentile(values, 25)) / median(values)
    if spread > MAX_SPREAD:
        return f"the middle half of its repeats spans {_percent(spread)} (at most {_percent(MAX_SPREAD)})"
    cov = median(row.get("latency_cov") or 0.0 for row in valid)
    if cov > MAX_COV:
        return f"the CoV of its latencies is {_percent(cov)} (at most {_percent(MAX_COV)})"
    shares = [share for row in valid if (share := _contention(row)) is not None]
    if not shares:
        return "its agent did not read the contention for the CPU"
    if (waited := median(shares)) > MAX_CONTENTION:
        return f"other processes took the CPU for {_percent(waited)} of the time (at most {_percent(MAX_CONTENTION)})"
    return ""


def limit_of_chance(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the ratio that two campaigns without a difference seldom exceed.

    `first` and `second` are the levels of at least two campaigns of each job. The limit is the larger of the largest
    ratio between two campaigns of one job, and the prediction limit of the difference of two logarithms at CHANCE.
    """
    logarithms = [[log(level) for level in levels] for levels in (first, second)]
    widest = max(max(levels) - min(levels) for levels in logarithms)
    spread = sqrt(sum(variance(levels) for levels in logarithms))
    return exp(max(widest, spread * t_quantile(1 - CHANCE / 2, min(map(len, logarithms)) - 1)))


def t_quantile(share: float, degrees: int) -> float:
    """Return a quantile of Student's t distribution.

    It is the expansion of Abramowitz & Stegun, Handbook of Mathematical Functions, 26.7.5, with an error below 0.3 %
    from 4 degrees of freedom on.
    """
    x = NormalDist().inv_cdf(share)
    terms = (
        x,
        (x**3 + x) / 4,
        (5 * x**5 + 16 * x**3 + 3 * x) / 96,
        (3 * x**7 + 19 * x**5 + 17 * x**3 - 15 * x) / 384,
        (79 * x**9 + 776 * x**7 + 1482 * x**5 - 1920 * x**3 - 945 * x) / 92160,
    )
    return fsum(term / degrees**power for power, term in enumerate(terms))


def _others(side: Side, metric: Metric, without: set[str]) -> list[Side]:
    """Return the other steady campaigns of a side's job."""
    others = [replace(side, repeats=rows) for rows in side.others if not _campaigns(rows) & without]
    return [other for other in others if not unsteadiness(other, metric) and is_same_job(side, other, metric)]


def _level(side: Side, metric: Metric) -> float:
    return median(_values(side.repeats, metric))


def _span_s(sides: Sequence[Side]) -> float:
    """Return the time between the first and the last of some campaigns."""
    times = [float(side.repeats[0]["reported_unix_s"]) for side in sides]
    return max(times) - min(times)


def _contention(row: Row) -> float | None:
    return next((row[name] for name in ("cpu_wait_share", "other_cpu_share") if row.get(name) is not None), None)


def _valid(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row.get("verdict") != Grade.INVALID]


def _values(rows: Sequence[Row], metric: Metric) -> list[float]:
    return sorted(row[metric.column] for row in _valid(rows) if (row.get(metric.column) or 0) > 0)


def _campaigns(rows: Sequence[Row]) -> set[str]:
    return {str(row.get("campaign_id") or "") for row in rows}


def _counted(others: Sequence[Sequence[Side]], is_same: bool) -> str:
    if is_same:
        return f"{len(others[0])} other steady campaigns of this job"
    return f"{len(others[0])} and {len(others[1])} other steady campaigns of the two jobs"


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.3g} h"


def _percent(share: float) -> str:
    return f"{share * 100:.3g} %"
