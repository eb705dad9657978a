"""A consistent copy of a SQLite database that is in use."""

import os
import secrets
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from efficientquant_controller.database_location import Location
from efficientquant_controller.errors import StoreError
from efficientquant_controller.store.opening import check_contents, opening
from efficientquant_controller.store.write_ahead_log import BUSY_TIMEOUT_S, LOG_SUFFIXES, reading_uri

# 4 MiB at SQLite's usual page size, which is often enough for progress and Ctrl-C.
STEP_PAGES = 1024


@dataclass(frozen=True)
class Content:
    """A database's schema, with its numbers of campaigns and runs."""

    schema: str
    campaigns: int
    runs: int


def check_backup(source: Path, copy: Path, *, overwrite: bool) -> None:
    """Raise StoreError unless `source` can be copied to `copy`.

    `source` must be a results database. `copy` must be writable, and may exist only with `overwrite`.
    """
    _check_copy(source, copy, overwrite=overwrite)
    with opening(Location(source)):
        check_contents(Location(source), accept_empty=False, accept_older=True)


def _check_copy(source: Path, copy: Path, *, overwrite: bool) -> None:
    with _writing(copy):
        own_files = [source.resolve().with_name(source.resolve().name + suffix) for suffix in ("", *LOG_SUFFIXES)]
        if copy.resolve() in own_files or (copy.exists() and source.samefile(copy)):
            raise _refused(copy, f"it belongs to the database {source} itself", "name another file for the copy")
        if copy.is_dir():
            raise _refused(copy, "it is a directory", "name a file in it")
        if not copy.parent.is_dir():
            raise _refused(copy, f"the directory {copy.parent} does not exist", "create it first")
        if not os.access(copy.parent, os.W_OK):
            raise _refused(copy, f"the directory {copy.parent} is read-only for you", "name a file elsewhere")
        _check_new(copy, overwrite)
        for suffix in LOG_SUFFIXES:
            if (log := copy.with_name(copy.name + suffix)).exists():
                raise _refused(copy, f"{log.name} of another database lies there", "name another file")
        needed, free = source.stat().st_size, shutil.disk_usage(copy.parent).free
        if free < needed:
            raise _refused(copy, f"it takes {needed / 2**20:.1f} MiB and {free / 2**20:.1f} MiB are free", "make room")


def _check_new(copy: Path, overwrite: bool) -> None:
    if copy.exists() and not copy.is_file():
        raise _refused(copy, "it is not a regular file", "name another file")
    if copy.exists() and not overwrite:
        raise _refused(copy, "it exists", "name a new file, or replace this one with --overwrite")


def copy_database(source: Path, copy: Path, *, overwrite: bool, on_progress: Callable[[str, float], None]) -> Content:
    """Copy a database as it is at one moment and check it.

    Other programs may write meanwhile. The copy gets its name after the check. `on_progress` gets the phase and its
    fraction from 0 to 1. Raises StoreError for an unusable database or path. After an error or an interruption no
    partial copy is left.
    """
    check_backup(source, copy, overwrite=overwrite)
    with opening(Location(source)), ExitStack() as stack:
        database = stack.enter_context(closing(_connect(reading_uri(source))))
        # One read transaction over all steps: otherwise each write of the controller would start the copy again.
        database.execute("BEGIN")
        content = _content(database)
        with _writing(copy):
            partial = stack.enter_context(_partial_file(copy))
            _write(database, partial, content, on_progress)
            _check_new(copy, overwrite)  # another program may have created it meanwhile
            partial.replace(copy)
            _sync(copy.parent)
    return content


def _write(
    database: sqlite3.Connection, partial: Path, content: Content, on_progress: Callable[[str, float], None]
) -> None:
    with closing(_connect(f"{partial.absolute().as_uri()}?mode=rw")) as target:
        # Nobody reads the file before it is complete, and it is synchronized at the end.
        target.execute("PRAGMA journal_mode = OFF")
        target.execute("PRAGMA synchronous = OFF")
        database.backup(
            target,
            pages=STEP_PAGES,
            progress=lambda _status, remaining, total: on_progress("copying", 1 - remaining / max(total, 1)),
        )
        target.execute("PRAGMA journal_mode = DELETE")  # one file that also opens from a read-only medium
        on_progress("checking", 0.0)
        problems = [text for (text,) in target.execute("PRAGMA quick_check") if text != "ok"]
        if problems or _content(target) != content:
            raise sqlite3.DatabaseError(f"the copy is malformed: {', '.join(problems[:1]) or 'rows are missing'}")
    _sync(partial)


def _content(connection: sqlite3.Connection) -> Content:
    def scalar(query: str) -> str | int:
        (value,) = connection.execute(query).fetchone()
        return value  # type: ignore[no-any-return]

    schema = str(scalar("SELECT version_num FROM alembic_version"))
    return Content(schema, *(int(scalar(f"SELECT count(*) FROM {table}")) for table in ("campaigns", "runs")))  # noqa: S608


@contextmanager
def _partial_file(copy: Path) -> Iterator[Path]:
    """Make a temporary file next to the copy and remove it afterwards."""
    partial = copy.with_name(f"{copy.name}.{secrets.token_hex(4)}.partial")
    os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        yield partial
    finally:
        for suffix in ("", *LOG_SUFFIXES):
            partial.with_name(partial.name + suffix).unlink(missing_ok=True)


@contextmanager
def _writing(copy: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        damaged = isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError)
        advice = "the database is damaged" if damaged else "check the disk space and permissions there"
        cause = error.strerror if isinstance(error, OSError) else error
        raise _refused(copy, str(cause), f"{advice}; nothing was kept") from error


def _connect(uri: str) -> sqlite3.Connection:
    return sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _refused(copy: Path, problem: str, advice: str) -> StoreError:
    return StoreError(f"cannot write the copy {copy}: {problem}; {advice}")
