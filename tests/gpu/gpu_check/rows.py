"""The rows of a report, and their form between child and parent."""

import json
from typing import Any, Callable, Dict, Iterator, NamedTuple, Tuple

from efficientquant_agent.backends.base import UnsupportedGpuError

OK, ABSENT, UNSUPPORTED, FAILED, NOT_RUN = "ok", "absent", "unsupported", "FAILED", "not run"
# A check yields (title, result). A result that is an exception is a failure.
Seen = Iterator[Tuple[str, Any]]


class Row(NamedTuple):
    """One line of the report.

    `outcome` is one of the constants above.
    """

    check: str
    outcome: str
    seen: str


class Absent(Exception):  # noqa: N818 — no error, the package to check is not installed
    """The absence of the package or device that a check needs."""


def rows_of(name: str, check: Callable[[], Seen]) -> Iterator[Row]:
    """Yield the rows of a check.

    An exception that ends the check is its last row.
    """
    try:
        for what, seen in check():
            title = "{}: {}".format(name, what) if what else name
            yield _row(title, seen) if isinstance(seen, Exception) else Row(title, OK, str(seen))
    except Exception as error:  # noqa: BLE001 — the report shows every error
        yield _row(name, error)


def _row(title: str, error: Exception) -> Row:
    if isinstance(error, Absent):
        return Row(title, ABSENT, str(error))
    if isinstance(error, UnsupportedGpuError):
        return Row(title, UNSUPPORTED, str(error))
    return Row(title, FAILED, "{}: {}".format(type(error).__name__, error))


def encode(row: Row) -> str:
    """Return a row as one line of JSON."""
    return json.dumps(row._asdict()) + "\n"


def decode(message: Dict[str, Any]) -> Row:
    """Return the row of a JSON object."""
    return Row(**{name: str(message[name]) for name in Row._fields})
