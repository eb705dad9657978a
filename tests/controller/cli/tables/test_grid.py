"""Grids that fit a width."""

import re

from campaign_rows import campaign_rows
from efficientquant_controller.cli.tables.cells import cell_text, only_gain, without_gain
from efficientquant_controller.cli.tables.footnotes import Footnotes
from efficientquant_controller.cli.tables.grid import grid_lines, lay_out
from efficientquant_controller.cli.tables.measures import MEASURES
from efficientquant_controller.cli.tables.pivot import choose_axes, pivot
from hypothesis import given, settings
from hypothesis import strategies as st

# A value, a gain or an interval with its mark, or a dash.
CELL = re.compile(r"[\d.]+[≈=*!…⁰¹²³⁴⁵⁶⁷⁸⁹]*|–[!…⁰¹²³⁴⁵⁶⁷⁸⁹]*|[\d.]+×\*?|[\d.]+–[\d.]+|[≈=]")
ROWS = campaign_rows()
NAMES = st.lists(st.from_regex(r"[a-z][a-z0-9_]{0,14}", fullmatch=True), min_size=2, max_size=2, unique=True)


def grid_and_texts(rows):
    """Return the grid of some rows with its cells as text."""
    grid = pivot(rows, choose_axes(rows), MEASURES["latency"])
    footnotes = Footnotes(rows, MEASURES["latency"])
    return grid, {keys: cell_text(cell, footnotes) for keys, cell in grid.cells.items()}


@settings(max_examples=50, deadline=None)
@given(
    width=st.integers(30, 200),
    seconds=st.lists(st.floats(1e-6, 1e4), min_size=12, max_size=12),
    models=NAMES,
    recipes=NAMES,
    form=st.sampled_from([lambda text: text, without_gain, only_gain]),
)
def test_no_cell_wraps(width, seconds, models, recipes, form):
    """For any names, numbers and width, each line has a name and whole cells, and fits."""
    rows = [
        row | {"model": models[index % 2], "recipe": ("fp32", *recipes)[index // 2 % 3], "latency_p50_s": value}
        | {"device": f"board-{index // 6}", "device_id": f"id-{index // 6}"}
        for index, (row, value) in enumerate(zip(ROWS[:12], seconds, strict=True))
    ]  # fmt: skip
    grid, texts = grid_and_texts(rows)
    layout = lay_out(grid, {keys: form(text) for keys, text in texts.items()}, "median ms", width)
    for columns, lines in zip(layout.tables, grid_lines(layout), strict=True):
        for line in lines[-len(grid.down) :]:
            assert [cell for cell in line.plain.split()[1:] if not CELL.fullmatch(cell)] == []
        assert len(columns) == 1 or max(line.cell_len for line in lines) <= width


def test_names_are_shortened_before_the_table_is_split():
    """A table that fits with short names is one table, and the legend says what they stand for."""
    rows = [row for row in ROWS if row["device"] == "nano-1"]
    grid, texts = grid_and_texts(rows)
    wide, narrow = (lay_out(grid, texts, "median ms", width) for width in (100, 66))
    assert (len(wide.tables), wide.naming.legend()) == (1, [])
    assert (len(narrow.tables), narrow.naming.legend()) == (1, ["eff is efficientquant", "… is mobilevit"])


def test_names_are_shortened_where_one_table_is_too_wide():
    """Of layouts with as many tables, a fitting layout is chosen."""
    rows = [row for row in ROWS if row["device"] == "nano-1" and row["model"] == "mobilevit_s"]
    own = [row | {"recipe": f"{row['recipe']}:activation_bits=6:output_bits=none:scope=conv"} for row in rows]
    grid, texts = grid_and_texts(own)
    layout = lay_out(grid, texts, "median ms", 60)
    assert [names[0] for names in layout.labels[1:]] == ["fp32~2", "fp16~2", "int8~2", "eff~2"]
    assert max(line.cell_len for lines in grid_lines(layout) for line in lines) <= 60


def test_groups_stay_together_where_they_fit():
    """A device's columns are split only if they are wider than the table."""
    grid, texts = grid_and_texts(ROWS)
    plain = {keys: without_gain(text) for keys, text in texts.items()}
    groups = [[column.group for column in columns] for columns in lay_out(grid, plain, "median ms", 80).tables]
    assert groups == [["nano-1"] * 4 + ["xavier-1"] * 4, ["rtx-1"] * 4]
    assert max(len(columns) for columns in lay_out(grid, plain, "median ms", 30).tables) < 4


def test_a_long_group_name_keeps_its_distance():
    """The name of a group that is wider than its columns does not touch the next one."""
    rows = [row | {"device": f"a-very-long-name-of-{row['device']}"} for row in ROWS if row["recipe"] == "fp32"]
    grid, texts = grid_and_texts(rows)
    heading = grid_lines(lay_out(grid, texts, "median ms", 200))[0][0].plain
    assert heading.split() == [
        "median",
        "ms",
        *(f"a-very-long-name-of-{name}" for name in ("nano-1", "xavier-1", "rtx-1")),
    ]
