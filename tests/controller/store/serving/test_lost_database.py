"""Databases that vanish, are replaced, locked or restarted while a controller uses them."""

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from efficientquant_controller.errors import StoreBusyError, StoreError
from efficientquant_controller.model import DeviceSnapshot
from efficientquant_controller.store import opening, transactions
from efficientquant_controller.store.controller_lease import ControllerLease
from efficientquant_controller.store.sql import SqlStore, open_store
from postgres_server import PostgresServer, running_server
from sqlalchemy import make_url, text
from sqlalchemy.exc import OperationalError

TIMEOUT_S = 0.25
GONE = "results.db was removed while the controller uses it; put the original back, or restart the controller"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results.db"


@pytest.fixture
def served(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SqlStore]:
    """Open a database with device d1 as a controller that waits only briefly."""
    monkeypatch.setattr(opening, "WRITER_TIMEOUT_S", TIMEOUT_S)
    monkeypatch.setattr(transactions, "WRITER_TIMEOUT_S", TIMEOUT_S)
    store = open_store(path, lease=ControllerLease())
    store.register_device("d1", "bench-1", "0.1.0", 1, DeviceSnapshot(), 1.0)
    yield store
    store.close()


def remove(path: Path) -> None:
    for file in path.parent.iterdir():
        file.unlink()


def write_during(store: SqlStore, happen: Callable[[], object]) -> None:
    """Write before and after something happens, in one transaction."""
    statement = text("UPDATE devices SET last_seen_unix_s = last_seen_unix_s + 7.0")
    with store._transactions.write() as sql:
        sql.execute(statement)
        happen()
        sql.execute(statement)


@pytest.mark.parametrize("write", [SqlStore.renew, lambda store: store.touch_devices(["d1"], 2.0)])
def test_a_database_that_was_removed(path: Path, served: SqlStore, write: Callable[[SqlStore], None]) -> None:
    """A removed file is noticed at the next write and at each one after it, and nothing is created."""
    remove(path)
    for _ in range(2):
        with pytest.raises(StoreError, match=GONE):
            write(served)
    served.close()
    assert list(path.parent.iterdir()) == []


def test_a_database_that_is_removed_during_a_write(path: Path, served: SqlStore) -> None:
    """A write whose file vanished before the commit is not acknowledged."""
    with pytest.raises(StoreError, match=GONE):
        write_during(served, lambda: remove(path))


def test_no_connection_creates_a_file(path: Path, served: SqlStore) -> None:
    """A new connection to a removed database fails, and leaves no empty database."""
    served._transactions._engine.dispose()
    remove(path)
    for use in (SqlStore.devices, SqlStore.renew, SqlStore.close):
        if use is SqlStore.close:
            use(served)
        else:
            with pytest.raises(StoreError, match="unable to open database file"):
                use(served)
    assert list(path.parent.iterdir()) == []


def test_a_database_that_was_replaced(path: Path, served: SqlStore) -> None:
    """Another file of the database's name is noticed at the next write, and is not changed."""
    other = path.with_name("other.db")
    open_store(other).close()
    shutil.move(path, path.with_name("away.db"))
    shutil.move(other, path)
    before = path.read_bytes()

    for write in (SqlStore.renew, lambda store: store.touch_devices(["d1"], 2.0)):
        with pytest.raises(StoreError, match=r"results\.db was replaced by another file while the controller uses it"):
            write(served)
    served.close()
    assert path.read_bytes() == before


def test_a_database_that_is_put_back(path: Path, served: SqlStore) -> None:
    """A file that was moved away and back is used again."""
    shutil.move(path, path.with_name("away.db"))
    with pytest.raises(StoreError, match="was removed"):
        served.renew()
    shutil.move(path.with_name("away.db"), path)
    served.touch_devices(["d1"], 5.0)
    assert served.device("d1").last_seen_unix_s == 5.0


