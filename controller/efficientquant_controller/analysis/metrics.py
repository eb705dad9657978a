"""What can be compared of two jobs: the columns, and how an answer is said."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from efficientquant_controller.columns import COLUMNS, Column, Compared

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Metric:
    """One quantity of which less is better: a column of a repeat, in `unit`.

    `better` and `worse` answer for B beside A, who `verb` ("is", "takes") so much of them. `percent` is the percentile
    that the raw latencies give, where they do. `definition` is the column that says what was really measured.
    """

    name: str
    column: str
    unit: str
    label: str
    better: str = "faster"
    worse: str = "slower"
    verb: str = "is"
    percent: float | None = None
    definition: str = ""
    is_load: bool = False
    is_energy: bool = False


def _metric(one: Column, compared: Compared) -> Metric:
    better, worse = compared.words
    facts = {name: getattr(compared, name) for name in ("verb", "percent", "definition", "is_load", "is_energy")}
    return Metric(compared.metric, one.name, one.unit, compared.label, better, worse, **facts)


# What the registry of columns offers.
METRICS: Mapping[str, Metric] = {
    one.compared.metric: _metric(one, one.compared) for one in COLUMNS.values() if one.compared
}


def metrics_listed() -> str:
    """Name every metric for the help of `compare --metric`."""
    offered = [one.compared for one in COLUMNS.values() if one.compared]
    names = [f"{one.metric} ({one.explained})" if one.explained else one.metric for one in offered]
    return f"{', '.join(names[:-1])} or {names[-1]}"


@dataclass(frozen=True)
class Side:
    """One of two jobs: its succeeded repeats, as rows of the view `run_results`, and a name to say.

    `samples` are the raw latencies of those repeats, in the same order, where they were asked for. Sentences call the
    side by its `label`, else A or B.
    """

    name: str
    repeats: Sequence[Row]
    samples: Sequence[Sequence[float]] = ()
    label: str = ""

    @property
    def job_id(self) -> str:
        """The job that all repeats belong to."""
        return str(self.repeats[0]["job_id"]) if self.repeats else ""
