"""Tests of the comparison of two jobs by repeats, or with a refusal."""

import json
from typing import Any

import pytest
from efficientquant_controller.analysis.comparison import REFUSED
from efficientquant_controller.analysis.job_comparison import BY_REPEATS, compare_jobs
from efficientquant_controller.analysis.metrics import METRICS, Side

LATENCY = METRICS["latency"]


def job(name: str, *values: float, column: str = "latency_p50_s", **changes: Any) -> Side:
    """Return a job with a repeat for each value."""
    base = {"job_id": name, "recipe": name, "device": "nano", "model": "m", "runtime_version": "8.2", **changes}
    return Side(name, [{**base, column: value} for value in values])


@pytest.mark.parametrize(
    ("own", "answer", "sentence"),
    [
        (
            [10.0, 10.5, 11.0],
            "faster",
            "the second is 2.00× faster than the first in median latency (90 % interval 1.82–2.20)",
        ),
        (
            [40.0, 42.0, 44.0],
            "slower",
            "the second is 2.00× slower than the first in median latency (90 % interval 1.82–2.20)",
        ),
        (
            [20.9, 21.0, 21.1],
            "not enough data",
            "not enough data in median latency: first over second is 1.00 (90 % interval 0.95–1.05)",
        ),
    ],
)
def test_repeats_are_the_unit(own: list[float], answer: str, sentence: str) -> None:
    """Three repeats against three are compared by Mann and Whitney's test."""
    comparison = compare_jobs(job("a", 20.0, 21.0, 22.0), job("b", *own), LATENCY)

    assert (comparison.answer, comparison.sentence, comparison.method) == (answer, sentence, BY_REPEATS)
    assert (comparison.first_repeats, comparison.second_repeats, comparison.footnotes) == (3, 3, ())
    assert (comparison.first_value, comparison.second_value) == (21.0, own[1])


def test_the_same() -> None:
    """An interval within 5 % gives the answer "same"."""
    comparison = compare_jobs(job("a", 20.0, 20.1, 20.2), job("b", 20.0, 20.1, 20.3), LATENCY)

    assert (comparison.answer, comparison.ratio) == ("same", 1.0)
    assert comparison.sentence == (
        "the first and the second are the same in median latency, within 5 %: first over second is 1.00 "
        "(90 % interval 0.99–1.01)"
    )


@pytest.mark.parametrize("counts", [(1, 1), (1, 2), (2, 2), (1, 30), (30, 1)])
def test_too_few_repeats(counts: tuple[int, int]) -> None:
    """Without enough repeats the sentence has the ratio and what an interval needs, however fast the second is."""
    theirs, own = counts
    comparison = compare_jobs(job("a", *[20.0] * theirs), job("b", *[10.0] * own), LATENCY)

    assert (comparison.answer, comparison.ratio, comparison.low, comparison.method) == (
        "not enough data",
        2.0,
        None,
        "",
    )
    assert comparison.sentence == (
        "not enough data in median latency: first over second is 2.00 (no interval)"
        f"; {theirs} and {own} repeats allow none, three each do"
    )


def test_a_ratio_beyond_a_float_has_no_number() -> None:
    """A ratio that cannot be computed is reported as such."""
    comparison = compare_jobs(job("a", *[1e300] * 3), job("b", *[1e-300] * 3), LATENCY)

    assert (comparison.answer, comparison.ratio) == ("not enough data", None)
    assert comparison.sentence == (
        "not enough data in median latency: the ratio of first to second is beyond what can be computed"
    )


def test_what_was_not_measured() -> None:
    """A metric without values is reported with the sides that lack it."""
    comparison = compare_jobs(job("a", 1.0, 1.0, 1.0), job("b", 1.0, 1.0, 1.0), METRICS["energy"])

    assert comparison.sentence == "not enough data: energy for each inference is not known for the first and the second"
    assert (comparison.answer, comparison.ratio, comparison.first_repeats) == ("not enough data", None, 0)


