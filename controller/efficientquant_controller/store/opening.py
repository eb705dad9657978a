"""Opening a results database: checks, connection settings, creation and migration."""

import importlib.metadata
import os
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event, inspect, select, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, OperationalError, SQLAlchemyError

from efficientquant_controller.database_location import Location, check_location, driver_missing, hide_password
from efficientquant_controller.errors import StoreBusyError, StoreError, StoreVersionError
from efficientquant_controller.store.controller_lease import ControllerLease, wait_for_other_openers
from efficientquant_controller.store.tables import meta
from efficientquant_controller.store.views import recreate_views
from efficientquant_controller.store.write_ahead_log import BUSY_TIMEOUT_S, LOG_SUFFIXES, reading_uri

CONNECT_TIMEOUT_S = 10
# How long the controller waits for another program's write. It retries after that, and says so meanwhile.
WRITER_TIMEOUT_S = 5
# Every schema of ours has these tables. Another program may use alembic too.
_OUR_TABLES = {"alembic_version", "meta", "campaigns", "runs"}
_ADVICE = {
    "depend on it": "remove your own views that read ours, open the database, and create them again",
    "locked": "close the program that uses it, then try again",
    "malformed": "restore it from a copy",
    "disk is full": "make room there, or name another file with --db",
    "not a database": "restore it from a copy, or name another file",
}
# What SQLite says where waiting can help.
_PASSING = ("is locked", "disk is full", "no space left")
# What a server says where waiting cannot help. It may be away for any other reason.
_LASTING = ("does not exist", "password", "authentication", "pg_hba", "permission denied", "support ssl")


def open_engine(target: str | Path, read_only: bool, lease: ControllerLease | None = None) -> Engine:
    """Open the database at a path or URL, creating or migrating it.

    When it raises StoreError, nothing was changed. With `read_only` nothing is created, migrated or written, so a
    database of an older version is refused too. `lease` is taken before any migration, or LeaseHeldError is raised.
    """
    location, exists = check_location(target, writing=not read_only)
    with opening(location):
        if exists:
            check_contents(location, accept_empty=not read_only, accept_older=not read_only)
        engine = _engine(location, read_only)
        if not read_only:
            _migrate(engine, None if exists else location.path, lease)
    return engine


@contextmanager
def opening(location: Location) -> Iterator[None]:
    """Turn errors of databases and the system into StoreError.

    The message says what to do.
    """
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error, OSError) as error:
        cause = hide_password(cause_of(error))
        if location.path is None:
            advice = "check the host, port, user, password and name of the database in the URL"
        else:
            advice = "check the path and its permissions, or name another one with --db"
        advice = find_advice(cause) or advice
        kind = StoreBusyError if is_passing(error, is_server=location.path is None) else StoreError
        raise kind(f"cannot open the database {location}: {cause}; {advice}") from error


def find_advice(cause: str) -> str:
    """Return what to do about an error of SQLite, or ""."""
    return next((advice for text, advice in _ADVICE.items() if text in cause), "")


def is_passing(error: Exception, *, is_server: bool) -> bool:
    """Tell whether a database may take the same call later."""
    cause = cause_of(error).lower()
    if is_server:
        return isinstance(error, OperationalError) and not any(text in cause for text in _LASTING)
    return any(text in cause for text in _PASSING)


def describe(url: URL) -> str:
    """Return a database's path, or its URL without the password."""
    return str(url.database) if url.get_backend_name() == "sqlite" else hide_password(url.render_as_string())


def _engine(location: Location, read_only: bool) -> Engine:
    if location.path is None:
        return _postgresql_engine(location, read_only)
    url = URL.create("sqlite", database=str(location.path))
    if read_only:
        uri = reading_uri(location.path)
        engine = create_engine(
            url, creator=lambda: sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, check_same_thread=False)
        )
    else:
        engine = create_engine(url, creator=lambda: _connect(location.path))

    @event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # we send BEGIN: the driver would leave DDL outside the transaction
        connection.execute("PRAGMA foreign_keys = ON")
        if not read_only:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA wal_autocheckpoint = 0")  # the log is folded only after a check of the files

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A transaction that starts with a read cannot write after another connection has written.
        immediate = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

    return engine


def _connect(path: Path) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode=rw"
    return sqlite3.connect(uri, uri=True, timeout=WRITER_TIMEOUT_S, check_same_thread=False)


