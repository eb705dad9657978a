"""The quantities that `results --metric` can show."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from efficientquant_controller.analysis.metrics import METRICS
from efficientquant_controller.columns import COLUMNS, SHOWN
from efficientquant_controller.errors import UserError

Row = Mapping[str, Any]
SIZE = "size"


@dataclass(frozen=True)
class Measure:
    """A quantity in a cell, where less is better.

    `column` holds it in SI units, `unit` is for people. `gain` is the prefix of its comparison columns, or empty where
    it is not compared with fp32.
    """

    name: str
    label: str
    column: str
    unit: str
    gain: str = ""

    @property
    def heading(self) -> str:
        """The label with its unit."""
        return f"{self.label} {self.unit}"

    @property
    def judged(self) -> bool:
        """Whether a verdict says something about it, unlike about a file's size."""
        return self.name != SIZE

    def value(self, row: Row) -> float | None:
        """Return a row's value in the shown unit."""
        value = row.get(self.column)
        return None if value is None else value * SHOWN[self.unit][1]


_UNITS = {"s": "ms", "B": "MiB", "J": "mJ"}


def _measure(name: str, label: str, metric: str, gain: str) -> Measure:
    column = METRICS[metric].column
    return Measure(name, label, column, _UNITS[COLUMNS[column].unit], gain)


MEASURES: Mapping[str, Measure] = {
    measure.name: measure
    for measure in (
        _measure("latency", "median", "latency", "latency"),
        _measure("p99", "p99", "latency-p99", ""),
        _measure("load", "load", "load", "load"),
        _measure("memory", "peak RSS", "memory", "peak_rss"),
        _measure("energy", "energy", "energy", "energy"),
        Measure(SIZE, "file", "artifact_bytes", "MiB", SIZE),
    )
}


# Agents before schema 7 read no RSS.
_OLD_MEMORY = _measure("memory", "peak PSS", "pss", "peak_pss")


def measure_of(rows: Sequence[Row], measure: Measure) -> Measure:
    """Return the measure that rows have: for old ones, memory is PSS."""
    is_old = measure.name == "memory" and all(measure.value(row) is None for row in rows)
    return _OLD_MEMORY if is_old and any(_OLD_MEMORY.value(row) is not None for row in rows) else measure


def measure_named(name: str) -> Measure:
    """Return a measure by its name.

    Raises UserError for an unknown one.
    """
    if name in MEASURES:
        return MEASURES[name]
    close = get_close_matches(name, list(MEASURES), n=1)
    meant = f"did you mean {close[0]}? There" if close else "there"
    raise UserError(f"--metric {name}: there is no such metric; {meant} are {', '.join(MEASURES)}")
