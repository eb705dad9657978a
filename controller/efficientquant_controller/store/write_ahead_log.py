"""Reading of SQLite files on read-only media, and removal of their logs."""

import errno
import fcntl
import logging
import os
import sqlite3
import struct
import sys
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from efficientquant_controller.errors import StoreError

LOG = logging.getLogger(__name__)
BUSY_TIMEOUT_S = 30
LOG_SUFFIXES = ("-wal", "-shm", "-journal")
# Byte 18 of a SQLite file is 2 when reading it needs a log.
_VERSION_OFFSET, _WITH_LOG = 18, 2
_FILE_MAGIC = b"SQLite format 3\0"
# Its fourth byte tells the byte order of the checksums.
_LOG_MAGIC = b"\x37\x7f\x06"
# The bytes of the main file that SQLite's readers lock. Source: https://www.sqlite.org/src/file?name=src/os.h
_SHARED_FIRST, _SHARED_BYTES = 0x40000000 + 2, 510
# Where a lock file (-shm) has the log's salts, its folded frames and those whose folding began.
_SALTS, _FOLDED_AT, _BEGUN_AT, _INDEX_BYTES = slice(32, 40), 96, 128, 136


def reading_uri(path: Path) -> str:
    """Return the URI that reads a SQLite file, even on read-only media.

    SQLite must create files next to a database that uses a log, unless the URI declares it immutable. The URI does so
    only where nobody can be writing: there is no log and no lock file (-shm) next to the database. Raises StoreError
    for a log that cannot be read on read-only media, and sqlite3.Error for other refusals.
    """
    uri = f"{path.absolute().as_uri()}?mode=ro"
    try:
        with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S)) as connection:
            connection.execute("PRAGMA schema_version")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
            raise
        if logs := _logs_of(path):
            raise StoreError(
                f"the database {path} was not closed cleanly ({' and '.join(logs)} next to it) and its directory "
                "cannot be written; copy these files together to a directory that you can write to, and name that copy"
            ) from error
        if not _uses_log(path):
            raise
        return f"{uri}&immutable=1"
    return uri


class _Folds(NamedTuple):
    """How far a log is folded.

    `salts` name the log. `done` and `begun` count frames.
    """

    salts: bytes
    done: int
    begun: int


# A file's time of change in nanoseconds, and its size in bytes.
_Written = tuple[int, int]


