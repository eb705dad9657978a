"""Tests of the comparison of jobs that were measured in different campaigns."""

import random
from collections.abc import Sequence
from typing import Any

import pytest
from efficientquant_controller.analysis.between import MIN_CAMPAIGNS, limit_of_chance, t_quantile
from efficientquant_controller.analysis.job_comparison import BY_CAMPAIGNS, JobComparison, compare_jobs
from efficientquant_controller.analysis.metrics import METRICS, Side

LATENCY = METRICS["latency"]
RERUN = "'efficientquant compare FIRST SECOND --rerun' measures both in one campaign"
MORE = "another campaign of this job adds to what is known"
OTHERS = "other steady campaigns of the two jobs"


def rows(campaign: str, recipe: str, *values: float, **changes: Any) -> list[dict[str, Any]]:
    base = {"campaign_id": campaign, "job_id": f"{campaign}-{recipe}", "recipe": recipe, "device": "nano", "model": "m"}
    base |= {"latency_cov": 0.02, "verdict": "A", "agent_version": "1", "cpu_wait_share": 0.0, "reported_unix_s": 0.0}
    base |= changes
    return [{**base, "latency_p50_s": value} for value in values]


def side(campaign: str, level: float, recipe: str = "fp32", others: Sequence[float] = (), **changes: Any) -> Side:
    """Return a job of three close repeats, with other campaigns of these levels."""
    return Side(
        f"{campaign}/nano/m/{recipe}",
        rows(campaign, recipe, level, level * 1.001, level * 1.002, **changes),
        [rows(f"{recipe}-{number}", recipe, *[value] * 3) for number, value in enumerate(others)],
    )


STEADY = (20.0, 20.1, 20.2, 20.1, 20.0)


def compared(first: Side, second: Side) -> JobComparison:
    return compare_jobs(first, second, LATENCY)


def test_a_difference_beyond_what_campaigns_vary_by_is_one() -> None:
    """Steady jobs with five other campaigns each have an answer, whose interval has room for what those differ by."""
    answer = compared(side("c1", 20.0, others=STEADY), side("c2", 16.0, "int8", [0.8 * level for level in STEADY]))

    assert (answer.answer, answer.method) == ("faster", BY_CAMPAIGNS)
    assert answer.ratio == pytest.approx(1.25)
    # The five levels have a spread of 0.417 % in logarithms: 4.6 × √2 times that is 2.7 %.
    assert (answer.low, answer.high) == pytest.approx((1.2166, 1.2843), abs=1e-3)
    assert answer.footnotes[0] == (
        "measured in different campaigns, and 5 and 5 other steady campaigns of the two jobs may differ by 2.74 % "
        "without a cause"
    )


def test_a_difference_that_campaigns_vary_by_is_none() -> None:
    """Repeats that are far apart say nothing where other campaigns are as far apart."""
    others = (20.0, 22.0, 18.5, 21.0, 23.0)

    answer = compared(side("c1", 22.0, others=others), side("c2", 19.0, others=others))

    assert (answer.answer, answer.ratio) == ("not enough data", pytest.approx(22 / 19))
    assert answer.low is not None
    assert answer.low < 1
    assert answer.footnotes[0].endswith(f" without a cause; {MORE}")


def test_the_same_variant_again_may_be_the_same() -> None:
    """Campaigns that vary little show that a variant is as fast as before."""
    answer = compared(side("c1", 20.0, others=STEADY), side("c2", 20.1, others=STEADY))

    assert answer.answer == "same"


def test_too_few_other_campaigns_answer_nothing() -> None:
    """With four other campaigns of a job there is no answer, and the note says what to do."""
    answer = compared(side("c1", 20.0, others=STEADY), side("c2", 10.0, "int8", STEADY[1:]))

    assert (answer.answer, answer.ratio, answer.low, answer.method) == ("not enough data", 2.0, None, "")
    assert answer.footnotes[0] == (
        "measured in different campaigns, with 5 and 4 other steady campaigns of the two jobs, where 5 are needed; "
        + RERUN
    )


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ([{"verdict": "INVALID"}], "1 of 4 repeats are INVALID"),
        ([{"latency_p50_s": None}] * 2, "it has 2 of the 3 repeats that show it"),
        ([{"latency_cov": 0.3}] * 3, "the CoV of its latencies is 30 % (at most 10 %)"),
        ([{"cpu_wait_share": 0.08}] * 3, "other processes took the CPU for 8 % of the time (at most 5 %)"),
        (
            [{"cpu_wait_share": None, "other_cpu_share": 0.08}] * 3,
            "other processes took the CPU for 8 % of the time (at most 5 %)",
        ),
        ([{"cpu_wait_share": None}] * 4, "its agent did not read the contention for the CPU"),
        ([{"latency_p50_s": 11.0}] * 2, "the middle half of its repeats spans 9.52 % (at most 5 %)"),
    ],
)
def test_a_side_that_is_not_steady_answers_nothing(changes: list[dict[str, Any]], why: str) -> None:
    """Without steady repeats on both sides there is no answer."""
    repeats = rows("c2", "int8", 10.0, 10.0, 10.0, 10.0)
    for row, change in zip(repeats, changes, strict=False):
        row |= change
    second = Side("c2/nano/m/int8", repeats, side("c2", 10.0, "int8", STEADY).others)

    answer = compared(side("c1", 20.0, others=STEADY), second)

    assert (answer.answer, answer.low) == ("not enough data", None)
    assert answer.footnotes[0] == f"measured in different campaigns, and the second is not steady: {why}; {RERUN}"


