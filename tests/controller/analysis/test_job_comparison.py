"""One answer for two jobs: by repeats, by raw samples, or a refusal."""

import json
from typing import Any

import pytest
from efficientquant_controller.analysis.comparison import REFUSED
from efficientquant_controller.analysis.job_comparison import BY_REPEATS, BY_SAMPLES, compare_jobs
from efficientquant_controller.analysis.metrics import METRICS, Side

LATENCY = METRICS["latency"]


def job(name: str, *values: float, column: str = "latency_p50_s", samples: Any = (), **changes: Any) -> Side:
    """A job with a repeat for each value."""
    base = {"job_id": name, "recipe": name, "device": "nano", "model": "m", "runtime_version": "8.2", **changes}
    return Side(name, [{**base, column: value} for value in values], samples)


def noisy(level_s: float, n: int = 100) -> list[float]:
    return [level_s * (1 + 0.01 * (k * 7 % 11) / 11) for k in range(n)]


@pytest.mark.parametrize(
    ("own", "answer", "sentence"),
    [
        ([10.0, 10.5, 11.0], "faster", "B is 2.00× faster than A in median latency (90 % interval 1.82–2.20)"),
        ([40.0, 42.0, 44.0], "slower", "B is 2.00× slower than A in median latency (90 % interval 1.82–2.20)"),
        (
            [20.9, 21.0, 21.1],
            "not enough data",
            "not enough data in median latency: A over B is 1.00 (90 % interval 0.95–1.05)",
        ),
    ],
)
def test_repeats_are_the_unit(own: list[float], answer: str, sentence: str) -> None:
    """Three repeats against three are compared by Mann and Whitney's test, whatever raw samples there are."""
    found = compare_jobs(job("a", 20.0, 21.0, 22.0), job("b", *own, samples=[noisy(9)] * 3), LATENCY)

    assert (found.answer, found.sentence, found.method) == (answer, sentence, BY_REPEATS)
    assert (found.repeats_a, found.repeats_b, found.samples_a, found.footnotes) == (3, 3, 0, ())
    assert (found.value_a, found.value_b) == (21.0, own[1])


def test_the_same() -> None:
    """An interval within 5 % is an answer: the same."""
    found = compare_jobs(job("a", 20.0, 20.1, 20.2), job("b", 20.0, 20.1, 20.3), LATENCY)

    assert (found.answer, found.ratio) == ("same", 1.0)
    assert found.sentence == (
        "A and B are the same in median latency, within 5 %: A over B is 1.00 (90 % interval 0.99–1.01)"
    )


def test_raw_samples_where_repeats_are_too_few() -> None:
    """One process each gives an answer that says what it is not; its numbers are counted."""
    found = compare_jobs(job("a", 20.0, samples=[noisy(20)]), job("b", 10.0, samples=[noisy(10)]), LATENCY)

    assert (found.answer, found.method, found.samples_a, found.samples_b) == ("faster", BY_SAMPLES, 100, 100)
    assert found.footnotes[0] == "from raw samples of one process each: not a statement about repeats"
    assert found.ratio == pytest.approx(2.0)
    assert found == compare_jobs(job("a", 20.0, samples=[noisy(20)]), job("b", 10.0, samples=[noisy(10)]), LATENCY)


@pytest.mark.parametrize(
    ("metric", "column", "lack"),
    [
        ("latency", "latency_p50_s", "; 1 and 2 repeats allow none, three each do, or 64 raw samples of every one"),
        ("energy", "energy_per_inference_j", "; 1 and 2 repeats allow none, three each do"),
    ],
)
def test_too_little_for_either(metric: str, column: str, lack: str) -> None:
    """Without repeats and without samples the ratio is shown, and what would give an interval."""
    found = compare_jobs(job("a", 20.0, column=column), job("b", 10.0, 10.0, column=column), METRICS[metric])

    assert (found.answer, found.ratio, found.low, found.method) == ("not enough data", 2.0, None, "")
    assert found.sentence.endswith(f"A over B is 2.00 (no interval){lack}")


def test_a_ratio_beyond_a_float_has_no_number() -> None:
    """What cannot be computed is said to be so."""
    found = compare_jobs(job("a", *[1e300] * 3), job("b", *[1e-300] * 3), LATENCY)

    assert (found.answer, found.ratio) == ("not enough data", None)
    assert found.sentence == ("not enough data in median latency: the ratio of A to B is beyond what can be computed")


