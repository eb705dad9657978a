"""The registry of columns."""

import re
import subprocess
import sys

import pytest
from efficientquant_controller import columns
from efficientquant_controller.analysis.metrics import METRICS
from efficientquant_controller.analysis.twins import twin_columns
from efficientquant_controller.columns import Column, Kind, Origin
from efficientquant_controller.columns.comparisons import COMPARISONS
from efficientquant_controller.columns.identity import IDENTITY, REPORT, RUNTIME, SNAPSHOT
from efficientquant_controller.columns.performance import LATENCY, LOADING, MEMORY
from efficientquant_controller.columns.trust import COMPUTED, CONTENTION, OUTPUTS, PAPER, POWER, VERDICT

ALL = list(columns.COLUMNS.values())
EVERY = pytest.mark.parametrize("column", ALL, ids=lambda column: column.name)


def test_every_name_is_unique() -> None:
    """No two entries have the same name."""
    groups = (
        *(IDENTITY, REPORT, RUNTIME, SNAPSHOT, LATENCY, LOADING, MEMORY, COMPARISONS),
        *(VERDICT, CONTENTION, POWER, PAPER, OUTPUTS, COMPUTED),
    )
    assert sum(map(len, groups)) == len(ALL)


@EVERY
def test_a_name_says_its_unit(column: Column) -> None:
    """A cell and a metric have the unit at the end of the column's name."""
    assert (column.unit == "B") <= column.kind.whole
    if column.cell is not None and column.cell.unit:
        assert columns.SHOWN[column.cell.unit][0] == column.unit
    if column.compared is not None:
        assert column.unit in ("s", "B", "J", "W")


@EVERY
def test_an_entry_is_complete(column: Column) -> None:
    """Each entry has a meaning and is in a view."""
    assert re.fullmatch(r"[^|\n]{8,240}", column.meaning)
    assert not column.meaning.endswith(".")
    shown = (*columns.OF_JOBS, *columns.OF_RUNS, *columns.OF_PAIRS, *columns.OF_COMPARISONS)
    assert column in shown
    assert bool(column.over) <= column.origin.stored


def test_the_guards_columns_are_those_of_the_analysis() -> None:
    """analysis/twins.py computes exactly the columns that the store keeps."""
    assert list(twin_columns([], [], "int8")) == [column.name for column in columns.OF_GUARD]


def test_compare_offers_what_the_registry_names() -> None:
    """A metric has the column, unit and words of its entry."""
    assert list(METRICS) == [column.compared.metric for column in ALL if column.compared]
    memory = METRICS["gpu-memory"]
    assert (memory.column, memory.unit, memory.definition) == ("gpu_process_peak_bytes", "B", "paper_memory_kind")
    assert (METRICS["power"].verb, METRICS["load"].is_load) == ("takes", True)
    assert all(METRICS[name].definition in ("", *columns.COLUMNS) for name in METRICS)


def test_json_and_boolean_columns_are_known_by_their_kind() -> None:
    """The kinds in the registry say which columns of a row to decode."""
    assert columns.names_of_kind(Kind.BOOLEAN) == {"paper", "warmup_converged", "load_cold", "throttled"}
    assert {"conditions", "gpus", "comparison_notes"} < columns.names_of_kind(Kind.JSON)
    assert {column.origin for column in columns.OF_REPORTS} == {origin for origin in Origin if origin.stored}


def test_the_registry_imports_nothing_heavy() -> None:
    """Importing the registry imports no heavy package, because every command imports it."""
    heavy = "{'sqlalchemy', 'torch', 'numpy', 'grpc', 'rich', 'google'} & {*sys.modules}"
    program = f"import sys, efficientquant_controller.columns; print({heavy})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
