"""The metrics of a comparison and the words of its answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from efficientquant_controller.columns import COLUMNS, Column, Compared

Row = Mapping[str, Any]
# What sentences call the sides of a comparison.
FIRST, SECOND = "the first", "the second"


@dataclass(frozen=True)
class Metric:
    """A quantity of a repeat, where less is better.

    `column` holds it, in `unit`. An answer reads "the second is 2× faster than the first", from `verb` and from
    `better` or `worse`. `definition` names the column that says what was measured.
    """

    name: str
    column: str
    unit: str
    label: str
    better: str = "faster"
    worse: str = "slower"
    verb: str = "is"
    definition: str = ""
    is_load: bool = False
    is_energy: bool = False


def _metric(column: Column, compared: Compared) -> Metric:
    better, worse = compared.words
    facts = {name: getattr(compared, name) for name in ("verb", "definition", "is_load", "is_energy")}
    return Metric(compared.metric, column.name, column.unit, compared.label, better, worse, **facts)


# The metrics that the registry of columns offers.
METRICS: Mapping[str, Metric] = {
    column.compared.metric: _metric(column, column.compared) for column in COLUMNS.values() if column.compared
}


def metrics_listed() -> str:
    """Return the names of all metrics for the help of `compare --metric`."""
    offered = [column.compared for column in COLUMNS.values() if column.compared]
    names = [
        f"{compared.metric} ({compared.explained})" if compared.explained else compared.metric for compared in offered
    ]
    return f"{', '.join(names[:-1])} or {names[-1]}"


@dataclass(frozen=True)
class Side:
    """One of two compared jobs with its succeeded repeats.

    `repeats` are rows of the view `run_results`. `others` are the succeeded repeats of other campaigns that measured
    the same recipe and model. Sentences call the side by its `label`, or else the first or the second.
    """

    name: str
    repeats: Sequence[Row]
    others: Sequence[Sequence[Row]] = ()
    label: str = ""

    @property
    def job_id(self) -> str:
        """The job that all repeats belong to."""
        return str(self.repeats[0]["job_id"]) if self.repeats else ""
