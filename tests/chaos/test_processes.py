"""Faults of whole processes and of what they stand on: the disk and the database."""

import asyncio
import os
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from fake_agents import Settings
from fleet import Fleet
from invariants import tracebacks
from loads import FakeFleet
from postgres_server import PostgresServer, running_server
from seeding import seed
from sites import LEASE_S, PLAN, QUIET_S, Site, is_root
from waiting import let_pass, until

FULL_S = 6.0
LOCKED_S = 12.0
AWAY_S = 6.0
DISK_BYTES = 40 << 20
TINY = "test_efficientnet"


async def kill_and_freeze(site: Site) -> None:
    for share in (0.1, 0.2, 0.3):
        await site.done(share)
        await site.kill("controller")
    await site.done(0.4)
    site.controller.send(signal.SIGSTOP)
    await let_pass(1.5 * LEASE_S)
    site.controller.send(signal.SIGCONT)
    await site.done(0.5)


def test_a_controller_that_is_killed_and_frozen(tmp_path: Path) -> None:
    """A controller that is killed three times and frozen for longer than a lease loses nothing."""
    assert Site(tmp_path).run(kill_and_freeze) == []


async def disturb_real_agents(site: Site) -> None:
    first, second = "real-1", "real-2"
    await site.submit(TINY, [first, second], repeats=3)
    await site.kill("controller")  # while it builds
    agent = site.units[first]
    await until(lambda: "run " in _log(site, first), 60)
    await site.kill(first)
    await until(lambda: _log(site, first).count("run ") > 1, 60)
    agent.send(signal.SIGSTOP)
    await let_pass(1.5 * LEASE_S)
    agent.send(signal.SIGCONT)
    await site.kill("controller")
    await until(lambda: "run " in _log(site, second), 60)
    await site.kill(second)


def _log(site: Site, name: str) -> str:
    return (site.folder / f"{name}.log").read_text()


def test_real_agents_that_are_killed_and_frozen(tmp_path: Path) -> None:
    """Killed and frozen agents finish their campaign, and none of their results is refused."""
    site = Site(tmp_path)
    for name in ("real-1", "real-2"):
        site.add_agent(name)

    assert site.run(disturb_real_agents) == []

    lines = [line for name in ("real-1", "real-2") for line in _log(site, name).splitlines()]
    assert [line for line in lines if "result of run" in line and "refused" in line] == []


async def lock_database(site: Site) -> None:
    await site.done(0.2)
    with closing(sqlite3.connect(site.database, isolation_level=None, timeout=60)) as other:
        other.execute("BEGIN IMMEDIATE")
        await let_pass(LOCKED_S)
        assert await site.problem() != ""


def test_a_database_that_another_program_locks(tmp_path: Path) -> None:
    """Results wait while another program writes for 12 s, and the controller says so."""
    assert Site(tmp_path).run(lock_database) == []


def test_a_controller_that_is_stopped_while_its_database_is_locked(tmp_path: Path) -> None:
    """It ends although sessions close and results wait, without a traceback."""
    fleet = Fleet(tmp_path)
    seed(fleet.db, tmp_path / "results-artifacts", PLAN)
    controller = fleet.start_controller()
    agents = FakeFleet(Settings(fleet.address, run_s=(0.05, 0.4)), PLAN.devices)

    async def stop() -> int:
        async with agents.serving():
            assert await until(lambda: agents.record.answered >= PLAN.devices, QUIET_S)
            with closing(sqlite3.connect(fleet.db, isolation_level=None, timeout=60)) as other:
                other.execute("BEGIN IMMEDIATE")
                # Results wait for the database now.
                assert await until(lambda: any(agent.outbox for agent in agents.agents), QUIET_S)
                return await asyncio.to_thread(controller.kill, signal.SIGTERM)

    try:
        assert asyncio.run(stop()) == 0
    finally:
        fleet.close()
    assert list(tracebacks([controller.log])) == []


async def move_database(site: Site) -> None:
    await site.done(0.2)
    database = Path(site.database)
    away = database.with_name("away.db")
    database.rename(away)
    await let_pass(AWAY_S)
    assert await site.problem() != ""
    away.replace(database)


def test_a_database_file_that_was_moved_away(tmp_path: Path) -> None:
    """A file that is moved away and put back has every acknowledged result."""
    assert Site(tmp_path).run(move_database) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of a few MiB."""
    if not is_root():
        (pytest.fail if os.environ.get("CI") else pytest.skip)("needs root, to mount a small file system")
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", place], check=True)
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


async def fill_disk(site: Site) -> None:
    await site.done(0.2)
    filler = Path(site.database).with_name("filler")
    with filler.open("wb", buffering=0) as file:
        for block_bytes in (1 << 16, 1 << 12, 1):
            _fill(file.fileno(), block_bytes)
    await let_pass(FULL_S)
    assert await site.problem() != ""
    filler.unlink()


def _fill(handle: int, block_bytes: int) -> None:
    try:
        while True:
            os.write(handle, bytes(block_bytes))
    except OSError:  # no space left
        return


def test_a_full_disk_of_the_controller(tmp_path: Path, small_disk: Path) -> None:
    """Results wait while the disk is full, and are stored when it has room again."""
    assert Site(tmp_path, small_disk / "results.db").run(fill_disk) == []


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """Start a private PostgreSQL server."""
    with running_server() as server:
        yield server


def test_a_postgresql_server_that_is_restarted(tmp_path: Path, server: PostgresServer) -> None:
    """A server that is stopped for some seconds, orderly and not, loses no acknowledged result."""

    async def restart(site: Site) -> None:
        for share, mode in ((0.1, "fast"), (0.3, "immediate")):
            await site.done(share)
            await asyncio.to_thread(server.stop, mode)
            await let_pass(LEASE_S)
            await asyncio.to_thread(server.start)
        await site.kill("controller")

    assert Site(tmp_path, server.new_database()).run(restart) == []
