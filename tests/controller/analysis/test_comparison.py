"""Tests of the answers to compared repeats, and how often they are wrong."""

import itertools
import random

import pytest
from efficientquant_controller.analysis.comparison import Answer, Comparison, _arrangements, _place, compare


@pytest.mark.parametrize(
    ("twin", "own", "answer"),
    [
        ([20.0, 21.0, 22.0], [16.0, 17.0, 18.0], Answer.BETTER),
        ([16.0, 17.0, 18.0], [20.0, 21.0, 22.0], Answer.WORSE),
        ([20.0, 20.1, 20.2], [20.0, 20.1, 20.3], Answer.SAME),
        ([20.0, 21.0, 22.0], [19.9, 16.0, 20.5], Answer.NOT_ENOUGH_DATA),  # the ranges overlap
        ([20.0, 20.1, 20.2], [19.3, 19.4, 19.5], Answer.SAME),  # apart, by less than 5 %
        ([20.0, 20.1, 21.0], [19.0, 19.3, 19.4], Answer.NOT_ENOUGH_DATA),  # apart by 4 %, and up to 10 %
        ([20.0, 21.0], [1.0, 2.0, 3.0], Answer.NOT_ENOUGH_DATA),  # two repeats are too few
        ([], [1.0, 2.0, 3.0], Answer.NOT_ENOUGH_DATA),
    ],
)
def test_answers(twin: list[float], own: list[float], answer: Answer) -> None:
    """Better and worse need separate repeats and 5 %, and the same needs an interval within 5 %."""
    assert compare(twin, own).answer is answer


def test_ratio_and_interval_by_hand() -> None:
    """Three repeats against three give the ratio of the medians, limited by the smallest and largest ratio."""
    comparison = compare([20.0, 24.0, 22.0], [10.0, 11.0, 12.0])
    assert (comparison.ratio, comparison.low, comparison.high) == (2.0, 20 / 12, 2.4)


def test_two_repeats_have_a_ratio_and_no_interval() -> None:
    """Two repeats give a ratio without limits."""
    comparison = compare([20.0, 22.0], [10.0, 11.0])
    assert (comparison.ratio, comparison.low, comparison.high) == (2.0, None, None)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_no_ratio_of_what_is_not_above_zero(value: float) -> None:
    """A value that is zero, negative or NaN is refused."""
    with pytest.raises(ValueError, match="not above 0"):
        compare([1.0, 2.0], [value])


@pytest.mark.parametrize(("n", "m"), list(itertools.product(range(1, 6), repeat=2)))
def test_arrangements_are_those_that_can_be_counted(n: int, m: int) -> None:
    """The counts equal those of an enumeration of all orders of n + m values."""
    counts = [0] * (n * m + 1)
    for places in itertools.combinations(range(n + m), n):
        counts[sum(place - before for before, place in enumerate(places))] += 1
    assert _arrangements(n, m) == counts


def test_places_are_the_published_critical_values() -> None:
    """Each place is one above Mann and Whitney's critical U, one-sided at 5 %, for 3 to 10."""
    assert [_place(n, n) - 1 for n in range(3, 11)] == [0, 1, 4, 7, 11, 15, 21, 27]


@pytest.mark.parametrize("repeats", [3, 5])
def test_a_limit_is_wrong_at_most_once_in_twenty(repeats: int) -> None:
    """Of 4,000 pairs without a difference at most 5 %, plus four standard errors, have a lower limit above 1."""
    draw = random.Random(0)

    def values() -> list[float]:
        return [draw.lognormvariate(0, 0.1) for _ in range(repeats)]

    wrong = sum((compare(values(), values()).low or 0) > 1 for _ in range(4000))
    assert wrong / 4000 <= 0.05 + 4 * (0.05 * 0.95 / 4000) ** 0.5


def test_more_repeats_say_more() -> None:
    """A disturbed process leaves no answer among three, and does not matter among ten."""
    quiet, fast = [20 + 0.01 * n for n in range(9)], [16 + 0.01 * n for n in range(9)]
    assert compare([*quiet[:2], 15.0], fast[:3]).answer is Answer.NOT_ENOUGH_DATA
    assert compare([*quiet, 15.0], [*fast, 16.0]).answer is Answer.BETTER


@pytest.mark.parametrize(
    ("own", "min_effect", "answer"),
    [
        ([19.3, 19.4, 19.5], 0.05, Answer.SAME),  # 3 % apart
        ([19.3, 19.4, 19.5], 0.02, Answer.BETTER),
        ([16.0, 17.0, 18.0], 0.5, Answer.SAME),
        ([20.6, 20.7, 20.8], 0.02, Answer.WORSE),
    ],
)
def test_the_least_effect_is_the_callers(own: list[float], min_effect: float, answer: Answer) -> None:
    """The caller's least effect changes the answer, and not the numbers."""
    twin = [20.0, 20.1, 20.2]

    comparison = compare(twin, own, min_effect)

    assert comparison.answer is answer
    assert (comparison.ratio, comparison.low, comparison.high) == (20.1 / own[1], 20.0 / own[2], 20.2 / own[0])


def test_a_ratio_beyond_a_float_is_no_answer() -> None:
    """An infinite ratio gives no answer, since JSON and SQL cannot hold it."""
    assert compare([0.1] * 3, [1e-310] * 3) == Comparison(Answer.NOT_ENOUGH_DATA)
