"""The lease by which one controller at a time serves a database."""

import os
import secrets
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Connection, Dialect, delete, insert, inspect, select, text, update
from sqlalchemy.engine import URL

from efficientquant_controller.errors import LeaseHeldError, LeaseLostError
from efficientquant_controller.store.tables import controller_lease as table

LEASE_S = 15.0
RENEWAL_S = LEASE_S / 3
_ONLY = 1  # the number of the table's row
# States of a process in /proc/PID/stat: a zombie, a dead and a stopped one.
_ENDED, _STOPPED = "ZX", "T"
# Held while a PostgreSQL database is created or migrated: the first bytes of SHA-256("efficientquant").
_ADVISORY_LOCK = 0x5C3A_91D2


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _started(pid: int) -> str:
    """Return a process's start in clock ticks since boot, or ""."""
    return _stat(pid)[1]


def _stat(pid: int) -> tuple[str, str]:
    """Return a process's state and start, empty after its end."""
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return (fields[0], fields[19]) if len(fields) > 19 and fields[0] not in _ENDED else ("", "")


def _this_machine() -> str:
    """Name this boot of this machine and its space of processes."""
    return f"{_read('/proc/sys/kernel/random/boot_id')} {_link('/proc/self/ns/pid')}"


def _this_process() -> str:
    return f"{_this_machine()} {os.getpid()} {_started(os.getpid())}"


class Holder(NamedTuple):
    """What is known of the process that holds a lease.

    `is_here` tells whether it is a process of this machine, whose end can be seen.
    """

    is_here: bool
    has_ended: bool
    is_stopped: bool

    @classmethod
    def of(cls, process: str) -> "Holder":
        """Look at the process that `_this_process` named."""
        machine, pid, started = process.rsplit(" ", 2)
        if machine != _this_machine() or not pid.isdigit():
            return cls(False, False, False)
        state, start = _stat(int(pid))
        return cls(True, start != started, state == _STOPPED)


@dataclass
class ControllerLease:
    """The lease of this process on one database.

    It expires `LEASE_S` seconds after its last renewal. A controller of the same machine that has exited frees it at
    once. While it runs it keeps the lease, whatever the clock says. `unrenewed` is the (token, expiry) of a lease that
    was not renewed while this process waited, so its holder is gone.
    """

    holder: str = field(default_factory=lambda: f"process {os.getpid()} on {socket.gethostname()}")
    token: str = field(default_factory=lambda: secrets.token_hex(16))
    epoch: int = 0
    unrenewed: tuple[str, float] | None = None
    _renewed_s: float = 0.0

    def require_free(self, connection: Connection, url: URL) -> None:
        """Raise LeaseHeldError while another controller has the lease.

        The lease of a copied file belongs to the original, so the copy is free.
        """
        if not inspect(connection).has_table(table.name):  # a new database, or one of an older release
            return
        row = connection.execute(select(table)).mappings().first()
        if row is None or row["file"] != _identity(url) or row["token"] == self.token:
            return
        renewal, left_s = (row["token"], row["expires_unix_s"]), row["expires_unix_s"] - time.time()
        holder = Holder.of(row["process"])
        runs = holder.is_here and not holder.has_ended and not holder.is_stopped
        # The clocks of two machines may differ, so only a whole wait without a renewal shows that the holder is gone.
        may_serve = left_s > 0 or not holder.is_here
        if runs or (may_serve and not holder.has_ended and renewal != self.unrenewed):
            waits_s = min(left_s, LEASE_S) if left_s > 0 and holder.is_here else LEASE_S
            raise LeaseHeldError(row["holder"], waits_s, renewal, may_be_gone=not holder.is_here)

    def take(self, connection: Connection, url: URL) -> None:
        """Become the holder, in the transaction of `require_free`."""
        earlier = connection.scalar(select(table.c.epoch)) or 0
        self.epoch = earlier + 1
        connection.execute(delete(table))
        connection.execute(
            insert(table).values(
                number=_ONLY,
                holder=self.holder,
                token=self.token,
                process=_this_process(),
                file=_identity(url),
                epoch=self.epoch,
                expires_unix_s=time.time() + LEASE_S,
            )
        )
        self._renewed_s = time.monotonic()

    def check(self, connection: Connection) -> None:
        """Prove in a write transaction that this process is the holder.

        Raises LeaseLostError when another controller has taken over. A lease that is a third over is renewed.
        """
        row = connection.execute(_CURRENT).first()
        if row is None or (row.token, row.epoch) != (self.token, self.epoch):
            holder = f"{row.holder} has taken over" if row else "its lease was removed"
            raise LeaseLostError(f"this controller may no longer write to the database: {holder}")
        if time.monotonic() - self._renewed_s > RENEWAL_S:
            self.renew(connection)

    def renew(self, connection: Connection) -> None:
        """Extend the lease."""
        connection.execute(_RENEWED, {"expires_unix_s": time.time() + LEASE_S})
        self._renewed_s = time.monotonic()

    def release(self, connection: Connection) -> None:
        """Free the lease for the next controller."""
        connection.execute(delete(table).where(table.c.token == self.token))


# On PostgreSQL the share lock makes another controller wait for the end of this transaction.
_CURRENT = select(table.c.token, table.c.epoch, table.c.holder).with_for_update(read=True)
_RENEWED = update(table)


def wait_for_other_openers(connection: Connection, dialect: Dialect) -> None:
    """Let one process at a time create or migrate a PostgreSQL database.

    SQLite's write transaction does the same by itself.
    """
    if dialect.name == "postgresql":
        connection.execute(text(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})"))


def _identity(url: URL) -> str:
    """Return what tells a database from a copy of it.

    For a file it is the inode. It has no device number, which differs between mounts.
    """
    if url.get_backend_name() != "sqlite" or not url.database:
        return "server"
    return f"inode {Path(url.database).stat().st_ino}"
