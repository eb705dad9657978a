"""The gains of a recipe in words."""

import io

import pytest
from efficientquant_controller.analysis.report import gains
from efficientquant_controller.cli.results.result_table import print_gains
from rich.console import Console

FASTER = {
    "size_ratio": 2.5,
    "artifact_bytes": 2 << 20,
    "latency_ratio": 1.25,
    "latency_ratio_low": 1.19,
    "latency_ratio_high": 1.31,
    "latency_answer": "faster",
    "load_ratio": 0.8,
    "load_ratio_low": 0.5,
    "load_ratio_high": 1.0,
    "load_answer": "slower",
    "peak_rss_ratio": 1.03,
    "peak_rss_answer": "not enough data",
    "integer_operators": 0,
    "float_operators": 72,
    "arithmetic": "storage only: 35 weights are int8 in the file; all arithmetic is FP32",
}


def printed(rows, width=160) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False, markup=False)
    print_gains(rows, console)
    return "".join(line.rstrip() + "\n" for line in console.file.getvalue().splitlines())


@pytest.fixture
def judged(messages):
    """Return a function that makes the gains of a variant with these values."""

    def judge(**values):
        known = {name: value for name, value in {**FASTER, **values}.items() if value is not None}
        return gains(messages.row("int8", **known), messages.row())

    return judge


# ruff: noqa: E501 – a paragraph is as wide as the console
PARAGRAPH = """\
what it bought, compared with fp32 on the same device (in brackets: 90 % interval; 5 % is the least that counts)
bench-1 · mobilevit_xxs · efficientquant:weight_bits=4
  bought      a file 2.50× smaller (5.00 → 2.00 MiB); latency 1.25× faster (1.19–1.31)
  not bought  load time: 1.25× slower (1.00–2.00); integer arithmetic: storage only: 35 weights are int8 in the file; all arithmetic is FP32
  not known   peak memory ≈, not enough data; accuracy (not measured here; 'efficientquant evaluate' does)

"""


def test_rows_of_earlier_agents_have_a_pss(messages):
    """Where no RSS was read, the gain in memory is that of the peak PSS."""
    pss = {"peak_pss_ratio": 2.0, "peak_pss_ratio_low": 1.9, "peak_pss_ratio_high": 2.1, "peak_pss_answer": "smaller"}

    phrases = gains(messages.row("int8", peak_rss_bytes=None, **pss), messages.row())

    assert phrases.bought == ["peak PSS 2.00× smaller (1.90–2.10)"]


def test_paragraph(messages):
    """Each variant gets the lines bought, not bought and not known, and FP32 gets none."""
    rows = [messages.row(), messages.row("efficientquant:weight_bits=4", **FASTER)]

    assert printed(rows) == PARAGRAPH


def test_nothing_to_compare_prints_nothing(messages):
    """FP32 alone, a job without a result, and rows without a comparison get no section."""
    rows = [messages.row(), messages.row("int8", runs_done=0, not_compared="x"), messages.row("int8")]

    assert printed(rows) == ""


def test_energy_belongs_to_what_was_bought(judged):
    """Where energy was measured, it is bought, not bought or not known like the others."""
    energy = {"energy_per_inference_j": 0.03, "energy_ratio": 1.5, "energy_ratio_low": 1.4, "energy_ratio_high": 1.6}
    assert "energy 1.50× less (1.40–1.60)" in judged(**energy, energy_answer="less").bought
    assert not any("energy" in phrase for phrase in judged().not_known)


def test_no_gain_against_an_invalid_row(judged):
    """Nothing but the file's size is compared with an INVALID row."""
    variant = judged(verdict="INVALID")
    assert variant.not_known[0] == "latency, load time and peak memory compared with fp32 (int8 INVALID)"
    assert variant.bought == ["a file 2.50× smaller (5.00 → 2.00 MiB)"]


def test_what_was_not_compared_is_not_known(judged):
    """A difference of the jobs leaves latency, load and memory unknown, but not the file's size."""
    refused = dict.fromkeys(("latency_answer", "load_answer", "peak_rss_answer"), "not comparable")
    variant = judged(not_compared="weights: A for fp32, B for int8", **refused)

    assert (
        variant.not_known[0]
        == "latency, load time and peak memory compared with fp32 (weights: A for fp32, B for int8)"
    )
    assert variant.bought == ["a file 2.50× smaller (5.00 → 2.00 MiB)"]


@pytest.mark.parametrize(
    ("ratio", "answer", "bought", "phrase"),
    [
        (2.0, "smaller", "bought", "peak memory 2.00× smaller (1.90–2.10)"),
        (0.5, "larger", "not_bought", "peak memory: 2.00× larger (0.48–0.53)"),
        (1.0, "same", "not_bought", "peak memory: the same, 1.00× (1.90–2.10)"),
        (None, "not enough data", "not_known", "peak memory (not enough data)"),
    ],
)
def test_answers_in_words(judged, ratio, answer, bought, phrase):
    """Each answer has its list and its words, and a worse ratio is inverted."""
    limits = {"peak_rss_ratio_low": 1.9, "peak_rss_ratio_high": 2.1}
    assert phrase in getattr(judged(peak_rss_ratio=ratio, peak_rss_answer=answer, **limits), bought)


@pytest.mark.parametrize(
    ("ratio", "bought", "phrase"),
    [
        (1.02, "not_bought", "a smaller file: the same (5.00 → 2.00 MiB)"),
        (0.5, "not_bought", "a smaller file: 2.00× larger (5.00 → 2.00 MiB)"),
        (1.05, "bought", "a file 1.05× smaller (5.00 → 2.00 MiB)"),
    ],
)
def test_size_in_words(judged, ratio, bought, phrase):
    """A difference of less than 5 % does not count as a smaller file."""
    assert phrase in getattr(judged(size_ratio=ratio), bought)


@pytest.mark.parametrize(
    ("integers", "bought", "phrase"),
    [
        (70, "bought", "integer arithmetic in 70 of 72"),
        (0, "not_bought", "integer arithmetic: integer arithmetic in 70 of 72"),
        (None, "not_known", "arithmetic (the artifact was not checked)"),
    ],
)
def test_arithmetic_in_words(judged, integers, bought, phrase):
    """Integer arithmetic counts as bought where it is used, and as unknown without a check."""
    variant = judged(integer_operators=integers, arithmetic="integer arithmetic in 70 of 72")
    assert phrase in getattr(variant, bought)


def test_one_metric_that_may_not_be_compared(judged):
    """A load from the page cache makes only the load time unknown."""
    variant = judged(load_answer="not comparable", load_ratio=None, not_compared="the artifact before loading: cold")

    assert variant.not_known[0] == "load time compared with fp32 (the artifact before loading: cold)"
    assert "latency 1.25× faster (1.19–1.31)" in variant.bought
