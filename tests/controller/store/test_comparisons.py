"""The guard's answers in the database."""

import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from efficientquant_controller.errors import StoreError
from efficientquant_controller.fleet.comparing import compared_results
from efficientquant_controller.model import Build, Campaign, DeviceSnapshot, Job, JobState, Measurement, Run
from efficientquant_controller.store import comparisons, tables
from efficientquant_controller.store import sql as store_on_sql
from efficientquant_controller.store.sql import SqlStore, open_store
from efficientquant_controller.store.transactions import Transactions
from sqlalchemy import text
from states import move_job, report

SCHEMA_3 = Path(__file__).parents[2] / "fixtures" / "databases" / "0.1.0-schema-3.db"
GUARD = ("latency_ratio", "latency_ratio_low", "latency_answer", "load_answer", "not_compared", "comparison_notes")


def view(store: SqlStore, campaign_id: str = "c2") -> list[dict[str, Any]]:
    with store._transactions.read() as sql:
        rows = sql.rows(text(f"SELECT * FROM comparisons WHERE campaign_id = '{campaign_id}' ORDER BY job_id"))
    return comparisons.typed(rows)


@pytest.fixture
def twins(planned: SqlStore, campaign: Campaign, make_result: Callable) -> SqlStore:
    """Add campaign c2 with jobs for fp32, int8 and fp16, none of them ended.

    int8 is twice as fast, and fp16 has no result. Each job has one more run without a result.
    """
    recipes = {"fp32": 1.0, "int8": 0.5, "fp16": None}
    measurement = Measurement("demo", 0.1, 3)
    jobs = [Job(f"j-{recipe}", "c2", "d1", "m", recipe, JobState.QUEUED) for recipe in recipes]
    runs = [Run(f"{job.recipe}-{n}", job.job_id, n, n) for job in jobs for n in range(4)]
    builds = [Build("c2", "m", recipe) for recipe in recipes]
    planned.create_campaign(replace(campaign, campaign_id="c2", measurement=measurement), builds, jobs, runs)
    for run in runs:
        if run.repeat_index < 3 and (latency_s := recipes[run.run_id.partition("-")[0]]):
            report(planned, make_result(run.run_id, latency_s=(latency_s,) * 3), 5.0)
    return planned


def test_nothing_is_answered_before_both_jobs_have_ended(twins: SqlStore) -> None:
    """A variant gets its ratio when its twin ends."""
    move_job(twins, "j-int8", JobState.SUCCEEDED)
    waiting = {
        row["recipe"]: (row["latency_ratio"], row["latency_ratio_min"], row["latency_answer"]) for row in view(twins)
    }
    move_job(twins, "j-fp32", JobState.SUCCEEDED)
    answered = {
        row["recipe"]: (row["latency_ratio"], row["latency_ratio_min"], row["latency_answer"]) for row in view(twins)
    }

    assert waiting == {"int8": (None, None, ""), "fp16": (None, None, "")}
    assert answered == {"int8": (2.0, 2.0, "faster"), "fp16": (None, None, "")}  # fp16 has not ended


def test_a_variant_that_ends_last_is_compared(twins: SqlStore) -> None:
    """A variant that ends after its twin is compared at once."""
    for job_id, state in (("j-fp32", JobState.SUCCEEDED), ("j-int8", JobState.SUCCEEDED), ("j-fp16", JobState.FAILED)):
        move_job(twins, job_id, state)
    fp16, int8 = view(twins)
    assert (int8["latency_ratio"], int8["latency_answer"], int8["not_compared"]) == (2.0, "faster", "")
    assert (fp16["latency_ratio"], fp16["not_compared"]) == (None, "no repeat of fp16 has succeeded")
    assert fp16["latency_answer"] == "not comparable"  # as `compare` says


