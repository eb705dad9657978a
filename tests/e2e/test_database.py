"""The database file of a controller: copies, locks and another controller."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from efficientquant_controller.store.sql import open_store
from fleet import Fleet


def states_in(path: Path | str) -> list[str]:
    """Return the campaigns' states in a database file."""
    with closing(sqlite3.connect(path)) as connection:
        return [state for (state,) in connection.execute("SELECT state FROM campaigns")]


def test_the_database_file(fleet: Fleet) -> None:
    """The file is complete after a campaign, can be backed up while served, and is alone after SIGTERM."""
    fleet.connect_agent("bench-1")
    row = fleet.bench_once("mobilevit_xxs")
    assert states_in(shutil.copy(fleet.db, fleet.folder / "main-file.db")) == ["succeeded"]

    done = fleet.run("backup", str(fleet.folder / "backup.db"), "--db", str(fleet.db))
    assert done.returncode == 0, done.stderr
    assert "MiB, 1 campaign, 1 run, schema" in done.stdout
    assert fleet.json("results", "--db", str(fleet.folder / "backup.db")) == [row]

    assert fleet.controller is not None
    assert fleet.controller.kill(signal.SIGTERM) == 0
    assert [name for name in os.listdir(fleet.folder) if name.startswith("results.db")] == ["results.db"]
    assert states_in(fleet.db) == ["succeeded"]
    assert "leaked" not in fleet.controller.log.read_text()  # by the child that had built the artifact


def test_a_database_that_is_locked_at_the_start(tmp_path: Path) -> None:
    """A controller exits with 75 when its database is locked at start."""
    database = tmp_path / "results.db"
    open_store(database).close()
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        command = [sys.executable, "-m", "efficientquant_controller.cli", "serve", "--db", str(database)]
        done = subprocess.run([*command, "--listen", "127.0.0.1:0"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (75, "")
    assert "is locked; close the program that uses it, then try again" in done.stderr


def test_a_controller_that_lost_its_database_keeps_its_artifacts(fleet: Fleet) -> None:
    """A controller exits when another has taken its database over, and removes nothing."""
    controller = fleet.controller
    artifact = fleet.folder / "results-artifacts" / "an artifact"
    artifact.write_bytes(b"bytes")
    with closing(sqlite3.connect(fleet.db, timeout=30)) as other, other:
        other.execute("UPDATE controller_lease SET token = 'another', holder = 'another controller'")
    assert controller.popen.wait(30) == 75
    assert "another controller has taken over" in controller.log.read_text()
    assert artifact.exists()
