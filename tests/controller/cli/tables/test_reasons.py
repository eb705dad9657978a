"""Reasons, said once, and grades with their worst number."""

import inspect
import re

import pytest
from efficientquant_controller.analysis import verdict
from efficientquant_controller.cli.tables.bought import bought, gains_text, integers_text
from efficientquant_controller.cli.tables.folding import folded, joined
from efficientquant_controller.cli.tables.footnotes import Footnotes, superscript
from efficientquant_controller.cli.tables.measures import MEASURES
from efficientquant_controller.cli.tables.reasons import brief_grade, grade, is_throttled, merged, reasons, template
from efficientquant_controller.cli.tables.why import why_lines

COV, DRIFT = (
    "the coefficient of variation is 39 % (at most 2.5 %)",
    "the last third's median is 3 % above it (at most 2 %)",
)


@pytest.mark.parametrize(
    ("texts", "text"),
    [
        (["CoV is 39 % (at most 2.5 %)", "CoV is 3.5 % (at most 2.5 %)"], "CoV is 3.5–39 % (at most 2.5 %)"),
        (["fp16 by TensorRT 8.2.1 on nano-1"], "fp16 by TensorRT 8.2.1 on nano-1"),
        (["node 'a' of 2", "node 'b' of 2", "node 'c' of 2"], "node 'a' and 2 more of 2"),
        (["the last third's median is 1e+03 % off"], "the last third's median is 1e+03 % off"),
    ],
)
def test_texts_of_one_template_are_one(texts, text):
    """Numbers become ranges, and of quoted names the first stands for all."""
    assert len({template(text) for text in texts}) == 1
    assert merged(texts) == text


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (("A", ["not checked: clocks"]), "A"),
        (("B", [COV, DRIFT]), "B, CoV 39 %"),
        (("B", [DRIFT, "not checked: clocks"]), "B, drift 3 %"),
        (("INVALID", ["throttled: hardware slowdown"]), "INVALID, throttled"),
        (("B", ["the sampler took 2 % of a core (less than 1 %)"]), "B, sampler 2 %"),
        (
            ("INVALID", ["a measuring thread waited for a CPU in 86 % of it (at most 25 %)", DRIFT, COV]),
            "INVALID, CPU wait 86 %",
        ),
        (("INVALID", ["the fan stood still"]), "INVALID, the fan stood still"),
        (("", None), ""),
    ],
)
def test_a_grade_has_its_worst_number(values, text):
    """It is the number that exceeds its limit most, or what makes a row INVALID."""
    row = dict(zip(("verdict", "verdict_reasons"), values, strict=True))
    assert grade(row) == text
    assert brief_grade(row) == text.removesuffix(", the fan stood still")


def test_the_sentences_are_those_of_the_verdict():
    """The beginnings that grades and throttling are read from are in the verdict's own source."""
    source = inspect.getsource(verdict)
    for start in ("the coefficient of variation", "the last third's median", "the sampler", "the warm-up"):
        assert start in source
    for part in ("throttled: ", "too hot to measure", "clock was ", "below "):
        assert part in source
    row = {"verdict": "INVALID", "verdict_reasons": ["GPU reached 91.0 °C (85 °C is too hot to measure)"]}
    assert is_throttled(row)
    assert not is_throttled(row | {"verdict": "B"})


@pytest.mark.parametrize(
    ("reason", "is_one"),
    [
        ("the GPU clock was below 921 MHz in 7 % of its readings", True),
        ("the CPU clock was below 1479 MHz in 7 % of its readings", False),
        ("the lock did not hold: the GPU clock was below 921 MHz in 7 % of its readings", False),
    ],
)
def test_a_cpu_clock_or_a_lost_lock_is_no_throttling(reason, is_one):
    """Only a fallen GPU or memory clock makes an INVALID row a throttled one."""
    assert is_throttled({"verdict": "INVALID", "verdict_reasons": [COV, reason]}) == is_one


def test_why_says_each_reason_once(rows):
    """Each distinct reason has a line with its number of rows, under the heading of its kind."""
    lines = why_lines(rows, 200)
    message = "node 'stages.2.1.conv_kxk' is QuantizeLinear, and TensorRT 8.2 builds it for no GPU of SM 5.3"
    assert f"   10 rows  unsupported_op: {message} (int8 on nano-1)" in lines
    assert "     1 row  throttled: software power cap (fp32 on nano-1)" in lines
    assert "   39 rows  the coefficient of variation is 3–9 % (at most 2.5 %) (4 recipes on rtx-1)" in lines
    assert len(reasons(rows)) == len([line for line in lines if re.match(r" +\d+ rows?  ", line)])


def test_another_limit_is_another_reason():
    """Texts of two rules that differ in their limit alone stay apart."""
    assert template("CoV is 39 % (at most 20 %)") != template("CoV is 3 % (at most 2.5 %)")


def test_why_without_reasons(messages):
    """A campaign without any reason says so."""
    assert why_lines([messages.row(verdict="A")], 80)[1].startswith("no row failed")


def test_many_footnotes_are_counted(rows):
    """After three footnotes the others are counted, with the option that prints them."""
    own = [row | {"state": "failed", "failure_type": f"kind-{'abcde'[at]}"} for at, row in enumerate(rows[3:8])]
    notes = Footnotes(own, MEASURES["latency"])
    assert [notes.mark(row) for row in own] == [superscript(number) for number in range(1, 6)]
    assert notes.lines()[-1] == "⁴ … 2 more reasons: --why"
    assert superscript(120) == "¹²⁰"


def test_bought_has_a_line_where_devices_agree(rows):
    """Devices agree where their answers are the same, whatever one of them does not measure."""
    lines = [(line.recipe, line.devices) for line in bought(rows)]
    everywhere = ("nano-1", "xavier-1", "rtx-1")
    assert lines == [("fp16", everywhere), ("int8", everywhere[1:]), ("efficientquant", everywhere)]


def test_bought_splits_where_devices_differ(rows):
    """A device with another answer has a line of its own."""
    slower = {"latency_answer": "slower", "latency_ratio": 0.5, "latency_ratio_low": 0.4, "latency_ratio_high": 0.6}
    own = [row | slower if (row["device"], row["recipe"]) == ("rtx-1", "fp16") else row for row in rows]
    lines = {
        line.devices: gains_text(line.gains["latency"], intervals=True) for line in bought(own) if line.recipe == "fp16"
    }
    assert lines == {("nano-1", "xavier-1"): "1.67–1.76", ("rtx-1",): "0.50"}


def test_integers_are_rounded_down(rows):
    """89 of 90 products are 98 %, 29 of 100 are 29 %, and nothing is known without a check."""
    counts = {"nano-1": (89, 1), "xavier-1": (29, 71), "rtx-1": (None, None)}
    own = [
        row | dict(zip(("integer_operators", "float_operators"), counts[row["device"]], strict=True)) for row in rows
    ]
    [fp16] = [line for line in bought(own) if line.recipe == "fp16"]
    assert {*fp16.integers} == {98, 29, None}
    assert [integers_text(known) for known in ([98], [0, 100], [None])] == ["98 %", "0–100 %", "–"]


def test_lines_break_between_words():
    """No line breaks between a number and its unit, and a long word stays whole."""
    assert folded("it waited for 31 % of it", 16) == ["it waited for", "31 % of it"]
    assert folded("averyveryverylongword b", 10) == ["averyveryverylongword", "b"]
    assert joined(["* best", "≈ about"], 17) == ["* best    ≈ about"]
    assert joined(["* best", "≈ about"], 16) == ["* best", "≈ about"]