def test_what_was_not_measured() -> None:
    """A metric that one side lacks is said, with the side that lacks it."""
    found = compare_jobs(job("a", 1.0, 1.0, 1.0), job("b", 1.0, 1.0, 1.0), METRICS["energy"])

    assert found.sentence == "not enough data: energy for each inference is not known for A and B"
    assert (found.answer, found.ratio, found.repeats_a) == ("not enough data", None, 0)


@pytest.mark.parametrize(
    ("metric", "answer", "sentence"),
    [
        ("memory", "smaller", "B is 2.00× smaller than A in the process's peak memory (PSS)"),
        ("energy", "less", "B takes 2.00× less than A in energy for each inference"),
        ("load", "faster", "B is 2.00× faster than A in load time"),
        ("latency-p99", "faster", "B is 2.00× faster than A in p99 latency"),
    ],
)
def test_words_of_a_metric(metric: str, answer: str, sentence: str) -> None:
    """Each metric has its own words."""
    column = METRICS[metric].column
    found = compare_jobs(job("a", *[20.0] * 3, column=column), job("b", *[10.0] * 3, column=column), METRICS[metric])

    assert (found.answer, found.sentence.partition(" (90")[0]) == (answer, sentence)


def test_unlike_jobs_are_refused_by_name() -> None:
    """A refusal has the difference, no numbers, and survives JSON."""
    found = compare_jobs(job("a", *[2.0] * 3, tier="quick"), job("b", *[1.0] * 3, tier="smoke"), LATENCY)

    assert (found.refused, found.answer, found.ratio) == (True, REFUSED, None)
    assert found.refusals == ("tier: quick for A, smoke for B",)
    assert found.sentence == "not comparable in median latency: tier: quick for A, smoke for B"
    assert json.loads(json.dumps(found.to_dict()))["refusals"] == list(found.refusals)


def test_force_makes_a_footnote_of_it() -> None:
    """Who insists gets the number, and below it why it should not be read."""
    found = compare_jobs(job("a", *[2.0] * 3, tier="quick"), job("b", *[1.0] * 3, tier="smoke"), LATENCY, force=True)

    assert (found.answer, found.ratio, found.refusals) == ("faster", 2.0, ())
    assert found.footnotes == ("tier: quick for A, smoke for B",)


def test_invalid_repeats_are_left_out() -> None:
    """A throttled repeat is no measurement of what was asked; that it was left out is told."""
    b = job("b", 10.0, 10.0, 10.0, 90.0, 90.0)
    rows = [{**row, "verdict": "INVALID" if row["latency_p50_s"] > 50 else "A"} for row in b.repeats]
    b = Side("b", [{**row, "verdict_reasons": ["throttled: hardware slowdown"]} for row in rows])

    found = compare_jobs(job("a", 20.0, 20.0, 20.0), b, LATENCY)

    assert (found.answer, found.repeats_b, found.ratio) == ("faster", 3, 2.0)
    assert found.footnotes == ("2 of 5 repeats of B INVALID (throttled: hardware slowdown), left out",)


def test_nothing_but_invalid_repeats_is_refused() -> None:
    """A job without one valid repeat has no number, unless someone insists."""
    a, b = job("a", 20.0, 20.0, 20.0), job("b", 10.0, 10.0, 10.0, verdict="INVALID")

    refused, forced = compare_jobs(a, b, LATENCY), compare_jobs(a, b, LATENCY, force=True)

    assert refused.refusals == ("3 of 3 repeats of B INVALID (no reason recorded)",)
    assert (forced.answer, forced.repeats_b) == ("faster", 3)
    assert forced.footnotes == ("3 of 3 repeats of B INVALID (no reason recorded), used all the same",)


def test_doubtful_repeats_are_told() -> None:
    """A grade of B stays in the comparison and stands below it with its first reason."""
    b = job("b", 10.0, 10.0, 10.0, verdict="B", verdict_reasons=["the sampler took 2 % of a core"])

    found = compare_jobs(job("a", 20.0, 20.0, 20.0), b, LATENCY)

    assert found.footnotes == ("3 of 3 repeats of B graded B (the sampler took 2 % of a core)",)


def test_a_job_without_repeats_is_refused() -> None:
    """A job that failed has nothing to compare."""
    found = compare_jobs(job("a", 20.0), Side("b", []), LATENCY)

    assert found.refusals == ("no repeat of B has succeeded",)
