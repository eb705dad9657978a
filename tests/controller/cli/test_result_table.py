"""The results table, to the letter."""

import io

import pytest
from efficientquant_controller.cli.convert import row_from_wire
from efficientquant_controller.cli.result_table import print_result_tables, speed_up
from rich.console import Console


def printed(rows, width=160) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False, markup=False)
    print_result_tables(rows, console)
    return "".join(line.rstrip() + "\n" for line in console.file.getvalue().splitlines())


@pytest.fixture
def rows(messages):
    quantized = messages.row("efficientquant", 0.016, artifact_bytes=2 << 20, board_memory_delta_bytes=96 << 20)
    return [row_from_wire(one) for one in (messages.row(), quantized)]


# ruff: noqa: E501 – a table is as wide as it is
WIDE = """\
campaign c1 · tier smoke · weights random

                                        median      min–max  speed-up    p90    p99    load  transfer  peak PSS  board Δ  artifact
device   model          recipe              ms           ms   vs fp32     ms     ms      ms        ms       MiB      MiB       MiB
──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
bench-1  mobilevit_xxs  fp32             20.00  19.00–21.00     1.00×  22.00  30.00  125.00      4.00      80.0        –      5.00
bench-1  mobilevit_xxs  efficientquant   16.00  15.20–16.80     1.25×  17.60  24.00  125.00      4.00      80.0     96.0      2.00

median: of the repeats' medians, with their min–max; load: read + session create + first inference; peak PSS: of the measuring process; board Δ: drop of the
whole board's available memory
"""
NARROW = """\
campaign c1 · tier smoke · weights random

bench-1
                               median      min–max  speed-up    p90    p99
model          recipe              ms           ms   vs fp32     ms     ms
──────────────────────────────────────────────────────────────────────────
mobilevit_xxs  fp32             20.00  19.00–21.00     1.00×  22.00  30.00
mobilevit_xxs  efficientquant   16.00  15.20–16.80     1.25×  17.60  24.00

bench-1
                                 load  transfer  peak PSS  board Δ  artifact
model          recipe              ms        ms       MiB      MiB       MiB
────────────────────────────────────────────────────────────────────────────
mobilevit_xxs  fp32            125.00      4.00      80.0        –      5.00
mobilevit_xxs  efficientquant  125.00      4.00      80.0     96.0      2.00

median: of the repeats' medians, with their min–max; load: read + session create
+ first inference; peak PSS: of the measuring process; board Δ: drop of the
whole board's available memory
"""


def test_wide(rows):
    """A wide console gets one table in milliseconds and MiB, a dash where there is no value."""
    assert printed(rows) == WIDE


def test_narrow(rows):
    """A narrow console gets two tables instead of folded numbers."""
    assert printed(rows, width=80) == NARROW


def test_failure_is_a_sentence(messages):
    """A failed job shows its state in the table and its reason below it."""
    failed = messages.row(
        "efficientquant", state="failed", failure_type="load_failed", failure_message="the model has no input"
    )
    for name in ("latency_p50_s", "latency_p50_min_s", "latency_p50_max_s"):
        failed.ClearField(name)

    lines = printed([row_from_wire(failed)]).splitlines()

    assert "bench-1 · mobilevit_xxs · efficientquant: failed (load_failed): the model has no input" in lines
    assert [line.split()[3:7] for line in lines if line.startswith("bench-1 ") and "·" not in line] == [
        ["failed", "–", "–", "–"]
    ]


def test_running_job_shows_how_far(messages):
    """A job that has not ended shows how many of its runs are done."""
    row = messages.row(state="queued", runs_done=1, runs_planned=3)

    assert "queued 1/3" in printed([row_from_wire(row)])


def test_campaigns_are_apart(messages):
    """Rows of several campaigns stand under headings of their own."""
    rows = [row_from_wire(messages.row(campaign_id=name, tier=name)) for name in ("c1", "c2")]

    assert [line for line in printed(rows).splitlines() if line.startswith("campaign")] == [
        "campaign c1 · tier c1 · weights random",
        "campaign c2 · tier c2 · weights random",
    ]


def test_speed_up_compares_like_with_like(messages):
    """Speed-up is against the FP32 row of the same campaign, device and model, or absent."""
    reference = row_from_wire(messages.row(p50_s=0.030))
    own = row_from_wire(messages.row("efficientquant", 0.020))
    elsewhere = row_from_wire(messages.row("efficientquant", 0.020, device="bench-2"))
    rows = [reference, own, elsewhere]

    assert [speed_up(row, rows) for row in rows] == [1.0, pytest.approx(1.5), None]


def test_markup_in_names_is_text(messages):
    """Square brackets in what a device said are printed, not obeyed."""
    row = messages.row(
        state="failed", failure_type="runtime_error", failure_message="[bold]tensor[/x] has shape [1, 3]"
    )

    assert "[bold]tensor[/x] has shape [1, 3]\n" in printed([row_from_wire(row)])
