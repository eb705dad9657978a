"""The table of what each recipe bought, as lines."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rich.cells import cell_len

from efficientquant_controller.cli.tables.bought import COMPARED, Line, bought, gains_text, integers_text, uncompared
from efficientquant_controller.cli.tables.cells import ABSENT
from efficientquant_controller.cli.tables.folding import folded, joined
from efficientquant_controller.cli.tables.pivot import device_names

Row = Mapping[str, Any]
GAP = 2
_MOST_NAMED = 3
_INTEGERS = "integer"
_HEADINGS = {"size": "file"}
_SOME = re.compile(r"(\d+)/(\d+)$")


def gains_lines(rows: Sequence[Row], width: int, names: Mapping[str, str]) -> list[str]:
    """Return what each recipe bought, or nothing where none was compared.

    `names` are the short names of recipes. They and the intervals' absence save width where it is needed. What is still
    too wide becomes several tables.
    """
    lines = bought(rows)
    if not lines:
        return []
    whole: dict[str, str] = {}
    tables = [_table(lines, rows, shown, intervals) for intervals in (True, False) for shown in (whole, names)]
    fitting = next((table for table in tables if _width(table) <= width), tables[-1])
    several = any(len(gains) > 1 for line in lines for gains in line.gains.values())
    spread = [", lowest–highest of the models"] if several else []
    spread += [", 90 % interval in brackets"] if any("(" in cell for row in fitting[1:] for cell in row[2:]) else []
    cells = (cell for row in fitting[1:] for cell in row[2:])
    if some := next(filter(None, map(_SOME.search, cells)), None):
        spread.append(f", {some[0]}: {some[1]} of {some[2]} differ")
    heading = f"times better than fp32{''.join(spread)} (≈ no difference shown)"
    parts = [line for part in _parts(fitting, width) for line in _aligned(part)]
    notes = [f"{_INTEGERS}: share of products in integers"] if _INTEGERS in fitting[0] else []
    notes.append("accuracy: 'efficientquant evaluate'")
    for name, devices in uncompared(rows).items():
        notes.append(f"no {_HEADINGS.get(name, name)} compared on {_devices(devices, len(device_names(rows)))}")
    return [*folded(heading, width), *parts, *joined(notes, width, "; ")]


def _table(lines: Sequence[Line], rows: Sequence[Row], names: Mapping[str, str], intervals: bool) -> list[list[str]]:
    """Return the headings and then the cells of each line.

    Columns without any value are left out.
    """
    count = len(device_names(rows))
    body = [
        [
            names.get(line.recipe, line.recipe),
            _devices(line.devices, count),
            *(gains_text(line.gains[name], intervals=intervals) for name in COMPARED),
            integers_text(line.integers),
        ]
        for line in lines
    ]
    headings = ["recipe", "on", *(_HEADINGS.get(name, name) for name in COMPARED), _INTEGERS]
    kept = [place for place in range(len(headings)) if place < 2 or any(cells[place] != ABSENT for cells in body)]
    return [[cells[place] for place in kept] for cells in (headings, *body)]


def _devices(devices: Sequence[str], count: int) -> str:
    if 1 < count == len(devices):
        return "both devices" if count == 2 else f"all {count} devices"
    return ", ".join(devices) if len(devices) <= _MOST_NAMED else f"{len(devices)} of {count} devices"


def _widths(table: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(cell_len, column)) for column in zip(*table, strict=True)]


def _width(table: Sequence[Sequence[str]]) -> int:
    widths = _widths(table)
    return sum(widths) + GAP * (len(widths) - 1)


def _parts(table: list[list[str]], width: int) -> list[list[list[str]]]:
    """Split a table's columns into as few tables as fit."""
    names, places = (0, 1), range(2, len(table[0]))
    parts: list[list[int]] = [[*names]]
    for place in places:
        wider = [*parts[-1], place]
        if len(parts[-1]) > len(names) and _width([[cells[at] for at in wider] for cells in table]) > width:
            wider = [*names, place]
            parts.append(wider)
        parts[-1] = wider
    return [[[cells[place] for place in part] for cells in table] for part in parts]


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    widths = _widths(table)
    lines = []
    for cells in table:
        padded = [cell + " " * (width - cell_len(cell)) for cell, width in zip(cells, widths, strict=True)]
        lines.append((" " * GAP).join(padded).rstrip())
    return lines
