"""The tables of `results --wide`, with every number.

They show milliseconds and MiB, the speed-up against FP32, and failures as sentences.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from efficientquant_controller.analysis.report import (
    GAINS_HEADING,
    LEGEND,
    PAPER_LEGEND,
    VERDICT_LEGEND,
    Gains,
    failure_sentences,
    gains,
    is_compared,
    rail_sentences,
    verdict_sentences,
)
from efficientquant_controller.cli.output import new_table
from efficientquant_controller.cli.tables.cells import ABSENT, gain_text
from efficientquant_controller.cli.tables.gains import Twins
from efficientquant_controller.cli.tables.measures import MEASURES
from efficientquant_controller.cli.tables.reasons import brief_grade
from efficientquant_controller.cli.tables.screen import campaign_heading
from efficientquant_controller.columns import COLUMNS, SHOWN, Column
from efficientquant_controller.columns import Cell as Shown
from efficientquant_controller.model import TWIN_RECIPE

Row = Mapping[str, Any]
Cell = Callable[[Row], str]
# The speed-up needs two rows, so the registry has no column for it. It follows the median and its range.
_SPEED_UP = "speed_up"


def print_result_tables(rows: Sequence[Row], console: Console) -> None:
    """Print each campaign's rows, then its failures and its gains.

    The rows are split into several tables where one would be too wide.
    """
    twins = Twins(rows)
    for campaign_rows in _grouped([{**row, _SPEED_UP: _speed_up(row, twins)} for row in rows], "campaign_id"):
        console.print(campaign_heading(campaign_rows[0]), soft_wrap=True)
        for table in _tables(campaign_rows, console):
            console.print()
            console.print(table)
        sentences = [
            *failure_sentences(campaign_rows),
            *verdict_sentences(campaign_rows),
            *rail_sentences(campaign_rows),
        ]
        for sentence in ("", *sentences):
            console.print(sentence, soft_wrap=True)
        print_gains(campaign_rows, console)
    console.print("; ".join(_legends(rows)))


def print_gains(rows: Sequence[Row], console: Console) -> None:
    """Print a paragraph on the gains of each measured variant.

    Prints nothing when no variant was measured.
    """
    variants = [row for row in rows if row["recipe"] != TWIN_RECIPE and is_compared(row)]
    if not variants:
        return
    twins = Twins(rows)
    console.print(GAINS_HEADING, soft_wrap=True)
    for row in variants:
        console.print(f"{row['device']} · {row['model']} · {row['recipe']}", soft_wrap=True)
        console.print(Padding(_paragraph(gains(row, twins.of(row))), (0, 0, 0, 2), expand=False))
    console.print()


def _paragraph(variant: Gains) -> Table:
    """Return the gains as lines with a hanging indent."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for label, phrases in (
        ("bought", variant.bought),
        ("not bought", variant.not_bought),
        ("not known", variant.not_known),
    ):
        table.add_row(label, "; ".join(phrases) or "nothing")
    if variant.notes:
        table.add_row("note", "; ".join(variant.notes))
    return table


def _legends(rows: Sequence[Row]) -> list[str]:
    """Return the legends of the columns that are shown."""
    judged = [VERDICT_LEGEND] if any(row["verdict"] for row in rows) else []
    return [LEGEND, *([PAPER_LEGEND] if any(_has(row, _PAPER) for row in rows) else []), *judged]


def _tables(rows: Sequence[Row], console: Console) -> list[Table]:
    """Return the rows in the first layout that fits.

    The narrowest layout parts the columns of a group. It folds only names that are wider than the console.
    """
    optional = (group for group in (_ENERGY, _PAPER) if any(_has(row, group) for row in rows))
    groups = [_LATENCY, _with_values(_MEMORY, rows), *optional]
    single = [{heading: cell} for group in groups for heading, cell in group.items()]
    tables: list[Table] = []
    for number, (apart, naming) in enumerate((*_LAYOUTS, _LAYOUTS[-1])):
        packed = _packed(rows, groups if number < len(_LAYOUTS) else single, naming, console)
        tables = [
            _table(part, rows, {**naming, **columns}, title=" · ".join(str(part[0][name]) for name in apart) or None)
            for part in _grouped(rows, *apart)
            for columns in packed
        ]
        if all(_natural_width(table, console) <= console.width for table in tables):
            break
    return tables