class OpenFiles:
    """The files of an open SQLite database.

    Another program may remove or damage them. The main file stays open between checks: closing it would drop the locks
    that SQLite holds on it in this process, and another program would then remove the log. Source:
    https://www.sqlite.org/howtocorrupt.html, section 2.2.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        real = path.resolve()  # SQLite follows links first
        self._log, self._index = (real.with_name(real.name + suffix) for suffix in ("-wal", "-shm"))
        self._main = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._inode = os.fstat(self._main).st_ino
        self._log_inode, self._index_inode = _inode_of(self._log), _inode_of(self._index)
        self._open_index: int | None = None
        self._known: tuple[_Folds, _Written] | None = None
        self._damage = ""

    @property
    def is_log_unnamed(self) -> bool:
        """Whether the log's name alone is gone.

        SQLite's descriptor is then the only way to what the log holds.
        """
        try:
            is_same = _inode_of(self._path) == self._inode and self._is_whole()
            return is_same and not self._damage and not _inode_of(self._log)
        except OSError:
            return False

    def check(self) -> str:
        """Return what has happened to the files, or ""."""
        try:
            return self._damage or self._check()
        except OSError as error:
            return f"became unreadable ({error.strerror})"

    def _check(self) -> str:
        inode, log_inode, index_inode = map(_inode_of, (self._path, self._log, self._index))
        if not inode:
            return "was removed"
        if inode != self._inode:
            return "was replaced by another file"
        if not self._is_whole() or _header_of(self._log) not in (b"", _LOG_MAGIC):
            self._damage = "was overwritten or truncated by another program"
        elif self._log_inode not in (0, log_inode):
            return "lost its log (-wal), which another program removed"
        elif self._index_inode not in (0, index_inode):
            self._damage = "lost its lock file (-shm), which another program removed"
        elif self._is_written_by_others():
            self._damage = "was overwritten by another program"
        self._log_inode, self._index_inode = log_inode, index_inode
        return self._damage

    def note_fold(self) -> None:
        """Remember the main file after a fold of this process."""
        self._known = self._read_state()

    def _is_written_by_others(self) -> bool:
        """Tell whether the main file has changed without SQLite.

        While there is a log, SQLite writes the main file only when it folds the log, which the lock file counts.
        """
        before, self._known = self._known, self._read_state()
        if before is None or self._known is None:
            return False
        (folds, written), (folds_now, written_now) = before, self._known
        return folds == folds_now and written != written_now

    def _read_state(self) -> tuple[_Folds, _Written] | None:
        """Return the counts of folds with the main file's time and size.

        Returns None while another program folds, and without a lock file.
        """
        folds = self._read_folds()
        facts = os.fstat(self._main)
        # SQLite counts what it is going to fold before it writes, and what it has folded afterwards.
        if folds is None or folds.done != folds.begun or folds != self._read_folds():
            return None
        return folds, (facts.st_mtime_ns, facts.st_size)

    def _read_folds(self) -> _Folds | None:
        """Return how far the log is folded.

        Returns None without a lock file. Source: https://www.sqlite.org/walformat.html, section 2.2.
        """
        if self._open_index is None:
            try:
                # It stays open, as the main file does.
                self._open_index = os.open(self._index, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return None
        header = os.pread(self._open_index, _INDEX_BYTES, 0)
        if len(header) < _INDEX_BYTES:
            return None
        done, begun = (int.from_bytes(header[at : at + 4], sys.byteorder) for at in (_FOLDED_AT, _BEGUN_AT))
        return _Folds(header[_SALTS], done, begun)

    def close(self) -> None:
        """Close the files, after SQLite's last connection."""
        os.close(self._main)
        if self._open_index is not None:
            os.close(self._open_index)

    def keep_log(self) -> None:
        """Keep SQLite from folding the log when it closes.

        A damaged log would damage the main file. The lock ends with the process.
        """
        # A lock of an open file description stands against SQLite's own locks. It covers SQLite's shared bytes.
        lock = struct.pack("hhqqi", fcntl.F_RDLCK, os.SEEK_SET, _SHARED_FIRST, _SHARED_BYTES, 0)
        try:
            fcntl.fcntl(self._main, fcntl.F_OFD_SETLK, lock)
        except OSError as error:
            LOG.warning("the log of %s may be folded into it: %s", self._path, error)

    def _is_whole(self) -> bool:
        return os.pread(self._main, len(_FILE_MAGIC), 0) == _FILE_MAGIC


def _inode_of(path: Path) -> int:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return 0


def _header_of(log: Path) -> bytes:
    """Return a log's first bytes.

    SQLite holds no lock on a log. It is b"" where this process has no descriptor left, which says nothing of the file.
    """
    try:
        with log.open("rb") as file:
            return file.read(len(_LOG_MAGIC))
    except FileNotFoundError:
        return b""
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            return b""
        raise


def fold_log(path: Path) -> None:
    """Move SQLite's log into the main file and stop using a log.

    A reader in another program can prevent this, which is logged.
    """
    uri = f"{path.absolute().as_uri()}?mode=rw"
    try:
        with closing(sqlite3.connect(uri, uri=True, timeout=0, isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.Error as error:
        LOG.info("%s keeps its log: %s", path, error)


def _logs_of(path: Path) -> list[str]:
    """Return the names of the log and lock files in use.

    They hold a part of the database, or show that another program uses it.
    """
    real = path.resolve()  # SQLite follows links first
    files = [real.with_name(real.name + suffix) for suffix in LOG_SUFFIXES]
    return [file.name for file in files if file.exists() and (file.name.endswith("-shm") or file.stat().st_size)]


def _uses_log(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(_VERSION_OFFSET + 1)[_VERSION_OFFSET:] == bytes([_WITH_LOG])
