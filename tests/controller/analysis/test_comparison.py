"""Comparing repeats: what is said of them, how often it is wrong, and what forbids to say anything."""

import itertools
import random

import pytest
from efficientquant_controller.analysis.comparison import Answer, _arrangements, _place, compare, differences

RUN = {
    "tier": "smoke",
    "weights": "random",
    "backend": "ort-cpu",
    "runtime_version": "1.10.0",
    "providers": "CPUExecutionProvider",
    "session_options": {"intra_op_threads": "0", "graph_optimization": "all"},
    "agent_version": "0.1.0",
    "snapshot_sha256": "ab",
}


@pytest.mark.parametrize(
    ("twin", "own", "answer"),
    [
        ([20.0, 21.0, 22.0], [16.0, 17.0, 18.0], Answer.BETTER),
        ([16.0, 17.0, 18.0], [20.0, 21.0, 22.0], Answer.WORSE),
        ([20.0, 20.1, 20.2], [20.0, 20.1, 20.3], Answer.SAME),
        ([20.0, 21.0, 22.0], [19.9, 16.0, 20.5], Answer.NOT_ENOUGH_DATA),  # the ranges overlap
        ([20.0, 20.1, 20.2], [19.3, 19.4, 19.5], Answer.SAME),  # apart, by less than 5 %
        ([20.0, 20.1, 21.0], [19.0, 19.3, 19.4], Answer.NOT_ENOUGH_DATA),  # apart by 4 %, and up to 10 %
        ([20.0, 21.0], [1.0, 2.0, 3.0], Answer.NOT_ENOUGH_DATA),  # two repeats prove nothing
        ([], [1.0, 2.0, 3.0], Answer.NOT_ENOUGH_DATA),
    ],
)
def test_answers(twin: list[float], own: list[float], answer: Answer) -> None:
    """Better and worse take repeats apart and 5 %, the same an interval within 5 %, the rest is not enough data."""
    assert compare(twin, own).answer is answer


def test_ratio_and_interval_by_hand() -> None:
    """Three against three: the ratio of the medians, between the smallest and the largest of the nine ratios."""
    found = compare([20.0, 24.0, 22.0], [10.0, 11.0, 12.0])
    assert (found.ratio, found.low, found.high) == (2.0, 20 / 12, 2.4)


def test_two_repeats_have_a_ratio_and_no_interval() -> None:
    """What was measured is shown, and that it allows no limits."""
    found = compare([20.0, 22.0], [10.0, 11.0])
    assert (found.ratio, found.low, found.high) == (2.0, None, None)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_no_ratio_of_what_is_not_above_zero(value: float) -> None:
    """A duration of zero, below it or of no number is refused."""
    with pytest.raises(ValueError, match="not above 0"):
        compare([1.0, 2.0], [value])


@pytest.mark.parametrize(("n", "m"), list(itertools.product(range(1, 6), repeat=2)))
def test_arrangements_are_those_that_can_be_counted(n: int, m: int) -> None:
    """Counting the orders of n + m values one by one gives the same numbers."""
    counts = [0] * (n * m + 1)
    for places in itertools.combinations(range(n + m), n):
        counts[sum(place - before for before, place in enumerate(places))] += 1
    assert _arrangements(n, m) == counts


def test_places_are_the_published_critical_values() -> None:
    """One more than the critical U of Mann and Whitney's tables at 5 % on one side, for 3 to 10 against as many."""
    assert [_place(n, n) - 1 for n in range(3, 11)] == [0, 1, 4, 7, 11, 15, 21, 27]


@pytest.mark.parametrize("repeats", [3, 5])
def test_a_limit_is_wrong_at_most_once_in_twenty(repeats: int) -> None:
    """Of 4,000 pairs without a difference, 5 % at most (and four standard errors) have a lower limit above 1."""
    draw = random.Random(0)

    def values() -> list[float]:
        return [draw.lognormvariate(0, 0.1) for _ in range(repeats)]

    wrong = sum((compare(values(), values()).low or 0) > 1 for _ in range(4000))
    assert wrong / 4000 <= 0.05 + 4 * (0.05 * 0.95 / 4000) ** 0.5


def test_more_repeats_say_more() -> None:
    """One disturbed process of three leaves no answer; of ten it does not matter."""
    quiet, fast = [20 + 0.01 * n for n in range(9)], [16 + 0.01 * n for n in range(9)]
    assert compare([*quiet[:2], 15.0], fast[:3]).answer is Answer.NOT_ENOUGH_DATA
    assert compare([*quiet, 15.0], [*fast, 16.0]).answer is Answer.BETTER


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("runtime_version", "1.23.2", "runtime version: 1.10.0 for fp32, 1.23.2 here"),
        ("providers", "X", "providers: CPUExecutionProvider for fp32, X here"),
        ("tier", "quick", "tier: smoke for fp32, quick here"),
        (
            "session_options",
            {"graph_optimization": "all", "intra_op_threads": "2"},
            "session options: graph_optimization=all, intra_op_threads=0 for fp32, "
            "graph_optimization=all, intra_op_threads=2 here",
        ),
        ("snapshot_sha256", "cd", "device snapshot: the device, or what is installed on it, changed between the runs"),
    ],
)
def test_differences_are_named(name: str, value: object, sentence: str) -> None:
    """What was not the same for both is named with both values; equal conditions say nothing."""
    assert differences([RUN, RUN], [RUN]) == []
    assert differences([RUN], [{**RUN, name: value}]) == [sentence]


def test_a_change_within_one_side_is_a_difference() -> None:
    """A runtime that was replaced between two repeats of the same variant forbids the comparison too."""
    assert differences([RUN, {**RUN, "runtime_version": "1.11.0"}], [RUN]) == [
        "runtime version: 1.10.0 and 1.11.0 for fp32, 1.10.0 here"
    ]


def test_states_of_the_device_are_conditions_too() -> None:
    """A power mode that was changed between the runs is named; runs that recorded no state differ from none."""
    maxn, slow = ({**RUN, "conditions": {"power_mode": mode, "clocks": "free"}} for mode in ("MAXN", "5W"))

    assert differences([maxn, maxn], [slow]) == ["power mode: MAXN for fp32, 5W here"]
    assert differences([maxn], [RUN]) == [
        "power mode: MAXN for fp32, not recorded here",
        "clocks: free for fp32, not recorded here",
    ]
    assert differences([RUN], [{**RUN, "conditions": None}]) == []


def test_every_session_option_is_a_condition() -> None:
    """An option that differs is named with all of them; none is passed over by its name."""
    runs = [{**RUN, "session_options": {"sync_mode": "spin", "workspace_bytes": size}} for size in ("1", "2")]

    assert differences(runs[:1], runs[1:]) == [
        "session options: sync_mode=spin, workspace_bytes=1 for fp32, sync_mode=spin, workspace_bytes=2 here"
    ]
