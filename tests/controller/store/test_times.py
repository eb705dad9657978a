"""Tests that every view has times, the device and the agent."""

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from shutil import copy

import pytest
from efficientquant_controller.model import JobState, RunResult
from efficientquant_controller.store.sql import open_store
from states import report

SCHEMA_5 = Path(__file__).parents[2] / "fixtures" / "databases" / "0.1.0-schema-5.db"
NAMES = "device_id, agent_version, started_unix_s, reported_unix_s, clock_offset_s"


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Return a migrated database.

    It has a campaign "new" of one job with a failed and two succeeded runs.
    """
    path = Path(copy(SCHEMA_5, tmp_path / "results.db"))
    store = open_store(path)
    job, run = store.job("j1"), store.run("r0")
    runs = [
        replace(
            run, run_id=f"new-{index}", job_id="new", repeat_index=index, position=index, attempt=0, state="planned"
        )
        for index in range(3)
    ]
    store.create_campaign(
        replace(store.campaign("c1"), campaign_id="new"),
        [],
        [replace(job, job_id="new", campaign_id="new", state=JobState.QUEUED)],
        runs,
    )
    measured: RunResult = replace(store.raw_result("r0"), agent_version="0.2.0")
    for index, offset_s in enumerate((-4.0, -2.0)):
        timed = replace(measured, run_id=f"new-{index}", started_unix_s=100.0 + index)
        report(store, replace(timed, measured={**measured.measured, "clock_offset_s": offset_s}), 200.0 + index)
    failed = replace(measured, run_id="new-2", started_unix_s=0.0, latency_s=(), failure_type="load_failed")
    report(store, replace(failed, failure_message="no"), 300.0)
    store.close()
    return path


def rows(path: Path, view: str, campaign_id: str) -> list[tuple]:
    with closing(sqlite3.connect(path)) as connection:
        query = f"SELECT {NAMES} FROM {view} WHERE campaign_id = ? ORDER BY reported_unix_s"
        return connection.execute(query, [campaign_id]).fetchall()


def test_runs_have_their_times(database: Path) -> None:
    """A run has its start by the device's clock, that clock's offset, and its commit."""
    assert rows(database, "run_results", "new") == [
        ("d1", "0.2.0", 100.0, 200.0, -4.0),
        ("d1", "0.2.0", 101.0, 201.0, -2.0),
        ("d1", "0.2.0", 0.0, 300.0, None),
    ]


def test_a_job_has_its_first_start_and_its_last_commit(database: Path) -> None:
    """A job's times span its runs, the failed ones included."""
    assert rows(database, "results", "new") == [("d1", "0.2.0", 100.0, 300.0, -3.0)]


def test_comparisons_have_the_variants_times(database: Path) -> None:
    """A comparison has the variant's times, and no offset from before schema 6."""
    assert rows(database, "comparisons", "c0") == [("d1", "0.1.0", 3.0, 6.0, None)]
