"""Comparison of two jobs: an answer with its interval, or a refusal."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import median
from typing import Any

from efficientquant_controller.analysis.between import are_of_different_campaigns, compare_between_campaigns
from efficientquant_controller.analysis.comparison import MIN_EFFECT, REFUSED, Answer, Comparison, compare
from efficientquant_controller.analysis.guard import guard
from efficientquant_controller.analysis.metrics import FIRST, SECOND, Metric, Row, Side
from efficientquant_controller.analysis.statistics import STATISTICS_VERSION
from efficientquant_controller.analysis.verdict import Grade

BY_REPEATS = "Mann-Whitney over repeats"
BY_CAMPAIGNS = "Mann-Whitney over repeats and what campaigns differ by"


@dataclass(frozen=True)
class JobComparison:
    """The comparison of the second job with the first in one metric.

    `ratio` is the first job's value over the second's. Less is better, so above 1 the second is better. `answer` is one
    of the metric's two words, "same", "not enough data", or REFUSED, which comes without numbers. `low` and `high`
    limit the ratio with 90 % confidence, by `method`. Values are the medians of the repeats, in `unit`. The `refusals`
    forbid the comparison. A forced comparison has them among its `footnotes` instead.
    """

    metric: str
    unit: str
    first: str
    second: str
    answer: str
    sentence: str
    first_value: float | None = None
    second_value: float | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    method: str = ""
    first_repeats: int = 0
    second_repeats: int = 0
    refusals: tuple[str, ...] = ()
    footnotes: tuple[str, ...] = ()
    min_effect: float = MIN_EFFECT
    statistics_version: int = STATISTICS_VERSION

    @property
    def refused(self) -> bool:
        """Whether the guard refused the comparison."""
        return self.answer == REFUSED

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as JSON values."""
        return {**asdict(self), "refusals": list(self.refusals), "footnotes": list(self.footnotes)}


@dataclass
class _Notes:
    refusals: list[str] = field(default_factory=list)
    footnotes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Options:
    """The metric and the options of a comparison."""

    metric: Metric
    force: bool
    min_effect: float


def compare_jobs(
    first: Side, second: Side, metric: Metric, force: bool = False, min_effect: float = MIN_EFFECT
) -> JobComparison:
    """Compare the second job with the first, or refuse.

    A refusal names the differences. `force` turns refusals into footnotes and uses INVALID repeats, which are otherwise
    left out. Jobs of different campaigns have an answer only by the rules of `compare_between_campaigns`. `min_effect`
    is the least that counts: 0.05 is 5 %.
    """
    options = _Options(metric, force, min_effect)
    first, second = replace(first, label=first.label or FIRST), replace(second, label=second.label or SECOND)
    notes = _Notes()
    for side in (first, second):
        _note_verdicts(side, force, notes)
    differences = guard(_used(first, force), _used(second, force), metric, min_effect)
    notes.refusals += differences.refusals
    notes.footnotes += differences.footnotes
    if notes.refusals and not force:
        sentence = f"not comparable in {metric.label}: {'; '.join(notes.refusals)}"
        return _result(options, first, second, REFUSED, sentence, refusals=notes.refusals, footnotes=notes.footnotes)
    return _compared(first, second, options, notes)


def _used(side: Side, force: bool) -> Side:
    """Return a side without its INVALID repeats.

    With `force`, or without any other repeats, the INVALID ones stay.
    """
    valid = [row for row in side.repeats if force or row.get("verdict") != Grade.INVALID]
    return replace(side, repeats=valid or side.repeats)


def _note_verdicts(side: Side, force: bool, notes: _Notes) -> None:
    invalid = [row for row in side.repeats if row.get("verdict") == Grade.INVALID]
    if not side.repeats:
        notes.refusals.append(f"no repeat of {side.label} has succeeded")
    if invalid:
        sentence = f"{_of(invalid, side)} repeats of {side.label} INVALID ({_first_reason(invalid)})"
        if len(invalid) == len(side.repeats) and not force:
            notes.refusals.append(sentence)
        else:
            notes.footnotes.append(f"{sentence}, {'used all the same' if force else 'left out'}")
    notes.footnotes += grade_notes(side)


