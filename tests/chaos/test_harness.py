"""The harness itself: its proxy, its supervisor and what its invariants notice."""

import asyncio
import random
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

import pytest
from invariants import contradictions, open_campaigns, query, tracebacks, unkept_promises
from proxy import FrameBodies, Proxy, WireFaults
from record import Record
from reports import of_bytes
from seeding import Plan, seed
from sites import AGENT_UNIT, CONTROLLER_UNIT
from supervisor import Rules, read_rules

SETTINGS_FRAME = b"\0\0\0\4\0\0\0\0\0"
DATA_FRAME = b"\0\0\6\0\0\0\0\0\1second"
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter, WireFaults], Awaitable[bytes]]


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
    writer.close()


def through_proxy(talk: Talk) -> bytes:
    """Talk to an echo server through a proxy."""

    async def run() -> bytes:
        server = await asyncio.start_server(_echo, "127.0.0.1", 0)
        proxy = Proxy(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
        async with server, proxy.listening() as address:
            reader, writer = await asyncio.open_connection(*address.split(":"))
            writer.write(SETTINGS_FRAME)
            assert await reader.readexactly(len(SETTINGS_FRAME)) == SETTINGS_FRAME
            try:
                return await talk(reader, writer, WireFaults(proxy, random.Random(1), 0.2))
            finally:
                writer.close()

    return asyncio.run(run())


@pytest.mark.parametrize("kind", ["delay", "freeze up", "freeze down"])
def test_a_slow_connection_loses_no_byte(kind: str) -> None:
    """Delayed and frozen bytes arrive, in order."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, faults: WireFaults) -> bytes:
        assert faults.perform(kind)
        writer.write(b"second")
        return await reader.readexactly(6)

    assert through_proxy(talk) == b"second"


@pytest.mark.parametrize("kind", ["corrupt up", "corrupt down"])
def test_a_corrupted_connection_changes_one_bit(kind: str) -> None:
    """A corrupted direction changes one bit, once."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, faults: WireFaults) -> bytes:
        assert faults.perform(kind)
        writer.write(DATA_FRAME)
        return await reader.readexactly(len(DATA_FRAME))

    changed = int.from_bytes(through_proxy(talk)) ^ int.from_bytes(DATA_FRAME)
    assert changed.bit_count() == 1


def test_frames_keep_their_headers() -> None:
    """Only the bodies of DATA and HEADERS frames count, in whatever pieces they arrive."""
    stream = SETTINGS_FRAME + DATA_FRAME + b"\0\0\4\7\0\0\0\0\0away" + b"\0\0\2\1\0\0\0\0\3hi" + DATA_FRAME
    inside = [*range(18, 24), *range(46, 48), *range(57, 63)]
    for size in (1, 2, 7, 10, len(stream)):
        bodies = FrameBodies()
        pieces = [(at, stream[at : at + size]) for at in range(0, len(stream), size)]
        assert [at + position for at, piece in pieces for position in bodies.positions(piece)] == inside


@pytest.mark.parametrize(("kind", "error"), [("cut by RST", ConnectionResetError), ("cut by FIN", None)])
def test_a_cut_connection_ends(kind: str, error: type[OSError] | None) -> None:
    """A cut ends both sides, by RST with an error and by FIN without."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, faults: WireFaults) -> bytes:
        del writer
        assert faults.perform(kind)
        return await reader.read()

    if error is None:
        assert through_proxy(talk) == b""
    else:
        with pytest.raises(error):
            through_proxy(talk)


def test_the_units_rules() -> None:
    """The supervisor starts what systemd starts again, and nothing else."""
    controller, agent = read_rules(CONTROLLER_UNIT, scale=10), read_rules(AGENT_UNIT)

    assert (controller.restart, controller.delay_s, agent.delay_s) == ("on-failure", 0.5, 5.0)
    assert [controller.restarts(status) for status in (0, 1, 2, 75, -9, -15)] == [False, True, False, True, True, False]
    assert [agent.restarts(status) for status in (1, 2, 3, 4)] == [True, False, False, False]
    assert Rules("always").restarts(0)


def test_what_the_invariants_notice(tmp_path: Path) -> None:
    """A lost result, a doubled one, an open campaign, a lone result and a traceback are noticed."""
    database, log = tmp_path / "results.db", tmp_path / "controller.log"
    [campaign_id] = seed(database, tmp_path / "artifacts", Plan(1, repeats=1))
    run_ids = [run_id for (run_id,) in query(database, "SELECT run_id FROM runs ORDER BY run_id")]
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE runs SET state = 'succeeded' WHERE run_id = ?", (run_ids[0],))
    log.write_text("fine\nTraceback (most recent call last):\n  a bug\n")
    record, report = Record(), of_bytes(run_ids[1], b"a result")
    record.sent(report)
    record.acknowledged(report, duplicate=False)
    record.acknowledged(report, duplicate=False)

    promises = list(unkept_promises(database, record))

    assert any("2 reports that were answered as new" in problem for problem in promises)
    assert any("was acknowledged and is not in the database" in problem for problem in promises)
    assert list(contradictions(database)) == [f"run {run_ids[0]} succeeded without a result"]
    assert [problem.split(" is ")[0] for problem in open_campaigns(database)] == [f"campaign {campaign_id}"]
    assert "a bug" in next(tracebacks([log]))
