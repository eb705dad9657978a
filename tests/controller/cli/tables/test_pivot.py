"""The pure part of a pivot: its axes, and the best of each model on a device."""

import pytest
from efficientquant_controller.analysis.comparison import Answer
from efficientquant_controller.cli.tables.cells import gain_text, ratio_text, three_digits
from efficientquant_controller.cli.tables.gains import Gain, Twins, with_twins
from efficientquant_controller.cli.tables.measures import MEASURES
from efficientquant_controller.cli.tables.pivot import Axes, Cell, best_of, choose_axes, device_names, pivot
from efficientquant_controller.cli.tables.short_names import shortened, without_start
from efficientquant_controller.cli.tables.view import choose_view
from efficientquant_controller.errors import UserError


def cell(recipe, value, answer=None, low=None, high=None, valid=True):
    gain = None if answer is None else Gain(answer, 1.0, low, high)
    return Cell({"recipe": recipe, "verdict": "A"}, value, gain, valid)


BETTER, WORSE, UNKNOWN = Answer.BETTER, Answer.WORSE, Answer.NOT_ENOUGH_DATA


@pytest.mark.parametrize(
    ("cells", "best"),
    [
        ([cell("fp32", 9.0), cell("int8", 5.0, BETTER, 1.7, 1.9), cell("fp16", 7.0, BETTER, 1.2, 1.4)], "int8"),
        ([cell("fp32", 9.0), cell("int8", 5.0, BETTER, 1.7, 1.9), cell("fp16", 5.1, BETTER, 1.6, 1.8)], "int8 fp16"),
        ([cell("fp32", 9.0), cell("int8", 8.9, UNKNOWN, 0.9, 1.1)], ""),
        ([cell("fp32", 9.0), cell("int8", 8.9, UNKNOWN, 0.9, 1.1), cell("fp16", 20.0, WORSE, 0.4, 0.5)], "fp32"),
        ([cell("fp32", 9.0), cell("int8", 20.0, WORSE, 0.4, 0.5)], "fp32"),
        ([cell("fp32", 9.0), cell("int8", 5.0, BETTER, 1.7, 1.9, valid=False)], ""),
        ([cell("int8", 5.0, BETTER, 1.7, 1.9)], ""),
    ],
)
def test_the_best_is_known_to_be_better(cells, best):
    """The least value is marked if it beats FP32, with those whose intervals overlap with it."""
    marked = [shown.row["recipe"] for shown, is_best in zip(cells, best_of(cells), strict=True) if is_best]
    assert marked == best.split()


def test_the_twin_is_of_the_same_campaign_device_and_model(rows):
    """A twin has the same campaign, device and model, and stays with its row."""
    int8, other, twin = rows[6], rows[1], rows[0]
    assert (int8["device"], other["device"], twin["device"]) == ("nano-1", "xavier-1", "nano-1")
    assert Twins([other, twin]).of(int8) is twin
    assert Twins([other]).of(int8) is None
    assert Twins([]).of(with_twins([twin, int8])[1]) is twin


def test_without_tests_the_least_is_marked():
    """Where nothing was compared with FP32, the least value is marked."""
    assert best_of([cell("fp32", 2.0), cell("int8", 1.0)], tested=False) == [False, True]
    assert best_of([cell("fp32", 2.0), cell("int8", 1.0)]) == [False, False]


@pytest.mark.parametrize(
    ("down", "across", "axes"),
    [
        ((), (), Axes(("model",), ("device", "recipe"))),
        (("device",), (), Axes(("device",), ("model", "recipe"))),
        ((), ("recipe",), Axes(("device", "model"), ("recipe",))),
        (("recipe", "model"), ("device",), Axes(("recipe", "model"), ("device",))),
        ((), ("model", "device", "recipe"), Axes(("recipe",), ("model", "device"))),
        (("model", "device", "recipe"), (), Axes(("model", "device", "recipe"), ())),
    ],
)
def test_each_dimension_is_on_one_axis(rows, screen, down, across, axes):
    """A dimension that is not named goes to the other axis, and every choice can be printed."""
    assert choose_axes(rows, down, across) == axes
    assert screen(rows, 200, down=",".join(down), across=",".join(across))


def test_a_single_model_gives_its_place_to_the_devices(rows):
    """The rows are the first dimension with several names."""
    model = [row for row in rows if row["model"] == "mobilevit_s"]
    board = [row for row in model if row["device"] == "rtx-1"]
    assert (choose_axes(model).down, choose_axes(board).down) == (("device",), ("recipe",))


def test_devices_of_one_name_have_columns_of_their_own(rows):
    """Devices that share a name get a part of their ids, and no row is lost."""
    own = [row | {"device": "board"} for row in rows]
    grid = pivot(own, choose_axes(own), MEASURES["latency"])
    assert len(grid.cells) == len(rows)
    assert {*device_names(own).values()} == {"board (id-nan)", "board (id-xav)", "board (id-rtx)"}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("latensy", "", "", "campaign"), "--metric latensy: there is no such metric; did you mean latency? There are"),
        (
            ("latency", "modell", "", "campaign"),
            "--rows modell: there is no 'modell'; name one or more of model, device",
        ),
        (("latency", "model", "model", "campaign"), "--rows and --columns both name model; name it in one of them"),
        (("latency", "", "", "size"), "--sort size: there is no such order; there are campaign, name, value, gain"),
    ],
)
def test_a_wrong_option_is_one_sentence(options, sentence):
    """The sentence says what was asked, what exists and what to do."""
    with pytest.raises(UserError, match=r"^--") as error:
        choose_view(*options, gains=False)
    assert str(error.value).startswith(sentence)


def test_gains_of_what_is_not_compared():
    """--gains needs a metric that is compared with FP32."""
    with pytest.raises(UserError, match="p99 is not compared with fp32; choose --metric latency, load"):
        choose_view("p99", "", "", "campaign", gains=True)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.0123, "0.0123"), (1.0, "1.00"), (9.996, "10.0"), (99.94, "99.9"), (99.96, "100"), (1234.5, "1234")],
)
def test_values_have_three_digits(value, text):
    """Columns can be scanned, since values have three digits."""
    assert three_digits(value) == text


def test_a_gain_without_an_answer_is_not_a_number():
    """`≈` stands for not enough data, and `=` for the same."""
    assert gain_text(Gain(UNKNOWN, 1.02, 0.97, 1.08)) == ("≈", "0.97–1.08")
    assert gain_text(Gain(Answer.SAME, 1.0, 0.99, 1.01)) == ("=", "0.99–1.01")
    assert gain_text(Gain(BETTER, 1.72)) == ("1.72×", "")
    assert [ratio_text(ratio) for ratio in (0.512, 9.99, 12.34)] == ["0.51", "9.99", "12.3"]


def test_short_names_are_distinct():
    """Recipes are cut at their first word, and long ones get a number."""
    recipes = ["fp32", "efficientquant", "efficientquant-w4", "efficientquant:weight_bits=4", "easyquant", "eff"]
    assert list(shortened(recipes).values()) == ["fp32", "effi", "effi-w4", "effi~2", "eas", "eff"]
    assert without_start(["mobilevit_s", "mobilevit_xs"]) == {"mobilevit_s": "…s", "mobilevit_xs": "…xs"}
    assert without_start(["resnet18", "mobilevit_s"]) == {"resnet18": "resnet18", "mobilevit_s": "mobilevit_s"}