def _postgresql_engine(location: Location, read_only: bool) -> Engine:
    try:
        url = make_url(location.url)
    except (ArgumentError, ValueError) as error:
        raise StoreError(
            f"cannot open the database {location}: it is no URL of a database; "
            "pass postgresql://USER@HOST:PORT/NAME, with a number as PORT"
        ) from error
    settings: dict[str, str | int] = {} if "connect_timeout" in url.query else {"connect_timeout": CONNECT_TIMEOUT_S}
    if not read_only and "options" not in url.query:
        settings["options"] = f"-c lock_timeout={WRITER_TIMEOUT_S}s"  # as SQLite's, so that no other program hangs us
    options = {"postgresql_readonly": True} if read_only else {}
    try:
        # A restarted server has cut the connections of the pool, so each is tried before use.
        return create_engine(url, execution_options=options, connect_args=settings, pool_pre_ping=True)
    except ImportError as error:
        raise driver_missing(location, "cannot be loaded") from error


def check_contents(location: Location, *, accept_empty: bool, accept_older: bool) -> None:
    """Raise StoreError unless this is a usable results database.

    It refuses databases of other programs and of a newer version. It also refuses an empty database unless
    `accept_empty`, and one of an older version unless `accept_older`.
    """
    engine = _engine(location, read_only=True)
    try:
        with engine.connect() as connection:
            tables = set(inspect(connection).get_table_names())
            if tables >= _OUR_TABLES:
                _check_revision(connection, location, accept_older)
            elif tables:
                raise StoreError(
                    f"cannot use the database {location}: it is not a results database of efficientquant; "
                    "name another one with --db"
                )
            elif not accept_empty:
                raise StoreError(
                    f"the database {location} is empty; name with --db the file that 'efficientquant serve' writes, "
                    "and copy that file with 'efficientquant backup' while it is served"
                )
    finally:
        engine.dispose()


def _check_revision(connection: Connection, location: Location, accept_older: bool) -> None:
    revision = MigrationContext.configure(connection).get_current_revision()
    script = ScriptDirectory.from_config(_config())
    known = {migration.revision for migration in script.walk_revisions()}
    ours = f"this is {importlib.metadata.version('efficientquant')} (schema {script.get_current_head()})"
    theirs = f"was written by efficientquant {_product_version(connection)} (schema {revision})"
    if revision not in known:
        raise StoreVersionError(
            f"the database {location} {theirs} and {ours}; upgrade efficientquant or name another database"
        )
    if not accept_older and revision != script.get_current_head():
        raise StoreVersionError(f"the database {location} {theirs} and {ours}; {_migration_advice(location)}")


def _migration_advice(location: Location) -> str:
    path = location.path
    if path is None or (os.access(path, os.W_OK) and os.access(path.resolve().parent, os.W_OK)):
        return "open it once with `efficientquant serve --db` to migrate it"
    return (
        "copy it to a directory that you can write to, and open that copy once with `efficientquant serve --db` "
        "to migrate it"
    )


def _product_version(connection: Connection) -> str:
    version = connection.scalar(select(meta.c.value).where(meta.c.key == "product_version"))
    return version or "an unknown version"


def _migrate(engine: Engine, created: Path | None, lease: ControllerLease | None) -> None:
    config = _config()
    if created is not None:
        try:
            created.touch(exist_ok=False)  # connections never create a file: one that vanished must not come back empty
        except FileExistsError:
            created = None  # another program makes it at this moment
    with ExitStack() as undo:
        undo.callback(_discard, engine, created)
        with engine.connect().execution_options(writes=True) as connection, connection.begin():
            wait_for_other_openers(connection, engine.dialect)
            if lease is not None:
                lease.require_free(connection, engine.url)
            config.attributes["connection"] = connection
            before = MigrationContext.configure(connection).get_current_revision()
            command.upgrade(config, "head")
            if before != MigrationContext.configure(connection).get_current_revision():
                recreate_views(connection)
            connection.execute(meta.delete().where(meta.c.key == "product_version"))
            version = importlib.metadata.version("efficientquant")
            connection.execute(meta.insert().values(key="product_version", value=version))
            # A view that cannot be read undoes the migration.
            connection.execute(text("SELECT 1 FROM results, run_results, comparisons WHERE 1 = 0"))
            if lease is not None:
                lease.take(connection, engine.url)
        undo.pop_all()  # the database is complete: keep it


def _discard(engine: Engine, created: Path | None) -> None:
    engine.dispose()
    if created is not None:
        for suffix in ("", *LOG_SUFFIXES):
            Path(f"{created}{suffix}").unlink(missing_ok=True)


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def cause_of(error: BaseException) -> str:
    """Return the database's own words for an error, in one line."""
    text = str(getattr(error, "orig", None) or error).strip()
    return text.splitlines()[0] if text else type(error).__name__
