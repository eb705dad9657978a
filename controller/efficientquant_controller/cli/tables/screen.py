"""The screen of `results`: a pivot, its footnotes and the gains."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.text import Text

from efficientquant_controller.analysis.verdict import Grade
from efficientquant_controller.cli.tables.cells import BEST, MEANINGS, cell_text, only_gain, without_gain
from efficientquant_controller.cli.tables.folding import folded, joined
from efficientquant_controller.cli.tables.footnotes import Footnotes
from efficientquant_controller.cli.tables.gains_table import gains_lines
from efficientquant_controller.cli.tables.grid import Layout, Texts, grid_lines, lay_out
from efficientquant_controller.cli.tables.measures import Measure, measure_of
from efficientquant_controller.cli.tables.pivot import Pivot, choose_axes, pivot
from efficientquant_controller.cli.tables.reasons import grade, worst
from efficientquant_controller.cli.tables.view import View
from efficientquant_controller.model import TWIN_RECIPE, JobState

Row = Mapping[str, Any]


def print_screen(rows: Sequence[Row], console: Console, view: View | None = None) -> None:
    """Print the screen of each campaign."""
    campaigns: dict[str, list[Row]] = {}
    for row in rows:
        campaigns.setdefault(row["campaign_id"], []).append(row)
    for number, own in enumerate(campaigns.values()):
        if number:
            console.print()
        for line in screen_lines(own, console.width, view or View()):
            console.print(line, soft_wrap=True)


def screen_lines(rows: Sequence[Row], width: int, view: View) -> list[Text]:
    """Return the screen of one campaign, line by line."""
    view = replace(view, measure=measure_of(rows, view.measure))
    shown = _with_values(rows, view.measure)
    grid = pivot(shown, choose_axes(shown, view.down, view.across), view.measure, view.sort)
    lines = [*map(Text, folded(campaign_heading(rows[0]), width, "  "))]
    if view.gains:
        grid = grid.without(TWIN_RECIPE)
        if not grid.cells:
            return [*lines, *map(Text, folded(f"{TWIN_RECIPE} alone has no gain; leave out --gains", width))]
    footnotes = Footnotes(shown, view.measure)
    texts = {
        (down, across): cell_text(grid.cells[down, across], footnotes)
        for down in grid.down
        for across in grid.across
        if (down, across) in grid.cells
    }
    layout = _laid_out(grid, texts, width, view)
    for table in grid_lines(layout):
        lines += [Text(), *table]
    lines += map(Text, joined(_legend(layout, grid), width))
    for text in (*footnotes.lines(), *_unmeasured(rows, shown, view.measure), *_rails(rows, view), _grades(rows)):
        lines += map(Text, folded(text, width, "  "))
    gains = gains_lines(rows, width, layout.naming.recipes)
    return [*lines, *map(Text, ["", *gains] if gains else [])]


def _with_values(rows: Sequence[Row], measure: Measure) -> Sequence[Row]:
    """Return the rows without those of devices that never measure this.

    All rows stay where no device measures it.
    """
    devices = {row["device"] for row in rows if measure.value(row) is not None or row["state"] != JobState.SUCCEEDED}
    return [row for row in rows if row["device"] in devices] or rows


def _unmeasured(rows: Sequence[Row], shown: Sequence[Row], measure: Measure) -> list[str]:
    measured = {row["device"] for row in shown}
    names = dict.fromkeys(row["device"] for row in rows if row["device"] not in measured)
    return [f"no {measure.label} was measured on {', '.join(names)}"] if names else []


def _laid_out(grid: Pivot, texts: Texts, width: int, view: View) -> Layout:
    """Return the layout, with gains if that needs no more tables."""
    if view.gains:
        gains = {keys: only_gain(text) for keys, text in texts.items()}
        return lay_out(grid, gains, f"gain, {view.measure.label}", width)
    compact = lay_out(grid, {keys: without_gain(text) for keys, text in texts.items()}, view.measure.heading, width)
    complete = lay_out(grid, texts, view.measure.heading, width, may_shorten=bool(compact.naming.legend()))
    return complete if complete.cost(width) <= compact.cost(width) else compact


def campaign_heading(row: Row) -> str:
    """Return the line about a campaign."""
    label = f" · {row['label']}" if row.get("label") else ""
    return f"campaign {row['campaign_id']}{label} · tier {row['tier']} · weights {row['weights']}"


def _legend(layout: Layout, grid: Pivot) -> list[str]:
    """Explain the marks and short names of a layout."""
    cells = [cell for table in layout.tables for column in table for cell in column.cells]
    marks = {text for cell in cells for text in (cell.mark, cell.gain, cell.value)}
    tested = any(cell.gain for cell in grid.cells.values())
    known = MEANINGS if tested else {**MEANINGS, BEST: "least, without a test"}
    meanings = [f"{mark} {meaning}" for mark, meaning in known.items() if mark in marks]
    if any("×" in text for text in marks):
        meanings.insert(0, "× times better than fp32, with its 90 % interval")
    return [*meanings, *layout.naming.legend()]


def _grades(rows: Sequence[Row]) -> str:
    """Return how many rows have each grade, and the worst B."""
    counts = Counter(row["verdict"] for row in rows)
    parts = {name: f"{counts[name]} {name}" for name in Grade if counts[name]}
    if usable := [row for row in rows if row["verdict"] == Grade.B]:
        row = worst(usable)
        parts[Grade.B] += f" (worst: {grade(row)}, {row['model']} {row['recipe']} on {row['device']})"
    return f"grades: {', '.join(parts.values())}" if parts else ""


def _rails(rows: Sequence[Row], view: View) -> list[str]:
    """Return the power rails behind each device's energy, where energy is shown."""
    if view.measure.name != "energy":
        return []
    devices: dict[str, list[str]] = {}
    for row in rows:
        if row["energy_per_inference_j"] is not None:
            named = devices.setdefault(row["rail_set"] or "rails without a name", [])
            named += [row["device"]] if row["device"] not in named else []
    parts = [f"{', '.join(names)}: {rail_set}" for rail_set, names in devices.items()]
    return [f"energy of {'; '.join(parts)}"] if parts else []
