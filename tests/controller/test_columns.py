"""The registry of what is measured."""

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
from efficientquant_controller.columns.trust import COMPUTED, OUTPUTS, PAPER, POWER, VERDICT

ALL = list(columns.COLUMNS.values())
EVERY = pytest.mark.parametrize("column", ALL, ids=lambda one: one.name)


def test_every_name_is_unique() -> None:
    """No entry hides another of the same name."""
    groups = (
        *(IDENTITY, REPORT, RUNTIME, SNAPSHOT, LATENCY, LOADING, MEMORY, COMPARISONS),
        *(VERDICT, POWER, PAPER, OUTPUTS, COMPUTED),
    )
    assert sum(map(len, groups)) == len(ALL)


@EVERY
def test_a_name_says_its_unit(column: Column) -> None:
    """A cell and a metric have the unit that the name ends in."""
    assert (column.unit == "B") <= column.kind.whole
    if column.cell is not None and column.cell.unit:
        assert columns.SHOWN[column.cell.unit][0] == column.unit
    if column.compared is not None:
        assert column.unit in ("s", "B", "J", "W")


@EVERY
def test_an_entry_is_complete(column: Column) -> None:
    """Each entry has a meaning and stands in a view."""
    assert re.fullmatch(r"[^|\n]{8,240}", column.meaning)
    assert not column.meaning.endswith(".")
    shown = (*columns.OF_JOBS, *columns.OF_RUNS, *columns.OF_PAIRS, *columns.OF_COMPARISONS)
    assert column in shown
    assert bool(column.over) <= column.origin.stored


def test_the_guards_columns_are_those_of_the_analysis() -> None:
    """What analysis/twins.py gives and what the store keeps are the same columns."""
    assert list(twin_columns([], [], "int8")) == [one.name for one in columns.OF_GUARD]


def test_compare_offers_what_the_registry_names() -> None:
    """A metric has the column, unit and words of its entry."""
    assert list(METRICS) == [one.compared.metric for one in ALL if one.compared]
    memory = METRICS["gpu-memory"]
    assert (memory.column, memory.unit, memory.definition) == ("gpu_process_peak_bytes", "B", "paper_memory_kind")
    assert (METRICS["latency-p99"].percent, METRICS["power"].verb, METRICS["load"].is_load) == (99, "takes", True)
    assert all(METRICS[name].definition in ("", *columns.COLUMNS) for name in METRICS)


def test_json_and_boolean_columns_are_known_by_their_kind() -> None:
    """Rows are decoded by the registry."""
    assert columns.names_of_kind(Kind.BOOLEAN) == {"paper", "warmup_converged", "load_cold", "throttled"}
    assert {"conditions", "gpus", "comparison_notes"} < columns.names_of_kind(Kind.JSON)
    assert {one.origin for one in columns.OF_REPORTS} == {one for one in Origin if one.stored}


def test_the_registry_imports_nothing_heavy() -> None:
    """The command line reads it before it has anything to do."""
    heavy = "{'sqlalchemy', 'torch', 'numpy', 'grpc', 'rich', 'google'} & {*sys.modules}"
    program = f"import sys, efficientquant_controller.columns; print({heavy})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
