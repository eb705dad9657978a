"""The lease by which one controller at a time serves a database."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from efficientquant_controller.errors import LeaseHeldError, LeaseLostError, StoreError
from efficientquant_controller.model import DeviceSnapshot, Event
from efficientquant_controller.store import controller_lease
from efficientquant_controller.store.backup import copy_database
from efficientquant_controller.store.controller_lease import LEASE_S, RENEWAL_S, ControllerLease
from efficientquant_controller.store.sql import SqlStore, open_store
from sqlalchemy import text
from states import rows_of

# A controller that tells whether it serves the database, and then waits.
CONTROLLER = """
import sys
from efficientquant_controller.errors import LeaseHeldError
from efficientquant_controller.store.controller_lease import ControllerLease
from efficientquant_controller.store.sql import open_store
try:
    store = open_store(sys.argv[1], lease=ControllerLease())
    print("serves", flush=True)
except LeaseHeldError as error:
    print("refused", flush=True)
sys.stdin.read()
"""
Open = Callable[..., SqlStore]
ELSEWHERE = "another-boot pid:[1] 1 1"


@pytest.fixture
def open_as(target: str) -> Iterator[Open]:
    """Return a function that opens the database as a controller of a name."""
    opened = []

    def open_it(name: str, where: str | Path = target, **facts: Any) -> SqlStore:
        opened.append(open_store(where, lease=ControllerLease(name, **facts)))
        return opened[-1]

    yield open_it
    for store in opened:
        store.close()


def lease_of(store: SqlStore) -> dict[str, Any]:
    """Return the row of the lease, or no columns."""
    with store._transactions.read() as sql:
        return next((dict(row) for row in sql.rows(text("SELECT * FROM controller_lease"))), {})


def change(target: str, facts: str) -> None:
    """Change the row of the lease, as a program without it."""
    with closing(open_store(target)) as store, store._transactions.write() as sql:
        sql.execute(text(f"UPDATE controller_lease SET {facts}"))


def begin(target: str) -> subprocess.Popen[str]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", CONTROLLER, target], text=True, **pipes)


def test_a_second_controller_is_refused(open_as: Open) -> None:
    """A second controller is refused with the name of the first, which goes on."""
    first = open_as("the first")
    before = lease_of(first)
    with pytest.raises(
        LeaseHeldError, match=r"another controller \(the first\) serves this database; stop it, "
    ) as held:
        open_as("the second")
    assert (held.value.holder, held.value.may_be_gone) == ("the first", False)
    assert 0 < held.value.left_s <= LEASE_S
    assert lease_of(first) == before
    first.renew()


def test_a_refused_controller_migrates_nothing(open_as: Open) -> None:
    """The lease is looked at before a database is migrated."""
    first = open_as("the first")
    with first._transactions.write() as sql:
        sql.execute(text("UPDATE alembic_version SET version_num = '0004'"))
        sql.execute(text("UPDATE meta SET value = '0.0.1' WHERE key = 'product_version'"))
    with pytest.raises(LeaseHeldError):
        open_as("the second")
    with first._transactions.read() as sql:
        assert sql.scalars(text("SELECT version_num FROM alembic_version")) == ["0004"]
        assert sql.scalars(text("SELECT value FROM meta")) == ["0.0.1"]


def test_readers_need_no_lease(open_as: Open, target: str) -> None:
    """A database that a controller serves is read by anyone."""
    open_as("the first")
    reader = open_store(target, read_only=True)
    assert reader.campaigns() == []
    reader.close()


def test_closing_frees_the_lease(open_as: Open, target: str) -> None:
    """After a controller has closed the database the next serves it at once."""
    open_as("the first").close()
    second = open_as("the second")
    assert (lease_of(second)["holder"], lease_of(second)["epoch"]) == ("the second", 1)
    second.close()
    with closing(open_store(target)) as store:
        assert lease_of(store) == {}


WRITES = {
    "renew": lambda store: store.renew(),
    "register_device": lambda store: store.register_device("d2", "b", "0.1.0", 1, DeviceSnapshot(), 2.0),
    "touch_devices": lambda store: store.touch_devices([], 2.0),
    "add_event": lambda store: store.add_event(Event(1.0, None, None, "note", "late")),
    "commit_reports": lambda store: store.commit_reports([], 2.0),
    "lease_runs": lambda store: store.lease_runs([], 2.0),
}


def test_an_expired_lease_is_taken_over(open_as: Open, target: str) -> None:
    """After a wait without a renewal another controller serves, and refuses the first."""
    first = open_as("the first")
    change(target, f"expires_unix_s = expires_unix_s - 100, process = '{ELSEWHERE}'")
    with pytest.raises(LeaseHeldError) as held:  # this machine's clock may be wrong
        open_as("the second")
    assert (held.value.may_be_gone, held.value.left_s) == (True, LEASE_S)
    second = open_as("the second", unrenewed=held.value.renewal)
    lease, rows = lease_of(second), rows_of(second)

    for write in WRITES.values():
        with pytest.raises(LeaseLostError, match="may no longer write to the database: the second has taken over"):
            write(first)
    first.close()

    assert (lease["holder"], lease["epoch"]) == ("the second", 2)
    assert (lease_of(second), rows_of(second), second.devices()) == (lease, rows, [])
    with pytest.raises(LeaseHeldError, match="the second"):
        open_as("the third")


def test_an_expired_lease_goes_on(open_as: Open, target: str) -> None:
    """A controller whose lease expired goes on while no other has taken over."""
    first = open_as("the first")
    change(target, "expires_unix_s = expires_unix_s - 100")
    first.renew()
    with pytest.raises(LeaseHeldError, match="the first"):
        open_as("the second")


def test_a_lease_that_was_removed(open_as: Open, target: str) -> None:
    """A controller whose lease was deleted does not write."""
    first = open_as("the first")
    with closing(open_store(target)) as store, store._transactions.write() as sql:
        sql.execute(text("DELETE FROM controller_lease"))
    with pytest.raises(LeaseLostError, match="its lease was removed"):
        first.touch_devices([], 2.0)


def test_a_renewal_extends_the_lease(open_as: Open, target: str) -> None:
    """A renewal lasts for the whole term, and so does a write after a third of it."""
    first = open_as("the first")
    for write in (SqlStore.renew, lambda store: store.touch_devices([], 2.0)):
        change(target, "expires_unix_s = 1.0")
        first._transactions._lease._renewed_s -= RENEWAL_S + 1
        write(first)
        assert time.time() + LEASE_S - 10 < lease_of(first)["expires_unix_s"] <= time.time() + LEASE_S


def test_a_young_lease_is_not_written(open_as: Open, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write soon after a renewal leaves the lease as it is."""
    monkeypatch.setattr(controller_lease, "RENEWAL_S", 1000.0)
    first = open_as("the first")
    before = lease_of(first)
    first.touch_devices([], 2.0)
    assert lease_of(first) == before
    del target