def test_the_commands_say_what_the_view_says(twins: SqlStore) -> None:
    """Rows of `results` have the same answers as the view, whether stored or not."""
    before = {row["job_id"]: [row[name] for name in GUARD] for row in compared_results(twins, "c2")}
    for job_id in ("j-fp32", "j-int8"):
        move_job(twins, job_id, JobState.SUCCEEDED)
    after = {row["job_id"]: [row[name] for name in GUARD] for row in compared_results(twins, "c2")}

    [answered] = [row for row in view(twins) if row["recipe"] == "int8"]
    assert before["j-int8"] == after["j-int8"] == [answered[name] for name in GUARD]
    assert before == after


def test_a_refusal_has_no_ratio(twins: SqlStore) -> None:
    """Where the guard refuses, the view gives the reason instead of a number."""
    with twins._transactions.write() as sql:
        sql.execute(text("UPDATE runs SET session_options = '{\"sync_mode\": \"block\"}' WHERE job_id = 'j-int8'"))
    for job_id in ("j-fp32", "j-int8"):
        move_job(twins, job_id, JobState.SUCCEEDED)

    [row] = [row for row in view(twins) if row["recipe"] == "int8"]
    assert (row["latency_ratio"], row["latency_ratio_max"], row["latency_answer"]) == (None, None, "not comparable")
    assert "sync mode" in row["not_compared"]


def test_an_old_database_is_compared_when_it_is_opened(tmp_path: Path) -> None:
    """A migrated database has the answers of its ended pairs at once."""
    store = open_store(shutil.copy(SCHEMA_3, tmp_path / "old.db"))
    [row] = view(store, "c0")
    store.close()
    assert (row["job_id"], row["latency_answer"], row["not_compared"]) == ("j-int8", "faster", "")
    assert row["latency_ratio"] == pytest.approx(1.99, abs=0.01)


def test_newer_rules_compare_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers of other rules are replaced when the database is opened, and ignored when it is only read."""
    path = shutil.copy(SCHEMA_3, tmp_path / "old.db")
    open_store(path).close()
    monkeypatch.setattr(comparisons, "RULES_VERSION", 1000)
    reader = open_store(path, read_only=True)
    assert (dict(reader.comparisons()), compared_results(reader, "c0")[1]["latency_answer"]) == ({}, "faster")
    reader.close()

    store = open_store(path)

    with store._transactions.read() as sql:
        assert sql.scalars(text("SELECT rules_version FROM job_comparisons")) == [1000]
    assert store.comparisons("c0")["j-int8"]["latency_answer"] == "faster"
    store.close()


def test_a_comparison_that_fails_leaves_no_open_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed comparison at opening still folds the write-ahead log into the file."""
    path = Path(shutil.copy(SCHEMA_3, tmp_path / "old.db"))

    def fail(transactions: Transactions) -> None:
        with transactions.write():
            raise StoreError("no room")

    monkeypatch.setattr(store_on_sql, "compare_again", fail)

    with pytest.raises(StoreError, match="no room"):
        open_store(path)

    assert [file.name for file in tmp_path.iterdir() if "-wal" in file.name] == []


def test_a_long_comparison_says_how_far_it_is(twins: SqlStore, caplog: pytest.LogCaptureFixture) -> None:
    """Comparing for more than two seconds logs its progress, and for less logs nothing."""
    caplog.set_level(logging.INFO)
    with twins._transactions.write() as sql:
        sql.execute(text("UPDATE jobs SET state = 'succeeded' WHERE campaign_id = 'c2'"))

    comparisons.compare_again(twins._transactions, clock=lambda: 0.0)
    assert caplog.messages == []
    with twins._transactions.write() as sql:
        sql.execute(text("DELETE FROM job_comparisons"))
    comparisons.compare_again(twins._transactions, clock=map(float, count(0, 2)).__next__)

    assert caplog.messages == ["comparing variants with fp32 by newer rules: 0 of 1 campaigns"]
    assert [row["recipe"] for row in view(twins) if row["latency_ratio"]] == ["int8"]


def end(store: SqlStore, *job_ids: str) -> None:
    for job_id in job_ids:
        move_job(store, job_id, JobState.SUCCEEDED)


