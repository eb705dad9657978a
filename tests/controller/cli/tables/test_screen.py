"""The screen of `results`."""

import re
from pathlib import Path

import pytest
from campaign_rows import DEVICES, MODELS, RECIPES
from efficientquant_controller.cli.tables.cells import three_digits
from efficientquant_controller.cli.tables.screen import screen_lines
from efficientquant_controller.cli.tables.view import View


def named(rows, **values):
    """Return the rows with these values."""
    return [row for row in rows if all(row[name] in value for name, value in values.items())]


def test_three_boards_ten_models_and_four_recipes_fit_on_a_screen(screen, rows):
    """The usual case takes at most 40 lines of 80 columns."""
    lines = screen(rows)
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 80


def test_the_documented_screen_is_current(screen, rows):
    """docs/commands.md shows this screen."""
    page = (Path(__file__).parents[4] / "docs" / "commands.md").read_text(encoding="utf-8")
    assert "\n".join(screen(rows)) in page


@pytest.mark.parametrize("width", [80, 100, 120, 200])
@pytest.mark.parametrize("metric", ["latency", "p99", "load", "memory", "energy", "size"])
def test_nothing_is_cut(screen, rows, width, metric):
    """Each value of each row is on the screen, at every width."""
    lines = screen(rows, width, metric)
    shown = [cell.rstrip("≈=*!¹²³") for line in lines for cell in line.split()]
    column, factor = {"latency": ("latency_p50_s", 1e3), "size": ("artifact_bytes", 2**-20)}.get(metric, ("", 0))
    values = [three_digits(row[column] * factor) for row in rows if column and row[column] is not None]
    assert [value for value in values if value not in shown] == []
    assert max(map(len, lines)) <= width


def test_failures_and_invalid_rows_are_footnotes(screen, rows):
    """A failed row has a dash with its number, a throttled one a mark, and each reason one line."""
    lines = screen(rows)
    assert lines[4].split()[:5] == ["mobilevit_xxs", "121!", "71.6", "–¹", "119"]
    assert "¹ int8 on nano-1: unsupported_op, 10 of 10" in lines
    assert "² fp16 on rtx-1: INVALID, CPU wait 31 %, 1 of 10" in lines
    assert any("! INVALID: throttled" in line for line in lines)
    assert any(line.startswith("grades: 69 A, 39 B (worst: B, CoV 9 %, ") for line in lines)


def test_no_gain_against_an_invalid_row(screen, rows):
    """Where FP32 is INVALID, no recipe has a gain or counts as the best."""
    lines = screen(named(rows, device=["nano-1"], model=["mobilevit_xxs", "mobilevit_xs"]), gains=True)
    assert lines[4].split() == ["mobilevit_xxs", "–", "–¹", "–"]
    assert lines[5].split()[:3] == ["mobilevit_xs", "1.69×*", "1.64–1.74"]


def test_fp32_alone_has_no_gain(screen, rows):
    """Where nothing but FP32 was measured, --gains says so."""
    assert screen(named(rows, recipe=["fp32"]), gains=True)[1:] == ["fp32 alone has no gain; leave out --gains"]


def test_gains_stand_next_to_the_values_where_there_is_room(screen, rows):
    """A narrow table has its gains and intervals inside, a wide one below."""
    lines = screen(named(rows, device=["xavier-1"], model=["mobilevit_s"]))
    assert lines[5].split() == ["fp16", "26.1", "1.68×", "1.63–1.73"]
    assert lines[7].split() == ["efficientquant", "44.1", "≈", "0.96–1.02"]


def test_what_a_recipe_bought_is_a_line(screen, rows):
    """Devices that agree share a line, with the range over the models and the file's size."""
    lines = screen(rows, 120)
    start = next(index for index, line in enumerate(lines) if line.startswith("times better than fp32"))
    assert lines[start + 1].split()[:4] == ["recipe", "on", "latency", "load"]
    assert [re.split(r"  +", line)[:3] for line in lines[start + 2 : start + 5]] == [
        ["fp16", "all 3 devices", "1.67–1.77"],
        ["int8", "xavier-1, rtx-1", "1.66–2.04"],
        ["efficientquant", "all 3 devices", "≈"],
    ]