def test_a_dead_controller_holds_nothing(open_as: Open, target: str) -> None:
    """The lease of a killed controller of this machine is free at once."""
    with begin(target) as controller:
        assert controller.stdout.readline() == "serves\n"
        with pytest.raises(LeaseHeldError, match=f"process {controller.pid} on "):
            open_as("the second")
        controller.send_signal(signal.SIGKILL)
        controller.wait()
    assert lease_of(open_as("the second"))["epoch"] == 2


@pytest.mark.parametrize(
    ("process", "is_free"),
    [(ELSEWHERE, False), (f"{controller_lease._this_machine()} {os.getpid()} 1", True)],
    ids=["another machine", "another process of that number"],
)
def test_a_controller_that_cannot_be_seen(open_as: Open, target: str, process: str, is_free: bool) -> None:
    """A controller of another machine may still run, and a later process of its number is another."""
    open_as("the first")
    change(target, f"process = '{process}'")
    if is_free:
        open_as("the second")
    else:
        with pytest.raises(LeaseHeldError) as held:
            open_as("the second")
        assert held.value.may_be_gone


def test_controllers_that_start_at_once(open_as: Open, target: str) -> None:
    """Of three controllers that start at once exactly one serves."""
    open_as("the first").close()
    controllers = [begin(target) for _ in range(3)]
    answers = [controller.stdout.readline().strip() for controller in controllers]
    for controller in controllers:
        controller.communicate()
    assert sorted(answers) == ["refused", "refused", "serves"]


