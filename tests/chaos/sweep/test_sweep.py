"""Layer (a): every await and every store call of the coordinator fails or is cancelled once, in one process."""

import asyncio
import logging
import shutil
import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import scenario
from efficientquant_controller.store.sql import SqlStore, open_store
from faults import Faults, Kind
from sqlalchemy import event

# Calls that meet at the same time differ a little between plays.
LEAST_POINTS = 50


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scenario.prepared(tmp_path_factory.mktemp("sweep"))


@pytest.fixture
def store(prepared: Path, tmp_path: Path) -> Iterator[SqlStore]:
    """Open a copy of the database, without waiting for the disk."""
    opened = open_store(shutil.copy(prepared, tmp_path / "sweep.db"))
    engine = opened._transactions._engine
    event.listen(engine, "connect", lambda raw, _: raw.execute("PRAGMA synchronous = OFF"))
    with closing(engine.raw_connection()) as connection:  # the one that opened it
        connection.cursor().execute("PRAGMA synchronous = OFF")
    yield opened
    opened.close()


def play(prepared: Path, store: SqlStore, kind: Kind | None = None, index: int = -1) -> Faults:
    """Play the scenario with one fault, and check the invariants at its end."""
    with closing(sqlite3.connect(prepared)) as source, closing(store._transactions._engine.raw_connection()) as target:
        source.backup(target.driver_connection)
    store.known_snapshots.clear()

    async def run() -> Faults:
        faults = Faults(kind, index)
        played = scenario.Scenario(store, faults)
        try:
            await asyncio.wait_for(played.play(), 60)
            wrong = scenario.problems(played)
        finally:
            played.coordinator.close()
        assert not wrong, f"{kind} at point {index}: {wrong}"
        return faults

    return asyncio.run(run())


def play_strictly(prepared: Path, store: SqlStore, kind: Kind, index: int) -> Faults:
    """Play the scenario, where a warning is an error too."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return play(prepared, store, kind, index)


@pytest.mark.parametrize("kind", Kind, ids=lambda kind: kind.name.lower())
def test_no_point_is_left_out(prepared: Path, store: SqlStore, kind: Kind, caplog: pytest.LogCaptureFixture) -> None:
    """After a fault at any point, every campaign ends and no acknowledged result is lost."""
    caplog.set_level(logging.ERROR, logger="asyncio")
    undisturbed = play(prepared, store).points[kind]
    index = 0
    while play_strictly(prepared, store, kind, index).done:
        index += 1
    assert index > LEAST_POINTS < undisturbed, "the sweep ended before the last point"
    assert index > 0.8 * undisturbed, "faults left out a part of the scenario"
    assert "Traceback" not in caplog.text, caplog.text
