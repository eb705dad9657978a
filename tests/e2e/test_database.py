"""Copies of a running controller's database file."""

import os
import shutil
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

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
