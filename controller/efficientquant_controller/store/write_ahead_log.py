"""Reading of SQLite files on read-only media, and removal of their logs."""

import logging
import sqlite3
from contextlib import closing
from pathlib import Path

from efficientquant_controller.errors import StoreError

LOG = logging.getLogger(__name__)
BUSY_TIMEOUT_S = 30
LOG_SUFFIXES = ("-wal", "-shm", "-journal")
# Byte 18 of a SQLite file is 2 when reading it needs a log.
_VERSION_OFFSET, _WITH_LOG = 18, 2


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
