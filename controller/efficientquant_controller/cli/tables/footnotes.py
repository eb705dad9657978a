"""Numbered footnotes for the cells without a usable number."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from efficientquant_controller.analysis.verdict import Grade
from efficientquant_controller.cli.tables.measures import Measure
from efficientquant_controller.cli.tables.reasons import grade, is_throttled, merged, template

Row = Mapping[str, Any]
MOST_LINES = 4
MANY = 3
_DIGITS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def superscript(number: int) -> str:
    """Return a number in superscript digits."""
    return str(number).translate(_DIGITS)


@dataclass
class _Footnote:
    texts: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)


class Footnotes:
    """Numbered reasons of rows, in the order of their first cells.

    `rows` are all rows of the grid, of which a footnote counts its own.
    """

    def __init__(self, rows: Sequence[Row], measure: Measure) -> None:
        self._rows = rows
        self._measure = measure
        self._notes: dict[str, _Footnote] = {}

    def mark(self, row: Row) -> str:
        """Return the mark of a row, empty for a usable number."""
        if self._measure.judged and is_throttled(row):
            return "!"
        text = self._text(row)
        if not text:
            return ""
        note = self._notes.setdefault(template(text), _Footnote())
        note.texts.append(text)
        note.rows.append(row)
        return superscript(list(self._notes).index(template(text)) + 1)

    def _text(self, row: Row) -> str:
        if row["state"] in ("failed", "cancelled"):
            return str(row["failure_type"] or row["state"])
        if self._measure.judged and row["verdict"] == Grade.INVALID:
            return grade(row)
        if self._measure.value(row) is None:
            return f"no {self._measure.label} measured"
        return ""

    def lines(self) -> list[str]:
        """Return the footnotes, the last of many as a count."""
        texts = [
            f"{superscript(number)} {where(note.rows)}: {merged(note.texts)}, {self._count(note.rows)}"
            for number, note in enumerate(self._notes.values(), 1)
        ]
        if len(texts) <= MOST_LINES:
            return texts
        shown = MOST_LINES - 1
        return [*texts[:shown], f"{superscript(shown + 1)} … {len(texts) - shown} more reasons: --why"]

    def _count(self, rows: Sequence[Row]) -> str:
        places = {(row["recipe"], row["device"]) for row in rows}
        among = sum((row["recipe"], row["device"]) in places for row in self._rows)
        return f"{len(rows)} of {among}"


def where(rows: Sequence[Row]) -> str:
    """Return the recipes and devices of rows, or how many."""
    recipes, devices = (list(dict.fromkeys(str(row[name]) for row in rows)) for name in ("recipe", "device"))
    return f"{_listed(recipes, 'recipes')} on {_listed(devices, 'devices')}"


def _listed(names: Sequence[str], noun: str) -> str:
    return ", ".join(names) if len(names) <= MANY else f"{len(names)} {noun}"