DAY_S = 86_400.0


@pytest.mark.parametrize(
    ("span_s", "answer", "note"),
    [
        (
            0.49 * DAY_S,
            "not enough data",
            f", 24 h apart, with 5 and 5 {OTHERS}; each job's have to span 12 h; {RERUN}",
        ),
        (0.51 * DAY_S, "faster", f", and 5 and 5 {OTHERS} may differ by 2.74 % without a cause"),
    ],
)
@pytest.mark.parametrize("late", [0, 1])
def test_campaigns_of_one_hour_say_nothing_about_another_day(span_s: float, answer: str, note: str, late: int) -> None:
    """The other campaigns of each job span at least half of the time between the two that are compared."""
    first, second = side("c1", 20.0, others=STEADY), side("c2", 16.0, "int8", [0.8 * level for level in STEADY])
    for row in (*second.repeats, *first.others[-1], *second.others[-1]):
        row["reported_unix_s"] = DAY_S
    for row in (first, second)[late].others[-1]:
        row["reported_unix_s"] = span_s

    comparison = compared(first, second)

    assert (comparison.answer, comparison.footnotes[0]) == (answer, f"measured in different campaigns{note}")


def test_one_in_ten_repeats_may_be_invalid() -> None:
    """A single INVALID repeat of ten is left out and makes no job unsteady."""
    second = side("c2", 10.0, "int8", STEADY)
    repeats = rows("c2", "int8", *[10.0] * 9, 90.0)
    repeats[9]["verdict"] = "INVALID"

    answer = compared(side("c1", 20.0, others=STEADY), Side(second.name, repeats, second.others))

    assert (answer.answer, answer.ratio) == ("faster", pytest.approx(20.02 / 10))


@pytest.mark.parametrize(
    "changes",
    [
        {"verdict": "INVALID"},
        {"agent_version": "2"},
        {"conditions": {"power_mode": "5W"}},
        {"device": "xavier"},
        {"artifact_sha256": "ab"},
        {"latency_cov": 0.3},
    ],
)
def test_other_campaigns_count_if_they_are_steady_and_alike(changes: dict[str, Any]) -> None:
    """A campaign under other conditions, or of unsteady repeats, is none of the five."""
    first, second = side("c1", 20.0, others=STEADY), side("c2", 10.0, others=STEADY)
    for row in second.others[0]:
        row |= changes

    answer = compared(first, second)

    assert answer.answer == "not enough data"
    assert answer.footnotes[0].startswith("measured in different campaigns, with ")


def test_a_free_clock_may_move_between_campaigns() -> None:
    """A clock range that moved is part of what campaigns vary by."""
    first, second = side("c1", 20.0, others=STEADY), side("c2", 16.0, others=STEADY)
    for number, repeats in enumerate([first.repeats, second.repeats, *first.others, *second.others]):
        for row in repeats:
            row |= {"gpu_clock_min_hz": 300e6 * (1 + number / 10), "gpu_clock_max_hz": 1000e6}

    assert compared(first, second).answer == "faster"


def test_the_compared_campaigns_do_not_count_themselves() -> None:
    """A campaign that is compared is not evidence of what campaigns vary by."""
    others = [*(rows(f"o{n}", "fp32", *[20.0] * 3) for n in range(MIN_CAMPAIGNS - 1))]
    first, second = side("c1", 20.0), side("c2", 16.0)
    sides = [Side(own.name, own.repeats, [*others, other.repeats]) for own, other in ((first, second), (second, first))]

    assert compared(*sides).answer == "not enough data"


def test_repeats_of_one_campaign_need_no_others() -> None:
    """Within a campaign the repeats were interleaved and answer alone."""
    answer = compared(side("c1", 20.0), side("c1", 10.0, "int8"))

    assert (answer.answer, answer.footnotes) == ("faster", ())


def test_the_limit_is_never_below_what_was_seen() -> None:
    """Two campaigns that were once far apart may be so again."""
    seen = [10.0] * 30 + [12.0]

    assert limit_of_chance(seen, seen) == pytest.approx(1.2)


@pytest.mark.parametrize(
    ("share", "degrees", "quantile"),
    [(0.995, 4, 4.6041), (0.995, 9, 3.2498), (0.995, 30, 2.7500), (0.975, 4, 2.7764), (0.95, 10, 1.8125)],
)
def test_quantiles_are_the_published_ones(share: float, degrees: int, quantile: float) -> None:
    """The expansion of Student's quantiles agrees with their tables within 0.3 %."""
    assert t_quantile(share, degrees) == pytest.approx(quantile, rel=0.003)


@pytest.mark.parametrize("campaigns", [MIN_CAMPAIGNS, 12])
def test_the_limit_is_exceeded_by_chance_about_once_in_a_hundred(campaigns: int) -> None:
    """Of 4,000 pairs of campaigns of the same at most 1 %, plus four standard errors, exceed the limit."""
    draw = random.Random(0)
    exceeded = 0
    for _ in range(4000):
        *others, first, second = (draw.lognormvariate(0, 0.03) for _ in range(campaigns + 2))
        exceeded += max(first / second, second / first) > limit_of_chance(others, others)

    assert exceeded / 4000 <= 0.01 + 4 * (0.01 * 0.99 / 4000) ** 0.5
