"""Comparison of two jobs: an answer with its interval, or a refusal."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import median
from typing import Any

from efficientquant_controller.analysis.bootstrap import MIN_SAMPLES, bootstrap_interval
from efficientquant_controller.analysis.comparison import (
    MIN_EFFECT,
    REFUSED,
    Answer,
    Comparison,
    answer_within,
    compare,
)
from efficientquant_controller.analysis.guard import guard
from efficientquant_controller.analysis.metrics import Metric, Row, Side
from efficientquant_controller.analysis.statistics import STATISTICS_VERSION, percentile
from efficientquant_controller.analysis.verdict import Grade

BY_REPEATS = "Mann-Whitney over repeats"
BY_SAMPLES = "block bootstrap of raw samples"
_OF_SAMPLES = "from raw samples of {processes}: not a statement about repeats"


@dataclass(frozen=True)
class JobComparison:
    """The comparison of job B with job A in one metric.

    `ratio` is A's value over B's. Less is better, so above 1 B is better. `answer` is one of the metric's two words,
    "same", "not enough data", or REFUSED, which comes without numbers. `low` and `high` limit the ratio with 90 %
    confidence, by `method`. Values are the medians of the repeats, in `unit`. `samples_*` count the raw samples, where
    they were used. The `refusals` forbid the comparison. A forced comparison has them among its `footnotes` instead.
    """

    metric: str
    unit: str
    a: str
    b: str
    answer: str
    sentence: str
    value_a: float | None = None
    value_b: float | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    method: str = ""
    repeats_a: int = 0
    repeats_b: int = 0
    samples_a: int = 0
    samples_b: int = 0
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
class _Values:
    """The values and raw samples of one side's repeats."""

    values: list[float]
    samples: list[Sequence[float]]


@dataclass(frozen=True)
class _Options:
    """The metric and the options of a comparison."""

    metric: Metric
    force: bool
    seed: int
    min_effect: float


def compare_jobs(
    a: Side, b: Side, metric: Metric, force: bool = False, seed: int = 0, min_effect: float = MIN_EFFECT
) -> JobComparison:
    """Compare job B with job A, or refuse and name the differences.

    `force` turns refusals into footnotes and uses INVALID repeats, which are otherwise left out. The repeats are
    compared if they are enough for an interval, such as three against three. Otherwise the raw latencies are resampled
    in blocks. Such an answer describes only these processes, as its first footnote says. `min_effect` is the least that
    counts: 0.05 is 5 %.
    """
    options = _Options(metric, force, seed, min_effect)
    notes = _Notes()
    for side, label in ((a, a.label or "A"), (b, b.label or "B")):
        _note_verdicts(label, side, force, notes)
    differences = guard(_used(a, force), _used(b, force), metric, min_effect)
    notes.refusals += differences.refusals
    notes.footnotes += differences.footnotes
    if notes.refusals and not force:
        sentence = f"not comparable in {metric.label}: {'; '.join(notes.refusals)}"
        return _result(options, a, b, REFUSED, sentence, refusals=notes.refusals, footnotes=notes.footnotes)
    return _compared(a, b, options, notes)


def _used(side: Side, force: bool) -> Side:
    """Return a side without its INVALID repeats and without samples.

    With `force`, or without any other repeats, the INVALID ones stay. The guard reads no samples, only conditions.
    """
    valid = [row for row in side.repeats if force or row.get("verdict") != Grade.INVALID]
    return replace(side, repeats=valid or side.repeats, samples=())


def _note_verdicts(label: str, side: Side, force: bool, notes: _Notes) -> None:
    invalid = [row for row in side.repeats if row.get("verdict") == Grade.INVALID]
    if not side.repeats:
        notes.refusals.append(f"no repeat of {label} has succeeded")
    if invalid:
        sentence = f"{_of(invalid, side)} repeats of {label} INVALID ({_first_reason(invalid)})"
        if len(invalid) == len(side.repeats) and not force:
            notes.refusals.append(sentence)
        else:
            notes.footnotes.append(f"{sentence}, {'used all the same' if force else 'left out'}")
    notes.footnotes += grade_notes(side, label)


def grade_notes(side: Side, label: str) -> list[str]:
    """Return a sentence about a side's repeats of grade B, if any."""
    doubtful = [row for row in side.repeats if row.get("verdict") == Grade.B]
    return [f"{_of(doubtful, side)} repeats of {label} graded B ({_first_reason(doubtful)})"] if doubtful else []


def _of(rows: Sequence[Row], side: Side) -> str:
    return f"{len(rows)} of {len(side.repeats)}"


def _first_reason(rows: Sequence[Row]) -> str:
    reasons = [reason for row in rows for reason in row.get("verdict_reasons") or ()]
    return reasons[0] if reasons else "no reason recorded"