def test_what_a_line_does_not_hold_for_is_said(screen, rows):
    """A device without a measure is named, and a part of the models counted."""
    assert screen(rows, 120)[-1].endswith("; no energy compared on rtx-1")
    noise = {"latency_answer": "not enough data"}
    own = [row if row["model"] == "mobilevit_s" else row | noise for row in named(rows, recipe=["fp32", "fp16"])]
    lines = screen(own, 120)
    assert "times better than fp32, lowest–highest of the models, 3/28: 3 of 28 differ (≈ no difference shown)" in lines
    assert any("1.68–1.75 3/28" in line for line in lines)


def test_a_device_without_energy_is_left_out(screen, rows):
    """A device that never measures something has no columns, and a line says so."""
    lines = screen(rows, 120, "energy")
    assert not any("rtx-1" in line for line in lines[:4])
    assert "no energy was measured on rtx-1" in lines
    assert "energy of nano-1, xavier-1: POM_5V_IN" in lines


def test_old_rows_show_their_pss(screen, rows):
    """Rows without RSS show PSS, under its own name."""
    old = [row | {"peak_rss_bytes": None, "peak_pss_bytes": row["peak_rss_bytes"]} for row in rows]
    assert (screen(rows, metric="memory")[2][:12], screen(old, metric="memory")[2][:12]) == (
        "peak RSS MiB",
        "peak PSS MiB",
    )


def test_rows_and_columns_by_choice(screen, rows):
    """Any dimension may go down, and the others across in the named order."""
    lines = screen(rows, 200, down="device", across="recipe,model")
    assert [line.split()[0] for line in lines[4:7]] == [*DEVICES]
    assert lines[2].split()[:4] == ["median", "ms", *RECIPES[:2]]
    assert lines[3].split()[: len(MODELS)] == [f"…{name.removeprefix('mobilevit')}" for name in MODELS]


@pytest.mark.parametrize(
    ("sort", "first"), [("campaign", "mobilevit_xxs"), ("name", "mobilevit_s"), ("value", "mobilevitv2_050")]
)
def test_sorted_by_choice(screen, rows, sort, first):
    """Rows are in the campaign's order, or sorted by name, by value or by gain."""
    assert screen(named(rows, device=["rtx-1"]), sort=sort)[4].split()[0] == first


def test_noise_is_no_gain_to_sort_by(screen, rows):
    """Sorted by gain, a difference that is not shown comes last."""
    own = named(rows, device=["xavier-1"], model=["mobilevit_s", "mobilevit_xs"], recipe=["fp32", "fp16"])
    noisy = {"latency_answer": "not enough data", "latency_ratio": 9.0}
    own = [row | noisy if (row["model"], row["recipe"]) == ("mobilevit_s", "fp16") else row for row in own]
    assert [line.split()[0] for line in screen(own, sort="gain")[4:6]] == ["mobilevit_xs", "mobilevit_s"]


def test_every_mark_is_explained(screen, rows):
    """Each mark that a table has is in the legend, also without colours."""
    lines = screen(rows)
    legend = next(line for line in lines if line.startswith("* "))
    assert legend == "* best, or as good    ≈ not enough data to tell from fp32"


def test_colours_go_with_marks(rows):
    """Each styled cell has a mark or a sign of its own, so that no colour is needed."""
    for line in screen_lines(rows, 80, View()):
        for span in line.spans:
            text = line.plain[span.start : span.end].strip()
            assert span.style == "bold" or not text or text[-1] in "*≈=!…¹²³" or set(text) <= set("–¹²³"), text


def test_an_unfinished_row_shows_how_it_stands(screen, rows):
    """A row whose runs go on has dots, with the value so far."""
    own = named(rows, device=["rtx-1"], model=["mobilevit_s"], recipe=["fp32", "int8"])
    own[0] |= {"state": "queued", "runs_done": 0, "latency_p50_s": None, "verdict": "", "verdict_reasons": None}
    lines = screen(own)
    assert "–…" in lines[4]
    assert any("… not finished" in line for line in lines)
