"""The times at which a SQLite database's main file alone is complete."""

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from efficientquant_controller.model import CampaignState
from efficientquant_controller.store.sql import SqlStore, open_store

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
    """Return the campaign's state in a copy of the main file alone."""
    copy = shutil.copy(path, path.with_name("copy.db"))
    with closing(sqlite3.connect(copy)) as connection:
        return str(connection.execute("SELECT state FROM campaigns").fetchone()[0])


def test_the_main_file_is_complete_when_a_campaign_has_ended(path: Path, served: SqlStore) -> None:
    """A copy of the main file has a campaign's state once the campaign has ended."""
    served.set_campaign_state("c1", CampaignState.RUNNING, 1.0)
    assert state_in_a_copy(path) != "running"
    served.set_campaign_state("c1", CampaignState.FAILED, 2.0)
    assert state_in_a_copy(path) == "failed"
    assert path.with_name("results.db-wal").stat().st_size == 0


@pytest.mark.usefixtures("reader")
def test_a_reader_holds_up_no_campaign(served: SqlStore) -> None:
    """A campaign ends, and the next write is made, while another program is reading."""
    with served._transactions.read() as sql:  # a reader of our own too
        served.set_campaign_state("c1", CampaignState.CANCELLED, 2.0)
        served.touch_device("d1", 3.0)
        del sql
    assert served.campaign("c1").state is CampaignState.CANCELLED


def test_a_closed_database_is_one_file(path: Path) -> None:
    """After a clean close the database is a single file, and closing twice is harmless."""
    store = open_store(path)
    store.set_campaign_state("c1", CampaignState.RUNNING, 1.0)
    store.close()
    store.close()
    assert [file.name for file in path.parent.iterdir()] == ["results.db"]
    assert state_in_a_copy(path) == "running"


@pytest.mark.usefixtures("reader")
def test_a_reader_holds_up_no_close(path: Path) -> None:
    """The controller closes its database while another program is reading, and loses nothing."""
    store = open_store(path)
    store.set_campaign_state("c1", CampaignState.RUNNING, 1.0)
    store.close()
    reopened = open_store(path, read_only=True)
    assert reopened.campaign("c1").state is CampaignState.RUNNING
    reopened.close()


def test_a_closed_database_that_is_gone(path: Path) -> None:
    """Closing does not create a database that was removed."""
    store = open_store(path)
    for file in path.parent.iterdir():
        file.unlink()
    store.close()
    assert list(path.parent.iterdir()) == []
