"""How often jobs of different campaigns get a wrong answer, on real recordings of one job."""

import random
from collections.abc import Iterator, Sequence

import pytest
import recorded_campaigns as recorded
from efficientquant_controller.analysis.between import unsteadiness
from efficientquant_controller.analysis.job_comparison import JobComparison, compare_jobs
from recorded_campaigns import LATENCY, Campaign

CAMPAIGNS = recorded.campaigns()
TWINS = recorded.twins()
QUIET = [campaign for campaign in CAMPAIGNS if recorded.is_quiet(campaign)]
PAIRS = 500


def pairs(campaigns: Sequence[Campaign], count: int = PAIRS) -> Iterator[tuple[Campaign, Campaign]]:
    """Yield pairs of different campaigns, drawn with a fixed seed."""
    draw = random.Random(15)
    for _ in range(count):
        first, second = draw.sample(campaigns, 2)
        yield first, second


def compared(first: Campaign, second: Campaign, others: Sequence[Campaign], repeats: int = 10) -> JobComparison:
    """Compare the job with itself in another campaign."""
    return compare_jobs(recorded.side(first, others, repeats), recorded.side(second, others, repeats), LATENCY)


def differ(comparison: JobComparison) -> bool:
    return comparison.answer in (LATENCY.better, LATENCY.worse)


def test_there_are_enough_recordings() -> None:
    """At least thirty campaigns of ten repeats were recorded, on a quiet and on a busy machine."""
    assert len(CAMPAIGNS) >= 30
    assert 10 <= len(QUIET) <= len(CAMPAIGNS) - 10
    assert {len(campaign["repeats"]) for campaign in CAMPAIGNS} == {10}


@pytest.mark.parametrize("repeats", [10, 3])
def test_the_same_job_is_not_called_different(repeats: int) -> None:
    """Of 500 pairs of campaigns of one job at most 1 % are called faster or slower."""
    wrong = [pair for pair in pairs(CAMPAIGNS) if differ(compared(*pair, CAMPAIGNS, repeats))]

    assert len(wrong) <= 0.01 * PAIRS


def test_five_other_campaigns_are_enough_to_be_careful() -> None:
    """With only five other steady campaigns at most 1 % of 500 pairs are called faster or slower."""
    draw = random.Random(5)
    wrong = 0
    for first, second in pairs(QUIET):
        rest = [campaign for campaign in QUIET if campaign not in (first, second)]
        wrong += differ(compared(first, second, draw.sample(rest, 5)))

    assert wrong <= 0.01 * PAIRS


def test_one_process_a_side_is_never_called_different() -> None:
    """Of 500 pairs of single processes none is called faster or slower, in one campaign or in two."""
    answers = {compared(*pair, CAMPAIGNS, repeats=1).answer for pair in pairs(CAMPAIGNS)}
    answers |= {compared(first, first, (), repeats=1).answer for first, _ in pairs(CAMPAIGNS)}

    assert answers <= {"not enough data", "not comparable"}


@pytest.mark.parametrize(("scale", "share"), [(1.1, 0.1), (1.2, 0.7), (1.3, 0.95)])
def test_a_true_difference_is_found_where_campaigns_are_steady(scale: float, share: float) -> None:
    """Of pairs of steady quiet campaigns, those that differ by more are found more often.

    These campaigns vary by 13 % without a cause, so a true 10 % is seldom found. docs/comparing.md has the power.
    """
    steady = [campaign for campaign in QUIET if not unsteadiness(recorded.side(campaign, ()), LATENCY)]
    answers = [
        compare_jobs(recorded.side(first, steady), recorded.side(second, steady, scale=scale), LATENCY).answer
        for first, second in pairs(steady, 200)
    ]

    assert answers.count(LATENCY.worse) >= share * len(answers)
    assert LATENCY.better not in answers


def test_the_same_job_twice_in_one_campaign_is_not_called_different() -> None:
    """Within a campaign the same job is rarely called different.

    Three repeats a side decide at the confidence of their interval, which is 90 %.
    """
    wrong = {
        repeats: sum(differ(compare_jobs(*recorded.twin_sides(twins, repeats), LATENCY)) for twins in TWINS)
        for repeats in (10, 3)
    }

    assert wrong[10] == 0
    assert wrong[3] <= 0.1 * len(TWINS)


def test_ten_repeats_find_a_true_ten_percent_in_one_campaign() -> None:
    """Ten repeats find a true 10 % in 95 % of quiet campaigns."""
    quiet = [campaign for campaign in TWINS if recorded.is_quiet(campaign)]
    answers = [compare_jobs(*recorded.twin_sides(campaign, scale=1.1), LATENCY).answer for campaign in quiet]

    assert len(quiet) >= 20
    assert answers.count(LATENCY.worse) >= 0.95 * len(answers)