@pytest.mark.parametrize("target", ["sqlite"], indirect=True)
@pytest.mark.parametrize("by", ["copying", "backup"])
def test_a_copy_is_free(open_as: Open, target: str, tmp_path: Path, by: str) -> None:
    """The copy of a served database can be served, and the original stays its controller's."""
    first = open_as("the first")
    first._transactions.checkpoint()
    copy = tmp_path / "copy.db"
    if by == "copying":
        shutil.copy(target, copy)
    else:
        copy_database(Path(target), copy, overwrite=False, on_progress=lambda *_: None)
    second = open_as("the second", copy)
    assert lease_of(second)["holder"] == "the second"
    for store in (first, second):
        store.renew()


@pytest.mark.parametrize("target", ["sqlite"], indirect=True)
def test_a_moved_database_is_held(open_as: Open, target: str, tmp_path: Path) -> None:
    """A served file under another name is still the controller's."""
    open_as("the first")
    (tmp_path / "link.db").symlink_to(target)
    with pytest.raises(LeaseHeldError, match="the first"):
        open_as("the second", tmp_path / "link.db")


def test_a_lost_lease_is_a_refusal_of_the_database() -> None:
    """Whoever handles a database that refuses also handles the two errors of leases."""
    assert issubclass(LeaseHeldError, StoreError)
    assert issubclass(LeaseLostError, StoreError)


def test_a_running_controller_keeps_its_lease(open_as: Open, target: str) -> None:
    """A clock that jumps does not take the lease of a controller that runs on this machine."""
    open_as("the first")
    change(target, "expires_unix_s = expires_unix_s - 100")
    with pytest.raises(LeaseHeldError, match="the first"):
        open_as("the second")


def test_a_frozen_controller_loses_its_lease_with_time(open_as: Open, target: str) -> None:
    """The lease of a stopped process of this machine is free when it has expired, and not before."""
    with begin(target) as controller:
        assert controller.stdout.readline() == "serves\n"
        controller.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, controller.pid, os.WSTOPPED | os.WNOWAIT)
        with pytest.raises(LeaseHeldError):
            open_as("the second")
        change(target, "expires_unix_s = expires_unix_s - 100")
        open_as("the third")
        controller.kill()


def test_an_exited_controller_that_nobody_waited_for_holds_nothing(open_as: Open, target: str) -> None:
    """A zombie process of this machine has no lease."""
    with begin(target) as controller:
        assert controller.stdout.readline() == "serves\n"
        controller.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, controller.pid, os.WEXITED | os.WNOWAIT)  # it stays a zombie
        open_as("the second")


def test_a_lease_in_the_future_is_taken_when_nobody_renews_it(open_as: Open, target: str) -> None:
    """A lease of another machine that stays unchanged for its whole term is free, whatever the clock says."""
    open_as("the first")
    change(target, f"expires_unix_s = expires_unix_s + 1000, process = '{ELSEWHERE}'")
    with pytest.raises(LeaseHeldError) as held:
        open_as("the second")
    assert (held.value.may_be_gone, held.value.left_s) == (True, LEASE_S)
    waited = ControllerLease("the third", unrenewed=held.value.renewal)
    open_store(target, lease=waited).close()
