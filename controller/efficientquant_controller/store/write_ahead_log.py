"""SQLite's write-ahead log: reading where none can be made, and folding it into the main file."""

import logging
import sqlite3
from contextlib import closing
from pathlib import Path

from efficientquant_controller.errors import StoreError

LOG = logging.getLogger(__name__)
BUSY_TIMEOUT_S = 30
LOG_SUFFIXES = ("-wal", "-shm", "-journal")
# Byte 18 of a SQLite file: 2 when reading it takes a log.
_VERSION_OFFSET, _WITH_LOG = 18, 2


def reading_uri(path: Path) -> str:
    """Return the URI that reads a SQLite file from where it lies, a read-only medium included.

    SQLite needs to make files beside a database with a log, unless it is called immutable. That is only true where
    nobody can be writing: no log and no lock file (-shm) lies beside it. Raises StoreError for a log that cannot be
    read from a read-only place, sqlite3.Error for other refusals.
    """
    uri = f"{path.absolute().as_uri()}?mode=ro"
    try:
        with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S)) as connection:
            connection.execute("PRAGMA schema_version")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
            raise
        if beside := _logs_beside(path):
            raise StoreError(
                f"the database {path} was not closed cleanly ({' and '.join(beside)} beside it) and lies where nothing "
                "can be written; copy these files together to a directory that you can write to, and name that copy"
            ) from error
        if not _takes_log(path):
            raise
        return f"{uri}&immutable=1"
    return uri


def fold_log(path: Path) -> None:
    """Move the log into the main file and leave a file that needs none, as far as other programs' readers allow."""
    uri = f"{path.absolute().as_uri()}?mode=rw"
    try:
        with closing(sqlite3.connect(uri, uri=True, timeout=0, isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.Error as error:
        LOG.info("%s keeps its log: %s", path, error)


def _logs_beside(path: Path) -> list[str]:
    """The names of the files that hold a part of the database, or say that somebody uses it."""
    real = path.resolve()  # SQLite follows links first
    files = [real.with_name(real.name + suffix) for suffix in LOG_SUFFIXES]
    return [one.name for one in files if one.exists() and (one.name.endswith("-shm") or one.stat().st_size)]


def _takes_log(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(_VERSION_OFFSET + 1)[_VERSION_OFFSET:] == bytes([_WITH_LOG])
