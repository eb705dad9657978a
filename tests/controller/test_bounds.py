"""The bounds of numbers that come from outside."""

import pytest
from efficientquant_controller.bounds import Bounds
from efficientquant_controller.errors import UserError

COUNT = Bounds(1, 100)
DURATION_S = Bounds(0.5, 600, "seconds", whole=False)


@pytest.mark.parametrize(("text", "value"), [("1", 1), ("100", 100), (" 7", 7), (3, 3)])
def test_both_ends_of_a_range_are_taken(text, value):
    """A whole number within its bounds is read as an int."""
    number = COUNT.read("--count", text)

    assert (number, type(number)) == (value, int)


@pytest.mark.parametrize(
    "text", ["0", "101", "-1", "2.5", "1e1", "", "1_0", "٣", "many", "nan", "inf", "9" * 20, "9" * 5000]
)
def test_a_whole_number_out_of_bounds_is_one_sentence(text):
    """The error repeats the input, shortened, and says what is allowed."""
    with pytest.raises(UserError, match=r"^--count .{0,41}: give a whole number from 1 to 100$"):
        COUNT.read("--count", text)


@pytest.mark.parametrize("text", ["0.4", "600.1", "nan", "inf", "-inf", "1e999", "long", "NaN"])
def test_a_number_out_of_bounds_is_one_sentence(text):
    """NaN and infinity lie outside every range."""
    with pytest.raises(UserError, match=r"^--rest .+: give a number from 0\.5 to 600 seconds$"):
        DURATION_S.read("--rest", text)


def test_a_number_from_the_wire_is_checked_as_it_is():
    """A value that is a number already needs no text, and NaN is refused."""
    DURATION_S.check("the rest", 0.5)
    for value in (float("nan"), float("inf"), 0.0):
        with pytest.raises(UserError, match="the rest"):
            DURATION_S.check("the rest", value)