def test_a_twin_is_on_the_same_device_whatever_it_is_called(twins: SqlStore, snapshot: DeviceSnapshot) -> None:
    """A device with a forgotten device's name gets none of its jobs as twins."""
    twins.register_device("d2", "orin", "0.1.0", 1, snapshot, 1.0)
    jobs = [Job(f"o-{recipe}", "c2", "d2", "m", recipe, JobState.QUEUED) for recipe in ("fp32", "int8")]
    with twins._transactions.write() as sql:
        sql.insert_all(tables.jobs, [{**vars(job), "ordinal": 9 + n} for n, job in enumerate(jobs)])
    twins.forget_device("bench-1")
    twins.register_device("d2", "bench-1", "0.1.0", 2, snapshot, 2.0)
    end(twins, "j-fp32", "j-int8", "o-fp32", "o-int8")

    pairs = {row["job_id"]: row["fp32_job_id"] for row in view(twins)}
    answers = {row["job_id"]: row["latency_answer"] for row in compared_results(twins, "c2")}

    assert pairs == {"j-int8": "j-fp32", "j-fp16": "j-fp32", "o-int8": "o-fp32"}
    assert (answers["j-int8"], answers["o-int8"]) == ("faster", "not comparable")


def test_a_damaged_row_keeps_no_job_from_ending(twins: SqlStore, caplog: pytest.LogCaptureFixture) -> None:
    """A row that the guard cannot read gets no answer, is logged, and blocks no later opening."""
    with twins._transactions.write() as sql:
        sql.execute(
            text("UPDATE runs SET conditions = '[1]', gpu_clock_min_hz = 1, realised_precision = '{\"a\": []}'")
        )
        sql.execute(text("UPDATE runs SET session_options = '7' WHERE job_id = 'j-int8'"))
        sql.execute(text("UPDATE runs SET verdict_reasons = '7', verdict = 'B' WHERE job_id = 'j-int8'"))

    end(twins, "j-fp32", "j-int8")
    comparisons.compare_again(twins._transactions)

    assert twins.job("j-int8").state is JobState.SUCCEEDED
    assert [row["latency_answer"] for row in view(twins) if row["recipe"] == "int8"] == [""]
    assert "job j-int8 was not compared with fp32, for a damaged row" in caplog.text


def test_a_damaged_row_costs_only_its_own_pair(twins: SqlStore) -> None:
    """Despite a damaged row, the campaign's other variants are compared."""
    with twins._transactions.write() as sql:
        sql.execute(
            text("UPDATE runs SET state = 'succeeded', verdict = 'B', verdict_reasons = '7' WHERE job_id = 'j-fp16'")
        )

    end(twins, "j-int8", "j-fp16", "j-fp32")

    assert {row["recipe"]: row["latency_answer"] for row in view(twins)} == {"int8": "faster", "fp16": ""}


def test_an_answer_holds_no_nul(twins: SqlStore) -> None:
    """NUL in an answer is replaced, because PostgreSQL's text cannot hold it."""
    with twins._transactions.write() as sql:
        update = tables.runs.update().where(tables.runs.c.job_id == "j-int8")
        sql.execute(update.values(verdict="INVALID"))
    original = comparisons.twin_columns
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparisons, "twin_columns", lambda *given: {**original(*given), "not_compared": "mode\0X"})
        end(twins, "j-fp32", "j-int8")

    assert [row["not_compared"] for row in view(twins) if row["recipe"] == "int8"] == ["mode\ufffdX"]


def test_twins_are_found_by_an_index(tmp_path: Path) -> None:
    """Opening a database looks each twin up by an index, without scanning jobs of other campaigns."""
    store = open_store(tmp_path / "results.db")
    query = comparisons._campaigns_to_compare().compile(compile_kwargs={"literal_binds": True})

    with store._transactions.read() as sql:
        plan = [str(row["detail"]) for row in sql.rows(text(f"EXPLAIN QUERY PLAN {query}"))]
    store.close()

    assert any("ix_jobs_place (campaign_id=? AND device_id=? AND model=? AND recipe=?)" in line for line in plan), plan
