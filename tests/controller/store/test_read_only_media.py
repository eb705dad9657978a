"""Databases on read-only media, read by a separate process as a user would."""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from efficientquant_controller.store.sql import open_store

OLD = Path(__file__).parents[2] / "fixtures" / "databases" / "0.1.0.db"
# Root may write everywhere, so root gives that right up.
WITHOUT_RIGHTS = ["setpriv", "--bounding-set=-dac_override", "--"] if os.getuid() == 0 else []
# A controller that is killed in the middle of its work.
KILLED = """
import os, signal, sys
from efficientquant_controller.store.sql import open_store
store = open_store(sys.argv[1])
store.touch_devices(["d1"], 77.0)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Make a folder with a database that was served and closed.

    A test makes it read-only.
    """
    folder = tmp_path / "medium"
    folder.mkdir()
    shutil.copy(OLD, folder / "results.db")
    open_store(folder / "results.db").close()
    yield folder
    folder.chmod(0o755)


def make_read_only(folder: Path) -> None:
    for path in (*folder.iterdir(), folder):
        path.chmod(0o555 if path.is_dir() else 0o444)


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run `efficientquant ARGUMENTS` with permissions enforced, even for root."""
    command = [*WITHOUT_RIGHTS, sys.executable, "-m", "efficientquant_controller.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def set_journal_mode(path: Path, mode: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA journal_mode = {mode}")


def closed(folder: Path) -> None:
    """Leave the database as the controller closes it."""
    del folder


def closed_by_an_earlier_release(folder: Path) -> None:
    """Mark the database as having a log, as in a plain copy of a served database."""
    set_journal_mode(folder / "results.db", "WAL")


def killed(folder: Path) -> None:
    """Leave the log and the lock file of a killed controller."""
    subprocess.run([sys.executable, "-c", KILLED, folder / "results.db"], check=False)


@pytest.mark.parametrize("leave", [closed, closed_by_an_earlier_release, killed])
def test_results_on_a_read_only_medium(folder: Path, leave: Callable[[Path], None]) -> None:
    """`results --db` reads a database on a read-only medium and creates no files."""
    leave(folder)
    make_read_only(folder)
    before = sorted(os.listdir(folder))

    done = run("results", "--db", folder / "results.db", "--campaign", "all", "--csv")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\nc1,") == 1
    assert sorted(os.listdir(folder)) == before


def test_backup_from_a_read_only_medium(folder: Path, tmp_path: Path) -> None:
    """`backup` copies a database from a read-only medium."""
    make_read_only(folder)
    done = run("backup", tmp_path / "copy.db", "--db", folder / "results.db")
    assert done.returncode == 0, done.stderr
    assert run("results", "--db", tmp_path / "copy.db").returncode == 0


def test_a_closed_database_needs_no_log(folder: Path) -> None:
    """After a clean close other programs read the file on a read-only medium without options."""
    make_read_only(folder)
    code = "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute('select count(*) from results').fetchone())"
    command = [*WITHOUT_RIGHTS, sys.executable, "-c", code, folder / "results.db"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "(1,)\n"


def test_a_log_without_its_lock_file(folder: Path) -> None:
    """A log that cannot be read from a read-only medium is an error that says what to copy."""
    killed(folder)
    (folder / "results.db-shm").unlink()
    make_read_only(folder)

    done = run("results", "--db", folder / "results.db")

    assert (done.returncode, done.stdout) == (2, "")
    assert "not closed cleanly (results.db-wal next to it)" in done.stderr
    assert "copy these files together to a directory that you can write to" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_database_in_use_is_not_taken_for_an_unchanging_one(folder: Path) -> None:
    """What a running controller has only in its log is read from a read-only place too."""
    store = open_store(folder / "results.db")
    store.create_campaign(replace(store.campaign("c1"), campaign_id="c2"), [], [], [])
    make_read_only(folder)

    done = run("results", "--db", folder / "results.db", "--campaign", "c2", "--json")

    folder.chmod(0o755)
    store.close()
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_an_older_database_on_a_read_only_medium(folder: Path) -> None:
    """An older database on a read-only medium is refused with advice to copy it for the migration."""
    shutil.copy(OLD, folder / "results.db")
    make_read_only(folder)

    done = run("results", "--db", folder / "results.db")

    assert (done.returncode, done.stdout) == (2, "")
    assert "copy it to a directory that you can write to, and open that copy once with" in done.stderr


@pytest.mark.parametrize("name", ["results.db", "new.db"])
def test_serve_on_a_read_only_medium(folder: Path, name: str) -> None:
    """`serve` refuses a file or a folder that it cannot write, and creates nothing."""
    make_read_only(folder)
    before = sorted(os.listdir(folder))

    done = run("serve", "--db", folder / name, "--listen", "127.0.0.1:0")

    assert (done.returncode, done.stdout) == (2, "")
    assert "read-only" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert sorted(os.listdir(folder)) == before