def grade_notes(side: Side) -> list[str]:
    """Return a sentence about a side's repeats of grade B, if any."""
    doubtful = [row for row in side.repeats if row.get("verdict") == Grade.B]
    return [f"{_of(doubtful, side)} repeats of {side.label} graded B ({_first_reason(doubtful)})"] if doubtful else []


def _of(rows: Sequence[Row], side: Side) -> str:
    return f"{len(rows)} of {len(side.repeats)}"


def _first_reason(rows: Sequence[Row]) -> str:
    reasons = [reason for row in rows for reason in row.get("verdict_reasons") or ()]
    return reasons[0] if reasons else "no reason recorded"


def _compared(first: Side, second: Side, options: _Options, notes: _Notes) -> JobComparison:
    metric = options.metric
    theirs, own = _values(first, options), _values(second, options)
    facts: dict[str, Any] = {"first_repeats": len(theirs), "second_repeats": len(own)}
    footnotes = [*notes.refusals, *notes.footnotes]
    if lacking := [side.label for side, values in ((first, theirs), (second, own)) if not values]:
        sentence = f"not enough data: {metric.label} is not known for {' and '.join(lacking)}"
        return _result(options, first, second, Answer.NOT_ENOUGH_DATA, sentence, footnotes=footnotes, **facts)
    compared, method = compare(theirs, own, options.min_effect), BY_REPEATS
    lack = _lack(theirs, own) if compared.ratio is not None and compared.low is None else ""
    if are_of_different_campaigns(first, second):
        between = compare_between_campaigns(compared, first, second, metric, options.min_effect)
        compared, method = between.comparison, BY_CAMPAIGNS
        footnotes.insert(0, between.note)
    answer = {Answer.BETTER: metric.better, Answer.WORSE: metric.worse}.get(compared.answer, compared.answer.value)
    facts |= {"ratio": compared.ratio, "low": compared.low, "high": compared.high}
    facts |= {"first_value": median(theirs), "second_value": median(own)}
    facts |= {"method": method if compared.low is not None else "", "footnotes": footnotes}
    return _result(options, first, second, answer, _sentence(compared, answer, options) + lack, **facts)


def _values(side: Side, options: _Options) -> list[float]:
    """Return the values of the repeats to compare.

    They are above 0, since everything takes time, memory and energy. INVALID repeats only count with `force`.
    """
    return [
        row[options.metric.column]
        for row in side.repeats
        if (row.get(options.metric.column) or 0) > 0 and (options.force or row.get("verdict") != Grade.INVALID)
    ]


def _sentence(comparison: Comparison, answer: str, options: _Options) -> str:
    metric = options.metric
    if comparison.ratio is None:
        return f"not enough data in {metric.label}: the ratio of first to second is beyond what can be computed"
    ratio, low, high = comparison.ratio, comparison.low, comparison.high
    if comparison.answer is Answer.SAME:
        least = f"{options.min_effect * 100:.3g} %"
        same = f"the first and the second are the same in {metric.label}, within {least}"
        return f"{same}: first over second is {ratio:.2f} ({_limits(low, high)})"
    if comparison.answer is Answer.NOT_ENOUGH_DATA:
        return f"not enough data in {metric.label}: first over second is {ratio:.2f} ({_limits(low, high)})"
    if comparison.answer is Answer.WORSE and low and high:
        ratio, low, high = 1 / ratio, 1 / high, 1 / low
    return f"the second {metric.verb} {ratio:.2f}× {answer} than the first in {metric.label} ({_limits(low, high)})"


def _limits(low: float | None, high: float | None) -> str:
    return "no interval" if low is None or high is None else f"90 % interval {low:.2f}–{high:.2f}"


def _lack(theirs: Sequence[float], own: Sequence[float]) -> str:
    """Return a clause on how many repeats an interval needs."""
    return f"; {len(theirs)} and {len(own)} repeats allow none, three each do"


def _result(options: _Options, first: Side, second: Side, answer: str, sentence: str, **facts: Any) -> JobComparison:
    for name in ("refusals", "footnotes"):
        facts[name] = tuple(facts.get(name, ()))
    metric = options.metric
    facts["min_effect"] = options.min_effect
    return JobComparison(metric.name, metric.unit, first.name, second.name, str(answer), sentence, **facts)
