"""The times at which a SQLite database's main file alone is complete."""

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from efficientquant_controller.model import Build, BuildState, CampaignState, Job, JobState, Run
from efficientquant_controller.store.sql import SqlStore, open_store
from states import move_job, report

OLD = Path(__file__).parents[2] / "fixtures" / "databases" / "0.1.0.db"
# Another program that reads. It prints when it has begun, and reads until its input ends.
READER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN")
connection.execute("SELECT count(*) FROM campaigns").fetchone()
print("reading", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return Path(shutil.copy(OLD, tmp_path / "results.db"))


@pytest.fixture
def served(path: Path) -> Iterator[SqlStore]:
    store = open_store(path)
    yield store
    store.close()


@pytest.fixture
def reader(path: Path, served: SqlStore) -> Iterator[None]:
    """Start another process in the middle of a read transaction."""
    del served  # the store has migrated the database
    command = [sys.executable, "-c", READER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "reading\n"
        yield
        process.stdin.close()


def state_in_a_copy(path: Path) -> str:
    """Return the newest campaign's state in a copy of the main file alone."""
    copy = shutil.copy(path, path.with_name("copy.db"))
    with closing(sqlite3.connect(copy)) as connection:
        return str(connection.execute("SELECT state FROM campaigns ORDER BY number DESC").fetchone()[0])


def begin(store: SqlStore, state: CampaignState = CampaignState.RUNNING, job: JobState = JobState.QUEUED) -> None:
    """Add campaign c2 with one job of one run."""
    campaign = replace(store.campaign("c1"), campaign_id="c2", state=state, ended_unix_s=None)
    jobs = [Job("j2", "c2", "d1", "m", "fp32", job)]
    store.create_campaign(campaign, [Build("c2", "m", "fp32")], jobs, [Run("r2", "j2", 0, 0)])


def end_by_a_report(store: SqlStore) -> None:
    begin(store)
    assert report(store, replace(store.raw_result("r0"), run_id="r2"))


def end_by_a_build(store: SqlStore) -> None:
    begin(store, job=JobState.PENDING)
    store.move_build(Build("c2", "m", "fp32", BuildState.FAILED), 2.0)


def end_by_having_nothing_to_run(store: SqlStore) -> None:
    begin(store, CampaignState.BUILDING, JobState.PENDING)
    store.move_build(Build("c2", "m", "fp32", BuildState.FAILED), 2.0)
    store.begin_running("c2", 2.0)


def end_by_settling(store: SqlStore) -> None:
    begin(store)
    move_job(store, "j2", JobState.FAILED)
    store.settle("c2", 2.0)


def end_by_giving_up(store: SqlStore) -> None:
    begin(store)
    store.give_up("r2", 2.0)


def end_by_a_client(store: SqlStore) -> None:
    begin(store)
    store.cancel_campaign("c2", 2.0)


def end_by_an_error(store: SqlStore) -> None:
    begin(store)
    store.set_aside("c2", "a broken disk", 2.0)


ENDINGS = {
    end_by_a_report: "succeeded", end_by_a_build: "failed", end_by_having_nothing_to_run: "failed",
    end_by_settling: "failed", end_by_giving_up: "failed", end_by_a_client: "cancelled", end_by_an_error: "failed",
}  # fmt: skip


@pytest.mark.parametrize("end", ENDINGS)
def test_the_main_file_is_complete_when_a_campaign_has_ended(
    path: Path, served: SqlStore, end: Callable[[SqlStore], None]
) -> None:
    """A copy of the main file has a campaign's state after each decision that ends the campaign."""
    end(served)
    assert state_in_a_copy(path) == ENDINGS[end]
    assert path.with_name("results.db-wal").stat().st_size == 0


def test_the_main_file_is_older_while_a_campaign_runs(path: Path, served: SqlStore) -> None:
    """A running campaign stays in the log, so that no decision waits for the main file."""
    begin(served)
    assert state_in_a_copy(path) == "succeeded"  # of the campaign before


@pytest.mark.usefixtures("reader")
def test_a_reader_holds_up_no_campaign(served: SqlStore) -> None:
    """A campaign ends, and the next write is made, while another program is reading."""
    begin(served)
    with served._transactions.read() as sql:  # a reader of our own too
        served.cancel_campaign("c2", 2.0)
        served.touch_devices(["d1"], 3.0)
        del sql
    assert served.campaign("c2").state is CampaignState.CANCELLED


def test_a_closed_database_is_one_file(path: Path) -> None:
    """After a clean close the database is a single file, and closing twice is harmless."""
    store = open_store(path)
    begin(store)
    store.close()
    store.close()
    assert [file.name for file in path.parent.iterdir()] == ["results.db"]
    assert state_in_a_copy(path) == "running"


@pytest.mark.usefixtures("reader")
def test_a_reader_holds_up_no_close(path: Path) -> None:
    """The controller closes its database while another program is reading, and loses nothing."""
    store = open_store(path)
    begin(store)
    store.close()
    reopened = open_store(path, read_only=True)
    assert reopened.campaign("c2").state is CampaignState.RUNNING
    reopened.close()


def test_a_closed_database_that_is_gone(path: Path) -> None:
    """Closing does not create a database that was removed."""
    store = open_store(path)
    for file in path.parent.iterdir():
        file.unlink()
    store.close()
    assert list(path.parent.iterdir()) == []
