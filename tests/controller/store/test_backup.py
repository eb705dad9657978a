"""Copies of a database that is being written."""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
from efficientquant_controller.errors import StoreError
from efficientquant_controller.store import backup
from efficientquant_controller.store.backup import Content, copy_database
from efficientquant_controller.store.sql import SqlStore, open_store

DATABASES = Path(__file__).parents[2] / "fixtures" / "databases"
# A copy that stops after its first page, prints the phase and waits.
STUCK = """
import sys
from pathlib import Path
from efficientquant_controller.store import backup
backup.STEP_PAGES = 1
def wait(phase, fraction):
    print(phase, flush=True)
    sys.stdin.read()
backup.copy_database(Path("results.db"), Path("copy.db"), overwrite=False, on_progress=wait)
"""
# A copy for which the disk is too small: 16 KiB of a file can be written.
FULL = """
import resource
from pathlib import Path
from efficientquant_controller.store import backup
resource.setrlimit(resource.RLIMIT_FSIZE, (16384, 16384))
backup.copy_database(Path("results.db"), Path("copy.db"), overwrite=False, on_progress=lambda *_: None)
"""


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(backup, "STEP_PAGES", 1)
    return Path(shutil.copy(DATABASES / "0.1.0.db", tmp_path / "results.db"))


@pytest.fixture
def served(path: Path) -> Iterator[SqlStore]:
    """Open the database as a controller does."""
    store = open_store(path)
    yield store
    store.close()


def ignore(*_progress: object) -> None:
    """Ignore a copy's progress."""


def names(folder: Path) -> list[str]:
    """Return the names of a folder's files, except the database and its log."""
    return sorted(name for name in os.listdir(folder) if not name.startswith("results.db"))


def test_a_copy_of_a_served_database(path: Path, served: SqlStore) -> None:
    """A copy has what was committed, is one file without a log, and reports its content."""
    served.touch_devices(["d1"], 77.0)
    copy = path.with_name("copy.db")

    content = copy_database(path, copy, overwrite=False, on_progress=ignore)

    assert content == Content("0008", campaigns=1, runs=2)
    assert names(path.parent) == ["copy.db"]
    assert copy.read_bytes()[18:20] == b"\1\1"  # no write-ahead log, so it opens from a read-only medium
    with closing(sqlite3.connect(copy)) as connection:
        assert connection.execute("SELECT last_seen_unix_s FROM devices").fetchall() == [(77.0,)]


def test_a_copy_ends_under_constant_writes(path: Path, served: SqlStore) -> None:
    """A write between any two pages neither restarts the copy nor enters it."""
    fractions = []

    def write(phase: str, fraction: float) -> None:
        fractions.append(fraction)
        if phase == "copying":
            served.touch_devices(["d1"], 1000.0 + fraction)

    copy_database(path, path.with_name("copy.db"), overwrite=False, on_progress=write)

    copied = fractions[:-1]
    assert copied == sorted(copied)
    assert copied[-1] == 1.0
    with closing(sqlite3.connect(path.with_name("copy.db"))) as connection:
        assert connection.execute("SELECT last_seen_unix_s FROM devices").fetchone()[0] < 1000.0
    assert served.device("d1").last_seen_unix_s == 1001.0


def test_an_older_database_is_copied_as_it_is(path: Path) -> None:
    """A copy can be made before a new release migrates the database."""
    content = copy_database(path, path.with_name("copy.db"), overwrite=False, on_progress=ignore)
    assert content == Content("0001", campaigns=1, runs=2)


def test_an_interrupted_copy_leaves_nothing(path: Path) -> None:
    """Ctrl-C in the middle leaves neither the copy nor a part of it."""

    def interrupt(*_progress: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy_database(path, path.with_name("copy.db"), overwrite=False, on_progress=interrupt)
    assert names(path.parent) == []


def test_a_killed_copy_has_no_name(path: Path) -> None:
    """A killed copy leaves only files that are named partial."""
    command = [sys.executable, "-c", STUCK]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=path.parent, text=True, **pipes) as process:
        assert process.stdout.readline() == "copying\n"
        process.kill()
    assert all(name.startswith("copy.db.") and name.endswith(".partial") for name in names(path.parent))


def test_a_full_disk(path: Path) -> None:
    """On a full disk the error names the copy, and nothing of it is kept."""
    done = subprocess.run([sys.executable, "-c", FULL], cwd=path.parent, capture_output=True, text=True, check=False)
    assert "StoreError: cannot write the copy copy.db: " in done.stderr
    assert "check the disk space and permissions there; nothing was kept" in done.stderr
    assert names(path.parent) == []


def test_a_disk_that_is_known_to_be_too_small(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy that cannot fit is refused before it begins."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: SimpleNamespace(free=9))
    with pytest.raises(StoreError, match=r"it takes 0\.\d MiB and 0\.0 MiB are free; make room"):
        copy_database(path, path.with_name("copy.db"), overwrite=False, on_progress=ignore)


def test_a_damaged_database_is_not_copied(path: Path) -> None:
    """A copy that fails SQLite's check is not kept."""
    with closing(sqlite3.connect(path)) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'events'").fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)
    with pytest.raises(StoreError, match="the database is damaged; nothing was kept"):
        copy_database(path, path.with_name("copy.db"), overwrite=False, on_progress=ignore)
    assert names(path.parent) == []


def test_overwriting_is_asked_for(path: Path) -> None:
    """An existing file is replaced only with `overwrite`."""
    copy = path.with_name("copy.db")
    copy.write_text("mine")
    with pytest.raises(StoreError, match=r"copy\.db: it exists; name a new file, or replace this one with --overwrite"):
        copy_database(path, copy, overwrite=False, on_progress=ignore)
    assert copy.read_text() == "mine"
    copy_database(path, copy, overwrite=True, on_progress=ignore)
    assert copy.read_bytes().startswith(b"SQLite format 3\0")


@pytest.mark.parametrize("name", ["results.db", "results.db-wal", "results.db-journal", "symbolic", "hard"])
def test_a_database_is_not_copied_onto_itself(path: Path, served: SqlStore, name: str) -> None:
    """Neither the database nor its log can be the copy's path, under any name."""
    path.with_name("symbolic").symlink_to(path)
    path.with_name("hard").hardlink_to(path)
    with pytest.raises(StoreError, match="it belongs to the database"):
        copy_database(path, path.with_name(name), overwrite=True, on_progress=ignore)
    assert served.campaign("c1")


def test_the_log_of_another_database_is_in_the_way(path: Path) -> None:
    """A copy is refused next to another database's log, which SQLite would use as the copy's."""
    path.with_name("copy.db-wal").touch()
    with pytest.raises(StoreError, match=r"copy\.db-wal of another database lies there"):
        copy_database(path, path.with_name("copy.db"), overwrite=True, on_progress=ignore)


@pytest.mark.parametrize(
    ("name", "problem"), [("", "is a directory"), ("missing/copy.db", "does not exist"), ("n" * 300, "name too long")]
)
def test_a_place_that_will_not_do(path: Path, name: str, problem: str) -> None:
    """A path that cannot hold the copy is named, and nothing is created."""
    with pytest.raises(StoreError, match=f"cannot write the copy .*{problem}"):
        copy_database(path, path.parent / name, overwrite=True, on_progress=ignore)
    assert names(path.parent) == []
