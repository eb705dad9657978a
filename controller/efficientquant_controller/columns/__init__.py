"""The registry of what is measured, one entry for each column.

Tables, views, JSON and CSV rows, the cells of the terminal's tables, `compare --metric` and the tables of
docs/database.md are made from it, in the order of COLUMNS. A new entry of the table `runs` needs a migration.
"""

from collections.abc import Mapping

from efficientquant_controller.columns.comparisons import COMPARISONS
from efficientquant_controller.columns.entry import SHOWN, Cell, Column, Compared, Kind, Origin, Over
from efficientquant_controller.columns.identity import IDENTITY, REPORT, RUNTIME, SNAPSHOT
from efficientquant_controller.columns.performance import LATENCY, LOADING, MEMORY
from efficientquant_controller.columns.trust import COMPUTED, CONTENTION, OUTPUTS, PAPER, POWER, VERDICT

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
    column.name: column
    for column in (
        *(*IDENTITY, *REPORT, *RUNTIME),
        *(*LATENCY, *LOADING, *MEMORY),
        *COMPARISONS,
        *(*VERDICT, *CONTENTION, *POWER, *PAPER, *OUTPUTS, *COMPUTED),
        *SNAPSHOT,
    )
}
_OF_VARIANTS = (
    *("campaign_id", "job_id", "device", "device_id", "model", "recipe", "weights", "tier", "runs_done"),
    *("started_unix_s", "reported_unix_s", "clock_offset_s", "agent_version"),
)
_COMPARED_WITH_FP32 = (Origin.SIZE, Origin.GUARD, Origin.CHECK)

# The columns of the table `runs` that a report writes.
OF_REPORTS = tuple(column for column in COLUMNS.values() if column.origin.stored)
# The columns of the views `run_results` and `results`.
OF_RUNS = tuple(column for column in COLUMNS.values() if column.origin.stored or column.run_sql)
OF_JOBS = tuple(column for column in COLUMNS.values() if column.over or column.job_sql)
# The guard's answer on a variant, in the table `job_comparisons`.
OF_GUARD = tuple(column for column in COLUMNS.values() if column.origin is Origin.GUARD)
# The columns that the commands add to the view `results`.
OF_COMPARISONS = tuple(column for column in COLUMNS.values() if column.origin in _COMPARED_WITH_FP32)
# The view `comparisons`.
OF_PAIRS = tuple(
    column
    for column in COLUMNS.values()
    if column.name in _OF_VARIANTS or column.origin in (Origin.PAIR, Origin.SIZE, Origin.GUARD)
)
# The rows of `bench` and `results`, in JSON and CSV.
OF_ROWS = tuple(
    column for column in COLUMNS.values() if column.over or column.job_sql or column.origin in _COMPARED_WITH_FP32
)


def names_of_kind(kind: Kind) -> frozenset[str]:
    """Return the names of the columns of a kind."""
    return frozenset(column.name for column in COLUMNS.values() if column.kind is kind)