@pytest.mark.parametrize(
    ("metric", "answer", "sentence"),
    [
        ("memory", "smaller", "the second is 2.00× smaller than the first in the process's peak memory (RSS)"),
        ("energy", "less", "the second takes 2.00× less than the first in energy for each inference"),
        ("load", "faster", "the second is 2.00× faster than the first in load time"),
        ("latency-p99", "faster", "the second is 2.00× faster than the first in p99 latency"),
    ],
)
def test_words_of_a_metric(metric: str, answer: str, sentence: str) -> None:
    """Each metric has its own words in the sentence."""
    column = METRICS[metric].column
    comparison = compare_jobs(
        job("a", *[20.0] * 3, column=column), job("b", *[10.0] * 3, column=column), METRICS[metric]
    )

    assert (comparison.answer, comparison.sentence.partition(" (90")[0]) == (answer, sentence)


def test_unlike_jobs_are_refused_by_name() -> None:
    """A refusal names the difference, has no numbers, and can be written as JSON."""
    comparison = compare_jobs(job("a", *[2.0] * 3, tier="quick"), job("b", *[1.0] * 3, tier="smoke"), LATENCY)

    assert (comparison.refused, comparison.answer, comparison.ratio) == (True, REFUSED, None)
    assert comparison.refusals == ("tier: quick for the first, smoke for the second",)
    assert comparison.sentence == "not comparable in median latency: tier: quick for the first, smoke for the second"
    assert json.loads(json.dumps(comparison.to_dict()))["refusals"] == list(comparison.refusals)


def test_force_makes_a_footnote_of_it() -> None:
    """`force` gives the number and turns the refusal into a footnote."""
    comparison = compare_jobs(
        job("a", *[2.0] * 3, tier="quick"), job("b", *[1.0] * 3, tier="smoke"), LATENCY, force=True
    )

    assert (comparison.answer, comparison.ratio, comparison.refusals) == ("faster", 2.0, ())
    assert comparison.footnotes == ("tier: quick for the first, smoke for the second",)


def test_invalid_repeats_are_left_out() -> None:
    """INVALID repeats are left out, and a footnote says so."""
    b = job("b", 10.0, 10.0, 10.0, 90.0, 90.0)
    rows = [{**row, "verdict": "INVALID" if row["latency_p50_s"] > 50 else "A"} for row in b.repeats]
    b = Side("b", [{**row, "verdict_reasons": ["throttled: hardware slowdown"]} for row in rows])

    comparison = compare_jobs(job("a", 20.0, 20.0, 20.0), b, LATENCY)

    assert (comparison.answer, comparison.second_repeats, comparison.ratio) == ("faster", 3, 2.0)
    assert comparison.footnotes == ("2 of 5 repeats of the second INVALID (throttled: hardware slowdown), left out",)


def test_nothing_but_invalid_repeats_is_refused() -> None:
    """A job without a valid repeat is refused, unless `force` is set."""
    a, b = job("a", 20.0, 20.0, 20.0), job("b", 10.0, 10.0, 10.0, verdict="INVALID")

    refused, forced = compare_jobs(a, b, LATENCY), compare_jobs(a, b, LATENCY, force=True)

    assert refused.refusals == ("3 of 3 repeats of the second INVALID (no reason recorded)",)
    assert (forced.answer, forced.second_repeats) == ("faster", 3)
    assert forced.footnotes == ("3 of 3 repeats of the second INVALID (no reason recorded), used all the same",)


def test_doubtful_repeats_are_reported() -> None:
    """Repeats of grade B are compared, and a footnote has their first reason."""
    b = job("b", 10.0, 10.0, 10.0, verdict="B", verdict_reasons=["the sampler took 2 % of a core"])

    comparison = compare_jobs(job("a", 20.0, 20.0, 20.0), b, LATENCY)

    assert comparison.footnotes == ("3 of 3 repeats of the second graded B (the sampler took 2 % of a core)",)


def test_a_job_without_repeats_is_refused() -> None:
    """A job without a succeeded repeat is refused."""
    comparison = compare_jobs(job("a", 20.0), Side("b", []), LATENCY)

    assert comparison.refusals == ("no repeat of the second has succeeded",)
