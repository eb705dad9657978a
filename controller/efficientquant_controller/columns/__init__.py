"""The registry of what is measured, one entry for each column.

Tables, views, JSON and CSV rows, the cells of the terminal's tables, `compare --metric` and the tables of
docs/database.md follow from it, in the order of COLUMNS. A new entry of the table `runs` takes a migration.
"""

from collections.abc import Mapping

from efficientquant_controller.columns.comparisons import COMPARISONS
from efficientquant_controller.columns.entry import SHOWN, Cell, Column, Compared, Kind, Origin, Over
from efficientquant_controller.columns.identity import IDENTITY, REPORT, RUNTIME, SNAPSHOT
from efficientquant_controller.columns.performance import LATENCY, LOADING, MEMORY
from efficientquant_controller.columns.trust import COMPUTED, OUTPUTS, PAPER, POWER, VERDICT

__all__ = [
    "COLUMNS",
    "OF_COMPARISONS",
    "OF_GUARD",
    "OF_JOBS",
    "OF_PAIRS",
    "OF_REPORTS",
    "OF_ROWS",
    "OF_RUNS",
    "SHOWN",
    "Cell",
    "Column",
    "Compared",
    "Kind",
    "Origin",
    "Over",
    "names_of_kind",
]

COLUMNS: Mapping[str, Column] = {
    one.name: one
    for one in (
        *(*IDENTITY, *REPORT, *RUNTIME),
        *(*LATENCY, *LOADING, *MEMORY),
        *COMPARISONS,
        *(*VERDICT, *POWER, *PAPER, *OUTPUTS, *COMPUTED),
        *SNAPSHOT,
    )
}
_OF_VARIANTS = ("campaign_id", "job_id", "device", "model", "recipe", "weights", "tier", "runs_done")
_BESIDE_FP32 = (Origin.SIZE, Origin.GUARD, Origin.CHECK)

# What a report writes into the table `runs`.
OF_REPORTS = tuple(one for one in COLUMNS.values() if one.origin.stored)
# The columns of the views `run_results` and `results`.
OF_RUNS = tuple(one for one in COLUMNS.values() if one.origin.stored or one.run_sql)
OF_JOBS = tuple(one for one in COLUMNS.values() if one.over or one.job_sql)
# What the guard says of a variant: the table `job_comparisons`.
OF_GUARD = tuple(one for one in COLUMNS.values() if one.origin is Origin.GUARD)
# What the commands add to the view `results`.
OF_COMPARISONS = tuple(one for one in COLUMNS.values() if one.origin in _BESIDE_FP32)
# The view `comparisons`.
OF_PAIRS = tuple(
    one
    for one in COLUMNS.values()
    if one.name in _OF_VARIANTS or one.origin in (Origin.PAIR, Origin.SIZE, Origin.GUARD)
)
# The rows of `bench` and `results`, in JSON and CSV.
OF_ROWS = tuple(one for one in COLUMNS.values() if one.over or one.job_sql or one.origin in _BESIDE_FP32)


def names_of_kind(kind: Kind) -> frozenset[str]:
    """The columns that have a SQL type."""
    return frozenset(one.name for one in COLUMNS.values() if one.kind is kind)
