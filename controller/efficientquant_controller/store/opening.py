"""Opening a results database: checks, connection settings, creation and migration."""

import importlib.metadata
import sqlite3
from contextlib import ExitStack
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event, inspect, select, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from efficientquant_controller.errors import StoreError, StoreVersionError
from efficientquant_controller.store.tables import meta

BUSY_TIMEOUT_S = 30


def open_engine(target: str | Path, read_only: bool) -> Engine:
    """Open, create and migrate the database at a path or URL; raises StoreError, and then nothing was changed.

    With `read_only` nothing is created, migrated or written: a database of an older version is refused too.
    """
    url = _parse(target)
    exists = _check_file(url, read_only) if url.get_backend_name() == "sqlite" else True
    try:
        if exists:
            _check_contents(url, read_only)
        engine = _engine(url, read_only)
        if not read_only:
            _migrate(engine, created=None if exists else Path(url.database or ""))
    except (SQLAlchemyError, sqlite3.Error, OSError, ImportError) as error:
        raise StoreError(
            f"cannot open the database {describe(url)}: {_cause(error)}; "
            "check the path or URL and its permissions, or name another one with --db"
        ) from error
    return engine


def describe(url: URL) -> str:
    """Name a database for a person: the path of a SQLite file, or the URL without its password."""
    return str(url.database) if url.get_backend_name() == "sqlite" else url.render_as_string(hide_password=True)


def _parse(target: str | Path) -> URL:
    if isinstance(target, Path) or "://" not in target:
        return URL.create("sqlite", database=str(target))
    try:
        url = make_url(target)
        url.get_dialect()
    except (ArgumentError, NoSuchModuleError, ValueError) as error:
        raise StoreError(
            f"{target!r} is not a database URL ({error}); pass a path, sqlite:///PATH or postgresql+psycopg://…"
        ) from error
    if url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
        raise StoreError("a results database needs a file; pass a path or sqlite:///PATH")
    return url


def _check_file(url: URL, read_only: bool) -> bool:
    """Say whether the SQLite file exists; raises StoreError when it can be none."""
    path = Path(url.database or "")
    if path.is_dir():
        raise StoreError(f"cannot open the database {path}: it is a directory; name a file in it")
    if not path.parent.is_dir():
        raise StoreError(
            f"cannot open the database {path}: the directory {path.parent} does not exist; create it first"
        )
    if path.exists():
        _check_header(path)
        return True
    if read_only:
        raise StoreError(f"cannot open the database {path}: it does not exist; name the file that `serve --db` writes")
    return False


def _check_header(path: Path) -> None:
    try:
        with path.open("rb") as file:
            header = file.read(16)
    except OSError as error:
        raise StoreError(
            f"cannot open the database {path}: {error.strerror}; check its permissions or name another file"
        ) from error
    if header not in (b"", b"SQLite format 3\0"):
        raise StoreError(f"cannot open the database {path}: it is not a SQLite database; name another file")


def _engine(url: URL, read_only: bool) -> Engine:
    if url.get_backend_name() != "sqlite":
        options = {"postgresql_readonly": True} if read_only else {}
        return create_engine(url, execution_options=options)
    if read_only:
        location = f"{Path(url.database or '').absolute().as_uri()}?mode=ro"
        engine = create_engine(
            "sqlite://",
            creator=lambda: sqlite3.connect(location, uri=True, timeout=BUSY_TIMEOUT_S, check_same_thread=False),
        )
    else:
        engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S, "check_same_thread": False})

    @event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # BEGIN is ours: the driver's own would leave DDL outside the transaction
        connection.execute("PRAGMA foreign_keys = ON")
        if not read_only:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A writer that begins as a reader could find the database changed under it and would have to start again.
        immediate = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

    return engine


def _check_contents(url: URL, read_only: bool) -> None:
    """Refuse what a newer version wrote, what is not ours, and, read-only, what would have to be migrated."""
    engine = _engine(url, read_only=True)
    try:
        with engine.connect() as connection:
            tables = set(inspect(connection).get_table_names())
            if "alembic_version" in tables:
                _check_revision(connection, describe(url), read_only)
            elif tables or read_only:
                raise StoreError(
                    f"cannot use the database {describe(url)}: it is not a results database of efficientquant; "
                    "name another one with --db"
                )
    finally:
        engine.dispose()


def _check_revision(connection: Connection, name: str, read_only: bool) -> None:
    found = MigrationContext.configure(connection).get_current_revision()
    script = ScriptDirectory.from_config(_config())
    known = {one.revision for one in script.walk_revisions()}
    ours = importlib.metadata.version("efficientquant")
    if found not in known:
        raise StoreVersionError(
            f"the database {name} was written by efficientquant {_product_version(connection)} (schema {found}) and "
            f"this is {ours} (schema {script.get_current_head()}); upgrade efficientquant or name another database"
        )
    if read_only and found != script.get_current_head():
        raise StoreVersionError(
            f"the database {name} was written by efficientquant {_product_version(connection)} (schema {found}) and "
            f"this is {ours} (schema {script.get_current_head()}); "
            "open it once with `efficientquant serve --db` to migrate it"
        )


def _product_version(connection: Connection) -> str:
    version = connection.scalar(select(meta.c.value).where(meta.c.key == "product_version"))
    return version or "an unknown version"


def _migrate(engine: Engine, created: Path | None) -> None:
    config = _config()
    with ExitStack() as undo:
        undo.callback(_discard, engine, created)
        with engine.connect().execution_options(writes=True) as connection, connection.begin():
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            connection.execute(meta.delete().where(meta.c.key == "product_version"))
            version = importlib.metadata.version("efficientquant")
            connection.execute(meta.insert().values(key="product_version", value=version))
            # The views answer, or nothing is kept.
            connection.execute(text("SELECT 1 FROM results, comparisons WHERE 1 = 0"))
        undo.pop_all()  # it is whole: keep it


def _discard(engine: Engine, created: Path | None) -> None:
    engine.dispose()
    if created is not None:
        for suffix in ("", "-wal", "-shm"):
            Path(f"{created}{suffix}").unlink(missing_ok=True)


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _cause(error: BaseException) -> str:
    return str(getattr(error, "orig", None) or error).strip().splitlines()[0]
