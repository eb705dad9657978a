"""The location of a results database: a SQLite file or PostgreSQL URL."""

import os
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote

from efficientquant.installation import install_command

from efficientquant_controller.errors import StoreError

SUPPORTED = "pass a path, sqlite:///PATH or postgresql://USER@HOST/NAME"
SQLITE_HEADER = b"SQLite format 3\0"
_LIKE_AN_URL = re.compile(r"(file|sqlite|postgres(ql)?|mysql|mariadb)(\+\w+)?:", re.IGNORECASE)


@dataclass(frozen=True)
class Location:
    """A SQLite file or a PostgreSQL database.

    Exactly one field is set: `path`, or `url` with psycopg as the driver.
    """

    path: Path | None = None
    url: str = ""

    def __str__(self) -> str:
        return hide_password(self.url.replace("+psycopg", "", 1)) if self.path is None else str(self.path)


def locate(target: str | Path) -> Location:
    """Parse the value of `--db` without touching a file or server.

    Raises StoreError for an unsupported value.
    """
    if isinstance(target, Path):
        return Location(target)
    scheme, separator, rest = target.partition("://")
    dialect, _, driver = scheme.lower().partition("+")
    if not separator or dialect == "file":
        return Location(_plain_path(target))
    if dialect == "sqlite" and driver in ("", "pysqlite"):
        return Location(_path_in_url(target, rest))
    if dialect not in ("postgresql", "postgres", "sqlite"):
        raise _unusable(target, f"{dialect} databases are not supported", SUPPORTED)
    if dialect == "sqlite" or driver not in ("", "psycopg"):
        raise _unusable(target, f"the driver {driver} is not supported", SUPPORTED)
    if rest.partition("?")[0].count("@") > 1:
        raise _unusable(target, "it has more than one @", "write an @ in a user name or password as %40")
    return Location(url=f"postgresql+psycopg://{rest}")


def check_location(target: str | Path, *, writing: bool) -> tuple[Location, bool]:
    """Parse the value of `--db` and tell whether its database exists.

    Nothing is opened, and a server's database counts as existing. Raises StoreError for a value that names no database,
    a file that `check_file` refuses, or a server whose driver is not installed.
    """
    location = locate(target)
    if location.path is not None:
        return location, check_file(location.path, writing=writing)
    if find_spec("psycopg") is None:
        raise driver_missing(location, "is not installed")
    return location, True


def driver_missing(location: Location, problem: str) -> StoreError:
    """Return the error that says how to install PostgreSQL's driver."""
    return StoreError(
        f"cannot open the database {location}: psycopg, which PostgreSQL takes, {problem}; "
        f"install it: {install_command('postgresql')}"
    )


def hide_password(text: str) -> str:
    """Replace every password in a URL by ***."""
    text = re.sub(r"(//[^:/?@]*):.*@", r"\1:***@", text)
    return re.sub(r"(?i)(password=)[^&\s]*", r"\1***", text)


def check_file(path: Path, *, writing: bool) -> bool:
    """Tell whether a SQLite file exists, without changing anything.

    Raises StoreError for a path that cannot hold a SQLite database or holds another file. With `writing` it also
    refuses a file that cannot be created or written, without it a missing file.
    """
    try:
        if path.is_dir():
            raise _unusable(path, "it is a directory", "name a file in it")
        if not writing and not path.exists():
            raise StoreError(f"there is no database {path}; name with --db the file that 'efficientquant serve' writes")
        if not path.parent.is_dir():
            raise _unusable(path, f"the directory {path.parent} does not exist", "create it first")
        if path.exists():
            _check_header(path)
    except OSError as error:
        raise _unusable(
            path, error.strerror or "it cannot be read", "check its permissions or name another file"
        ) from error
    if writing:
        _check_writable(path)
    return path.exists()


def _check_header(path: Path) -> None:
    if not path.is_file():
        raise _unusable(path, "it is not a regular file", "name another file")
    with path.open("rb") as file:
        header = file.read(len(SQLITE_HEADER))
    if not header:
        raise _unusable(path, "the file is empty", "name the file that 'efficientquant serve' writes, or a new one")
    if header != SQLITE_HEADER:
        raise _unusable(path, "it is not a SQLite database", "name another file")


def _check_writable(path: Path) -> None:
    """Raise StoreError for a read-only file or folder.

    The folder counts too, because SQLite writes its log there.
    """
    for needed in (path, path.resolve().parent):
        if needed.exists() and not os.access(needed, os.W_OK):
            what = "directory" if needed.is_dir() else "file"
            advice = "copy it to a directory that you can write to" if path.exists() else "name a file elsewhere"
            raise _unusable(path, f"the {what} {needed} is read-only for you", advice)


def _plain_path(target: str) -> Path:
    if target in ("", ":memory:"):
        raise _unusable(target or "''", "a results database needs a file", SUPPORTED)
    if _LIKE_AN_URL.match(target) and not Path(target).exists():
        raise _unusable(target, "it is neither a path nor a supported URL", SUPPORTED)
    return Path(target)


def _path_in_url(target: str, rest: str) -> Path:
    if rest in ("", "/", "/:memory:"):
        raise _unusable(target, "a results database needs a file", SUPPORTED)
    if not rest.startswith("/"):
        raise _unusable(target, "a path follows three slashes", f"pass sqlite:///{rest}")
    if "?" in rest:
        raise _unusable(target, "options after ? are not supported", f"pass sqlite://{rest.partition('?')[0]}")
    return Path(unquote(rest[1:]))


def _unusable(target: str | Path, problem: str, advice: str) -> StoreError:
    return StoreError(f"cannot open the database {hide_password(str(target))}: {problem}; {advice}")