def _compared(a: Side, b: Side, options: _Options, notes: _Notes) -> JobComparison:
    metric = options.metric
    theirs, own = _known(a, options), _known(b, options)
    facts = {"repeats_a": len(theirs.values), "repeats_b": len(own.values)}
    footnotes = [*notes.refusals, *notes.footnotes]
    if lacking := [label for label, side in (("A", theirs), ("B", own)) if not side.values]:
        sentence = f"not enough data: {metric.label} is not known for {' and '.join(lacking)}"
        return _result(options, a, b, Answer.NOT_ENOUGH_DATA, sentence, footnotes=footnotes, **facts)
    method = BY_REPEATS
    compared = compare(theirs.values, own.values, options.min_effect)
    if compared.low is None and (by_samples := _by_samples(theirs, own, options)) is not None:
        compared, method = by_samples, BY_SAMPLES
        counts = [sum(map(len, side.samples)) for side in (theirs, own)]
        facts |= {"samples_a": counts[0], "samples_b": counts[1]}
        footnotes.insert(0, _OF_SAMPLES.format(processes=_processes(len(theirs.samples), len(own.samples))))
    answer = {Answer.BETTER: metric.better, Answer.WORSE: metric.worse}.get(compared.answer, compared.answer.value)
    lack = _lack(theirs, own, metric) if compared.ratio is not None and compared.low is None else ""
    sentence = _sentence(compared, answer, options) + lack
    numbers = {"ratio": compared.ratio, "low": compared.low, "high": compared.high}
    numbers |= {"value_a": median(theirs.values), "value_b": median(own.values)}
    used = method if compared.low is not None else ""
    return _result(options, a, b, answer, sentence, method=used, footnotes=footnotes, **facts, **numbers)


def _processes(of_a: int, of_b: int) -> str:
    return "one process each" if of_a == of_b == 1 else f"{of_a} and {of_b} processes"


def _known(side: Side, options: _Options) -> _Values:
    """Return the repeats to compare, with their raw samples.

    Their values are above 0, since everything takes time, memory and energy. INVALID repeats only count with `force`.
    """
    samples = side.samples if len(side.samples) == len(side.repeats) else [()] * len(side.repeats)
    kept = [
        (row[options.metric.column], raw)
        for row, raw in zip(side.repeats, samples, strict=True)
        if (row.get(options.metric.column) or 0) > 0 and (options.force or row.get("verdict") != Grade.INVALID)
    ]
    return _Values([value for value, _ in kept], [raw for _, raw in kept])


def _by_samples(theirs: _Values, own: _Values, options: _Options) -> Comparison | None:
    """Compare raw latencies.

    Returns None when the metric uses none, or there are too few.
    """
    percent = options.metric.percent
    if percent is None:
        return None
    limits = bootstrap_interval(theirs.samples, own.samples, percent, options.seed)
    if limits is None:
        return None
    sides = ([percentile(sorted(raw), percent) for raw in side.samples] for side in (theirs, own))
    ratio = median(next(sides)) / median(next(sides))
    low, high = min(limits[0], ratio), max(limits[1], ratio)
    return Comparison(answer_within(ratio, low, high, options.min_effect), ratio, low, high)


def _sentence(comparison: Comparison, answer: str, options: _Options) -> str:
    metric = options.metric
    if comparison.ratio is None:
        return f"not enough data in {metric.label}: the ratio of A to B is beyond what can be computed"
    ratio, low, high = comparison.ratio, comparison.low, comparison.high
    if comparison.answer is Answer.SAME:
        least = f"{options.min_effect * 100:.3g} %"
        return f"A and B are the same in {metric.label}, within {least}: A over B is {ratio:.2f} ({_limits(low, high)})"
    if comparison.answer is Answer.NOT_ENOUGH_DATA:
        return f"not enough data in {metric.label}: A over B is {ratio:.2f} ({_limits(low, high)})"
    if comparison.answer is Answer.WORSE and low and high:
        ratio, low, high = 1 / ratio, 1 / high, 1 / low
    return f"B {metric.verb} {ratio:.2f}× {answer} than A in {metric.label} ({_limits(low, high)})"


def _limits(low: float | None, high: float | None) -> str:
    return "no interval" if low is None or high is None else f"90 % interval {low:.2f}–{high:.2f}"


def _lack(theirs: _Values, own: _Values, metric: Metric) -> str:
    """Return a clause on how many repeats or samples an interval needs."""
    samples = "" if metric.percent is None else f", or {MIN_SAMPLES} raw samples of every one"
    return f"; {len(theirs.values)} and {len(own.values)} repeats allow none, three each do{samples}"


def _result(options: _Options, a: Side, b: Side, answer: str, sentence: str, **facts: Any) -> JobComparison:
    for name in ("refusals", "footnotes"):
        facts[name] = tuple(facts.get(name, ()))
    metric = options.metric
    facts["min_effect"] = options.min_effect
    return JobComparison(metric.name, metric.unit, a.name, b.name, str(answer), sentence, **facts)