def test_a_locked_database(path: Path, served: SqlStore) -> None:
    """A write waits for another program for a limited time, and succeeds when that has ended."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        begun_s = time.monotonic()
        for write in (SqlStore.renew, lambda store: store.touch_devices(["d1"], 2.0)):
            with pytest.raises(StoreBusyError, match="refused: database is locked"):
                write(served)
        assert 2 * TIMEOUT_S <= time.monotonic() - begun_s < 20
        assert served.device("d1").last_seen_unix_s == 1.0  # reading goes on
        other.execute("COMMIT")
    served.touch_devices(["d1"], 3.0)
    assert served.device("d1").last_seen_unix_s == 3.0


def test_a_database_that_cannot_be_written(path: Path, served: SqlStore) -> None:
    """A renewal proves that the database takes writes, with and without a lease."""
    served.close()
    for lease in (None, ControllerLease()):
        store = open_store(path, lease=lease)
        store.renew()
        with store._transactions._engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA query_only = ON")
        with pytest.raises(StoreError, match="refused: attempt to write a readonly database"):
            store.renew()
        store.close()
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("DELETE FROM controller_lease")


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """Start a server that a test may stop."""
    with running_server() as server:
        yield server


def test_a_server_that_restarts(server: PostgresServer) -> None:
    """Only a transaction that is open while the server restarts fails, and leaves nothing."""
    store = open_store(server.new_database(), lease=ControllerLease())
    store.register_device("d1", "bench-1", "0.1.0", 1, DeviceSnapshot(), 1.0)
    server.stop()
    with pytest.raises(StoreError, match=r"refused: connection .* failed: No such file or directory"):
        store.renew()
    server.start()
    store.touch_devices(["d1"], 2.0)  # its pooled connections were cut

    with pytest.raises(StoreError, match="refused: "):
        write_during(store, lambda: (server.stop(), server.start()))

    assert store.device("d1").last_seen_unix_s == 2.0
    store.renew()
    store.close()


@pytest.mark.parametrize("place", ["/x?host=/nowhere", "127.0.0.1:1/x", "nowhere.invalid/x"])
def test_a_server_that_is_away(place: str) -> None:
    """A server without a socket, port or name may be up later."""
    with pytest.raises(StoreBusyError):
        open_store(f"postgresql://user@{place}")


def test_a_database_that_the_server_lacks(server: PostgresServer) -> None:
    """Waiting makes no database, so the controller exits for good."""
    url = make_url(server.new_database()).set(database="nowhere").render_as_string(hide_password=False)
    with pytest.raises(StoreError, match='database "nowhere" does not exist') as refusal:
        open_store(url)
    assert not isinstance(refusal.value, StoreBusyError)


@pytest.mark.parametrize(
    ("sentence", "passes"), [("database or disk is full", True), ("database disk image is malformed", False)]
)
def test_what_a_wait_can_mend(sentence: str, passes: bool) -> None:
    """Room on a disk may come, a damaged file stays damaged."""
    assert opening.is_passing(sqlite3.OperationalError(sentence), is_server=False) is passes


@pytest.mark.parametrize(
    ("sentence", "passes"),
    [
        ("SSL connection has been closed unexpectedly", True),
        ("server does not support SSL, but SSL was required", False),
        ('FATAL:  password authentication failed for user "eq"', False),
    ],
)
def test_what_a_wait_can_mend_on_a_server(sentence: str, passes: bool) -> None:
    """A cut connection comes back, a wrong password stays wrong."""
    error = OperationalError("SELECT 1", {}, Exception(sentence))
    assert opening.is_passing(error, is_server=True) is passes


def test_a_log_that_was_removed(path: Path, served: SqlStore) -> None:
    """After the log was removed nothing is acknowledged, and what it held is saved."""
    path.with_name("results.db-wal").unlink()
    for _ in range(2):
        with pytest.raises(StoreError, match="lost its log"):
            served.touch_devices(["d1"], 2.0)
    alone = shutil.copy(path, path.with_name("alone.db"))
    with closing(sqlite3.connect(alone)) as database:
        assert database.execute("SELECT device_id, last_seen_unix_s FROM devices").fetchall() == [("d1", 1.0)]


def test_a_log_that_is_removed_during_a_write(path: Path, served: SqlStore) -> None:
    """The write is refused, and what the log held with it is saved."""
    with pytest.raises(StoreError, match="lost its log"):
        write_during(served, path.with_name("results.db-wal").unlink)
    alone = shutil.copy(path, path.with_name("alone.db"))
    with closing(sqlite3.connect(alone)) as database:
        assert database.execute("SELECT device_id, last_seen_unix_s FROM devices").fetchall() == [("d1", 15.0)]


def test_another_program_that_opens_and_closes_the_database(path: Path, served: SqlStore) -> None:
    """Another program does not remove the log of a served database."""
    served.touch_devices(["d1"], 2.0)
    log = path.with_name("results.db-wal").stat().st_ino
    code = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('SELECT * FROM devices').fetchall()"
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, timeout=60)

    served.touch_devices(["d1"], 3.0)

    assert path.with_name("results.db-wal").stat().st_ino == log


@pytest.fixture
def linked(tmp_path: Path) -> Iterator[SqlStore]:
    """Return a served store with one device, which was opened through a symbolic link."""
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "link.db"
    link.symlink_to(tmp_path / "linked.db")
    open_store(tmp_path / "linked.db").close()
    store = open_store(link, lease=ControllerLease())
    store.register_device("d1", "bench-1", "0.1.0", 1, DeviceSnapshot(), 1.0)
    yield store
    store.close()


def test_a_log_that_was_removed_behind_a_link(tmp_path: Path, linked: SqlStore) -> None:
    """A lost log is noticed behind a symbolic link too."""
    (tmp_path / "linked.db-wal").unlink()
    with pytest.raises(StoreError, match="lost its log"):
        linked.touch_devices(["d1"], 2.0)


def truncate_log(path: Path) -> None:
    os.truncate(path.with_name("results.db-wal"), 0)


def replace_lock_file(path: Path) -> None:
    """Let another program use another lock file, and fold the log."""
    path.with_name("results.db-shm").unlink()
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")


@pytest.mark.parametrize("damage", [truncate_log, replace_lock_file])
def test_a_damaged_log_damages_nothing_else(path: Path, served: SqlStore, damage: Callable[[Path], None]) -> None:
    """A damaged log never gets into the main file."""
    served._transactions.checkpoint()
    for number in range(100):  # more than one fold
        served.touch_devices(["d1"], 2.0 + number)
    damage(path)
    for _ in range(70):
        with pytest.raises(StoreError, match=r"lost its lock file|was overwritten or truncated"):
            served.touch_devices(["d1"], 200.0)
    served.close()
    alone = shutil.copy(path, path.with_name("alone.db"))
    with closing(sqlite3.connect(alone)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert database.execute("SELECT count(*) FROM devices").fetchall() == [(1,)]


@pytest.mark.parametrize("name", ["results.db", "results.db-wal"])
def test_a_file_that_was_truncated(path: Path, served: SqlStore, name: str) -> None:
    """After the database or its log was truncated nothing is acknowledged."""
    os.truncate(path.with_name(name), 0)
    for _ in range(2):
        with pytest.raises(StoreError):
            served.touch_devices(["d1"], 2.0)


@pytest.mark.parametrize("writes", [3, *range(60, 68)])
def test_a_file_that_was_overwritten_in_place(path: Path, served: SqlStore, writes: int) -> None:
    """A copy over the file is noticed and left alone, also right after a fold."""
    served._transactions.checkpoint()
    earlier = path.with_name("earlier.db")
    with (
        closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database,
        closing(sqlite3.connect(earlier)) as copy,
    ):
        database.backup(copy)
    for number in range(writes):  # the log is folded after 64
        served.touch_devices(["d1"], 2.0 + number)
    subprocess.run(["cp", earlier, path], check=True)
    for _ in range(70):
        with pytest.raises(StoreError, match="was overwritten by another program"):
            served.touch_devices(["d1"], 200.0)
    served.close()
    assert path.read_bytes() == earlier.read_bytes()


def test_another_program_may_write_and_fold(path: Path, served: SqlStore) -> None:
    """What another program writes through SQLite is no damage, at any time."""
    program = (
        "import sqlite3, sys\n"
        "database = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)\n"
        "for number in range(40):\n"
        "    database.execute('CREATE TABLE IF NOT EXISTS notes (text)')\n"
        "    database.execute('INSERT INTO notes VALUES (zeroblob(50000))')\n"
        "    database.execute('PRAGMA wal_checkpoint(' + ['PASSIVE', 'TRUNCATE', 'RESTART'][number % 3] + ')')\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, path]) as other:
        number = 0
        while other.poll() is None or number < 300:
            number += 1
            try:
                served.touch_devices(["d1"], 2.0 + number)
            except StoreBusyError:
                continue  # the other program writes now
    assert other.returncode == 0
    served.touch_devices(["d1"], 1000.0)
