"""Transactions on one engine: many readers, one writer at a time.

Refusals of the database are raised as StoreError.
"""

import logging
import shutil
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Executable, RowMapping, Table, Update, and_, insert, select, update
from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError, StatementError

from efficientquant_controller.errors import LeaseLostError, NotFoundError, StoreBusyError, StoreError, UnstorableError
from efficientquant_controller.store.controller_lease import ControllerLease
from efficientquant_controller.store.opening import WRITER_TIMEOUT_S, cause_of, describe, find_advice, is_passing
from efficientquant_controller.store.tables import meta
from efficientquant_controller.store.write_ahead_log import OpenFiles, fold_log

LOG = logging.getLogger(__name__)
# A batch of results and the log of SQLite take less.
MIN_FREE_BYTES = 8 << 20
# After so many commits SQLite's log is folded into the main file.
_COMMITS_PER_FOLD = 64


class Transaction:
    """An open transaction, with the few operations that the store needs."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def execute(self, statement: Executable, parameters: Mapping[str, Any] | None = None) -> None:
        """Run a statement without a result.

        Many values are faster as `parameters` than inside the statement.
        """
        self.connection.execute(statement, parameters)

    def execute_all(self, statement: Executable, parameters: Sequence[Mapping[str, Any]]) -> None:
        """Run a statement once for each of any number of parameters."""
        if parameters:
            self.connection.execute(statement, parameters)

    def update(self, statement: Update) -> int:
        """Run an update and return how many rows matched."""
        return self.connection.execute(statement).rowcount

    def update_one(self, statement: Update, what: str) -> None:
        """Run an update that must match a row.

        Raises NotFoundError naming `what` when none matches.
        """
        if not self.update(statement):
            raise NotFoundError(f"there is no {what}")

    def insert_all(self, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
        """Insert any number of rows, including none."""
        if rows:
            self.connection.execute(insert(table), rows)

    def insert_new(self, table: Table, key: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        """Insert a row unless its key exists.

        Only one writer is ever open, so the check and the insert cannot race.
        """
        columns = [table.c[name] for name in key]
        match = and_(*(column == value for column, value in zip(columns, key.values(), strict=True)))
        if self.connection.execute(select(*columns).where(match)).first() is None:
            self.connection.execute(insert(table).values({**key, **facts}))

    def rows(self, query: Executable, parameters: Mapping[str, Any] | None = None) -> Sequence[RowMapping]:
        """Return every row."""
        return self.connection.execute(query, parameters).mappings().all()

    def one(self, query: Executable, what: str) -> RowMapping:
        """Return the first row.

        Raises NotFoundError naming `what` when there is none.
        """
        row = self.connection.execute(query).mappings().first()
        if row is None:
            raise NotFoundError(f"there is no {what}")
        return row

    def scalar(self, query: Executable) -> Any:
        """Return the first column of the first row, or None."""
        return self.connection.execute(query).scalar()

    def scalars(self, query: Executable, parameters: Mapping[str, Any] | None = None) -> Sequence[Any]:
        """Return the first column of every row."""
        return self.connection.execute(query, parameters).scalars().all()

    @contextmanager
    def part(self) -> Iterator[None]:
        """Open a part of the transaction that can fail on its own.

        Raises UnstorableError for values that the database can never hold. Nothing of the part is written then.
        """
        try:
            with self.connection.begin_nested():
                yield
        except (IntegrityError, DataError, OverflowError, RecursionError) as error:
            raise UnstorableError(f"the database can never hold it: {cause_of(error)}") from error
        except StatementError as error:
            if isinstance(error.orig, (OverflowError, RecursionError, ValueError)):
                raise UnstorableError(f"the database can never hold it: {cause_of(error)}") from error
            raise


class Transactions:
    """The transactions of an engine.

    When a transaction ends without an exception, its writes are on disk.
    """

    def __init__(self, engine: Engine, read_only: bool, lease: ControllerLease | None = None) -> None:
        self._engine = engine
        self._logged_file = None if read_only or engine.dialect.name != "sqlite" else Path(engine.url.database or "")
        self._files = None if self._logged_file is None else OpenFiles(self._logged_file)
        self._lease = lease
        self._writer = threading.Lock()
        self._commits = 0
        self._is_closed = False

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        """Open a consistent view of the database, concurrent with the writer."""
        with self._reporting(), self._engine.connect() as connection, connection.begin():
            yield Transaction(connection)

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        """Open the only write transaction, after the current one has ended.

        It commits at the end and rolls back on any exception. Raises StoreError when the file was removed or replaced,
        also after the commit, since such a commit is lost. Raises LeaseLostError when another controller serves the
        database.
        """
        with self._writer, self._reporting(), self._engine.connect() as raw:
            if self._is_closed:  # a call that began before the end of the controller
                raise StoreError(f"the database {self._logged_file or describe(self._engine.url)} was closed")
            connection = raw.execution_options(writes=True)
            self._require_same_files(connection)
            with connection.begin():
                if self._lease is not None:
                    self._lease.check(connection)
                yield Transaction(connection)
            self._require_same_files(connection)
            self._fold_sometimes(connection)

    def renew(self) -> None:
        """Prove that the database can be written, and renew the lease.

        Raises StoreError also when the next results would fill the disk.
        """
        with self.write() as sql:
            if self._lease is None:
                sql.execute(_HARMLESS)
            else:
                self._lease.renew(sql.connection)
        self._require_room()

    def _require_room(self) -> None:
        if self._logged_file is None or not self._logged_file.exists():
            return
        free = shutil.disk_usage(self._logged_file).free
        if free < MIN_FREE_BYTES:
            raise StoreError(
                f"the disk of the database {self._logged_file} is full ({free / 2**20:.1f} MiB free); make room there, "
                f"at least {MIN_FREE_BYTES >> 20} MiB"
            )

    def _require_same_files(self, connection: Connection) -> None:
        """Raise StoreError unless the files are those of the last commit.

        What this connection still has of a removed log is saved first.
        """
        if self._files is None:
            return
        if problem := self._files.check():
            if self._files.is_log_unnamed:
                self._fold(connection, "FULL")
            raise StoreError(
                f"the database {self._logged_file} {problem} while the controller uses it; put the original back, or "
                "restart the controller to use what is there now"
            )

    def _fold_sometimes(self, connection: Connection) -> None:
        if self._files is None:
            return
        self._commits += 1
        if self._commits % _COMMITS_PER_FOLD == 0:
            self._fold(connection, "PASSIVE")

    def _fold(self, connection: Connection, how: str) -> None:
        driver: sqlite3.Connection = connection.connection.driver_connection  # type: ignore[assignment]
        try:
            driver.execute(f"PRAGMA wal_checkpoint({how})")
        except sqlite3.Error as error:
            LOG.error("the log of %s could not be folded into it: %s", self._logged_file, error)
        if self._files is not None:
            self._files.note_fold()

    def checkpoint(self) -> None:
        """Move SQLite's log into the main file as far as readers allow.

        It does not wait for readers. A damaged log stays as it is.
        """
        files = self._files
        if files is None:
            return
        try:
            with self._writer, closing(self._engine.raw_connection()) as connection:
                if self._is_closed or files.check():
                    return
                cursor = connection.cursor()
                try:
                    cursor.execute("PRAGMA busy_timeout = 0")
                    cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                    files.note_fold()
                finally:
                    cursor.execute(f"PRAGMA busy_timeout = {WRITER_TIMEOUT_S * 1000}")
        except (sqlite3.Error, SQLAlchemyError) as error:  # commits stay in the log until the next checkpoint
            LOG.warning("the log of %s was not folded into it: %s", self._logged_file, error)

    def close(self) -> None:
        """Free the lease and close every connection.

        SQLite's main file is then complete, unless another program reads it.
        """
        if self._lease is not None and not self._is_closed:
            try:
                with self.write() as sql:
                    self._lease.release(sql.connection)
                    self._is_closed = True  # no write comes after this transaction
            except LeaseLostError:  # it belongs to another controller
                pass
            except StoreError as error:  # it expires by itself
                LOG.warning("the lease of this controller was not freed: %s", error)
        with self._writer:
            self._is_closed = True
        files, self._files = self._files, None
        is_intact = files is None or not files.check()
        if files is not None and not is_intact:
            files.keep_log()
        self._engine.dispose()
        if files is not None and is_intact:
            files.close()
        if is_intact and self._logged_file is not None:
            fold_log(self._logged_file)

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except DataError as error:
            raise UnstorableError(f"the database can never hold it: {cause_of(error)}") from error
        except (SQLAlchemyError, OverflowError) as error:
            if "Could not decode to UTF-8" in str(error):
                raise UnstorableError(f"a row of the database is damaged: {cause_of(error)}") from error
            is_server = self._engine.dialect.name != "sqlite"
            advice = "check that its server runs" if is_server else "check its disk space and permissions"
            advice = find_advice(cause_of(error)) or advice
            kind = StoreBusyError if is_passing(error, is_server=is_server) else StoreError
            raise kind(f"the database {describe(self._engine.url)} refused: {cause_of(error)}; {advice}") from error


# It writes a page without changing a value.
_HARMLESS = update(meta).values(value=meta.c.value)