def _packed(
    rows: Sequence[Row], groups: Sequence[Mapping[str, Cell]], naming: Mapping[str, Cell], console: Console
) -> list[dict[str, Cell]]:
    """Return groups of columns merged into as few tables as fit.

    The groups keep their order and follow the naming columns.
    """
    packed: list[dict[str, Cell]] = []
    for group in groups:
        wider = {**packed[-1], **group} if packed else {**_STATE, **group}
        if packed and _natural_width(_table(rows, rows, {**naming, **wider}), console) > console.width:
            packed.append(dict(group))
        else:
            packed[-1:] = [wider]
    return packed


def _with_values(group: Mapping[str, Cell], rows: Sequence[Row]) -> dict[str, Cell]:
    """Return the columns of a group that have a value."""
    return {heading: cell for heading, cell in group.items() if any(cell(row) != ABSENT for row in rows)}


def _has(row: Row, group: Mapping[str, Cell]) -> bool:
    """Tell whether a row has a value in a group of columns."""
    if group is _PAPER and not row["paper"]:
        return False
    return any(cell(row) != ABSENT for cell in group.values())


def _grouped(rows: Sequence[Row], *names: str) -> list[list[Row]]:
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    return list(groups.values())


def _natural_width(table: Table, console: Console) -> int:
    return console.measure(table, options=console.options.update_width(1000)).maximum


def _table(shown: Sequence[Row], rows: Sequence[Row], columns: Mapping[str, Cell], title: str | None = None) -> Table:
    table = new_table(title=title)
    left_out = set()
    if all(row["state"] == "succeeded" for row in rows):
        left_out.add("state")
    if not any(row["verdict"] for row in rows):
        left_out.add("verdict")
    visible = {heading: cell for heading, cell in columns.items() if heading not in left_out}
    for heading in visible:
        is_number = "\n" in heading
        table.add_column(heading, justify="right" if is_number else "left", overflow="fold", no_wrap=is_number)
    for row in shown:
        table.add_row(*(cell(row) for cell in visible.values()))
    return table


def _text(name: str) -> Cell:
    return lambda row: str(row[name])


def _state(row: Row) -> str:
    if row["state"] in ("pending", "queued", "leased"):
        return f"{row['state']} {row['runs_done']}/{row['runs_planned']}"
    return str(row["state"])


def _number(column: Column, shown: Shown) -> Cell:
    """Return a cell for a number or a range in readable units."""
    _, factor = SHOWN[shown.unit]
    names = (column.name, shown.up_to) if shown.up_to else (column.name,)

    def cell(row: Row) -> str:
        values = [row[name] for name in names]
        known = [value for value in values if value is not None]
        return "–".join(f"{value * factor:.{shown.digits}f}" for value in known) if known == values else ABSENT

    return cell


def _optional_text(name: str) -> Cell:
    return lambda row: row[name] or ABSENT


def _group(name: str) -> dict[str, Cell]:
    """Return the cells of one group of the registry by heading.

    Only numbers have a unit, in the heading's second line.
    """
    shown = [(column, column.cell) for column in COLUMNS.values() if column.cell and column.cell.group == name]
    cells: dict[str, Cell] = {}
    for column, cell in sorted(shown, key=lambda pair: pair[1].place):
        if cell.unit:
            cells[f"{cell.heading}\n{cell.unit}"] = _number(column, cell)
        else:
            cells[cell.heading] = _optional_text(column.name)
    return cells


def _speed_up(row: Row, twins: Twins) -> str:
    """Return the speed-up against FP32.

    It is absent without a comparison, and against an INVALID row.
    """
    if row["recipe"] == TWIN_RECIPE and row["latency_p50_s"] is not None:
        return "1.00×"
    return gain_text(twins.gain(row, MEASURES["latency"]))[0] or ABSENT


_NAMES: Mapping[str, Cell] = {name: _text(name) for name in ("device", "model", "recipe")}
# The names in a table's title and the columns for the other names, widest layout first.
_LAYOUTS: Sequence[tuple[Sequence[str], Mapping[str, Cell]]] = [
    (apart, {name: cell for name, cell in _NAMES.items() if name not in apart})
    for apart in ((), ("device",), ("device", "model"))
]
_STATE: Mapping[str, Cell] = {"state": _state, "verdict": lambda row: brief_grade(row) or ABSENT}
_OF_LATENCY = list(_group("latency").items())
_LATENCY: Mapping[str, Cell] = dict([*_OF_LATENCY[:2], ("speed-up\nvs fp32", _text(_SPEED_UP)), *_OF_LATENCY[2:]])
_MEMORY, _ENERGY, _PAPER = _group("memory"), _group("energy"), _group("paper")
