"""Transactions on one engine: many readers, one writer at a time.

Refusals of the database are raised as StoreError.
"""

import logging
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Executable, RowMapping, Table, Update, and_, insert, select
from sqlalchemy.exc import SQLAlchemyError

from efficientquant_controller.errors import NotFoundError, StoreError
from efficientquant_controller.store.opening import describe
from efficientquant_controller.store.write_ahead_log import BUSY_TIMEOUT_S, fold_log

LOG = logging.getLogger(__name__)


class Transaction:
    """An open transaction, with the few operations that the store needs."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def execute(self, statement: Executable, parameters: Mapping[str, Any] | None = None) -> None:
        """Run a statement without a result.

        Many values are faster as `parameters` than inside the statement.
        """
        self._connection.execute(statement, parameters)

    def update(self, statement: Update) -> int:
        """Run an update and return how many rows matched."""
        return self._connection.execute(statement).rowcount

    def update_one(self, statement: Update, what: str) -> None:
        """Run an update that must match a row.

        Raises NotFoundError naming `what` when none matches.
        """
        if not self.update(statement):
            raise NotFoundError(f"there is no {what}")

    def insert_all(self, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
        """Insert any number of rows, including none."""
        if rows:
            self._connection.execute(insert(table), rows)

    def insert_new(self, table: Table, key: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        """Insert a row unless its key exists.

        Only one writer is ever open, so the check and the insert cannot race.
        """
        columns = [table.c[name] for name in key]
        match = and_(*(column == value for column, value in zip(columns, key.values(), strict=True)))
        if self._connection.execute(select(*columns).where(match)).first() is None:
            self._connection.execute(insert(table).values({**key, **facts}))

    def rows(self, query: Executable, parameters: Mapping[str, Any] | None = None) -> Sequence[RowMapping]:
        """Return every row."""
        return self._connection.execute(query, parameters).mappings().all()

    def one(self, query: Executable, what: str) -> RowMapping:
        """Return the first row.

        Raises NotFoundError naming `what` when there is none.
        """
        row = self._connection.execute(query).mappings().first()
        if row is None:
            raise NotFoundError(f"there is no {what}")
        return row

    def scalar(self, query: Executable) -> Any:
        """Return the first column of the first row, or None."""
        return self._connection.execute(query).scalar()

    def scalars(self, query: Executable) -> Sequence[Any]:
        """Return the first column of every row."""
        return self._connection.execute(query).scalars().all()


class Transactions:
    """The transactions of an engine.

    When a transaction ends without an exception, its writes are on disk.
    """

    def __init__(self, engine: Engine, read_only: bool) -> None:
        self._engine = engine
        self._logged_file = None if read_only or engine.dialect.name != "sqlite" else Path(engine.url.database or "")
        self._writer = threading.Lock()

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        """Open a consistent view of the database, concurrent with the writer."""
        with self._reporting(), self._engine.connect() as connection, connection.begin():
            yield Transaction(connection)

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        """Open the only write transaction, after the current one has ended.

        It commits at the end and rolls back on any exception.
        """
        with self._writer, self._reporting(), self._engine.connect() as raw:
            connection = raw.execution_options(writes=True)
            with connection.begin():
                yield Transaction(connection)

    def checkpoint(self) -> None:
        """Move SQLite's log into the main file as far as readers allow.

        It does not wait for readers.
        """
        if self._logged_file is None:
            return
        with self._writer, closing(self._engine.raw_connection()) as connection:
            cursor = connection.cursor()
            try:
                cursor.execute("PRAGMA busy_timeout = 0")
                cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            except sqlite3.Error as error:  # commits stay in the log, and the next checkpoint tries again
                LOG.warning("the log of %s was not folded into it: %s", self._logged_file, error)
            finally:
                cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_S * 1000}")

    def close(self) -> None:
        """Close every connection.

        SQLite's main file is then complete, unless another program reads it.
        """
        self._engine.dispose()
        if self._logged_file is not None:
            fold_log(self._logged_file)

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, OverflowError) as error:
            cause = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
            raise StoreError(
                f"the database {describe(self._engine.url)} refused: {cause}; check its disk space and permissions"
            ) from error
