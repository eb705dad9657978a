"""The rows that `results` shows, chosen by name, time and verdict."""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from efficientquant_controller.analysis.verdict import Grade
from efficientquant_controller.cli.durations import utc_time
from efficientquant_controller.cli.options import split_list
from efficientquant_controller.errors import UserError

Row = Mapping[str, Any]
NAMED = ("device", "model", "recipe", "label")
_UNITS_S = {"min": 60, "h": 3600, "d": 86_400, "w": 604_800}
_AGO = re.compile(rf"(\d+(?:\.\d+)?) ?({'|'.join(_UNITS_S)})")
_MOST_LISTED = 12
_TIME = "reported_unix_s"


@dataclass(frozen=True)
class Filters:
    """What a user asked for, as typed.

    Names are separated by commas and may have `*` and `?`.
    """

    device: str = ""
    model: str = ""
    recipe: str = ""
    label: str = ""
    verdict: str = ""
    since_unix_s: float | None = None

    def check(self) -> None:
        """Raise UserError for a verdict that does not exist."""
        read_grades(self.verdict)

    def apply(self, rows: Sequence[Row]) -> list[Row]:
        """Return the rows that meet all filters.

        Raises UserError for a name that no row has. The result is empty where only the combination does not exist.
        """
        kept = list(rows)
        for name in NAMED:
            patterns = split_list(getattr(self, name))
            existing = _existing(rows, name)
            for pattern in patterns:
                if rows and not any(_matches(value, pattern) for value in existing):
                    raise _unknown(name, pattern, existing)
            if patterns:
                kept = [row for row in kept if any(_matches(str(row.get(name, "")), pattern) for pattern in patterns)]
        grades = read_grades(self.verdict)
        kept = [row for row in kept if not grades or row["verdict"] in grades]
        return [row for row in kept if self.since_unix_s is None or (row.get(_TIME) or 0.0) >= self.since_unix_s]

    def explain(self, rows: Sequence[Row]) -> UserError:
        """Return the error for filters that no row of `rows` meets."""
        asked = [f"--{name} {text}" for name in (*NAMED, "verdict") if (text := getattr(self, name))]
        if self.since_unix_s is not None:
            newest = utc_time(max((row.get(_TIME) or 0.0 for row in rows), default=0.0))
            asked.append(f"--since (the newest is of {newest})")
        exist = (f"{name}s {_listed(_existing(rows, name))}" for name in (*NAMED, "verdict"))
        return UserError(f"no row meets {' and '.join(asked)}; leave one of them out. There are {'; '.join(exist)}")


def _matches(value: str, pattern: str) -> bool:
    """Tell whether a name meets a pattern, in which brackets are letters."""
    return fnmatchcase(value, pattern.replace("[", "[[]"))


def _existing(rows: Sequence[Row], name: str) -> list[str]:
    """Return each value once. Older controllers send no labels."""
    return list(dict.fromkeys(str(row.get(name, "")) for row in rows))


def _unknown(name: str, pattern: str, existing: Sequence[str]) -> UserError:
    close = get_close_matches(pattern, existing, n=1)
    meant = f"did you mean {close[0]}? There" if close else "there"
    return UserError(f"--{name} {pattern}: no row has this {name}; {meant} are {_listed(existing)}")


def _listed(names: Sequence[str]) -> str:
    """Return names, without the empty one of rows that have none."""
    named = [name for name in names if name]
    more = f" and {len(named) - _MOST_LISTED} more" if len(named) > _MOST_LISTED else ""
    return ", ".join(named[:_MOST_LISTED]) + more if named else "none"


def read_grades(text: str) -> tuple[Grade, ...]:
    """Return the grades that `--verdict` names.

    Raises UserError for another word.
    """
    names = {grade.value.lower(): grade for grade in Grade}
    words = split_list(text)
    if unknown := [word for word in words if word.lower() not in names]:
        raise UserError(f"--verdict {text}: there is no verdict {unknown[0]!r}; name some of {', '.join(Grade)}")
    return tuple(names[word.lower()] for word in words)


def read_since(text: str, now_unix_s: float | None = None) -> float:
    """Return the time that `--since` names, in seconds since 1970.

    It is a date, a date with a time (of this machine's zone, unless it names one), or a time ago such as `7d`. Raises
    UserError for anything else.
    """
    if ago := _AGO.fullmatch(text.strip()):
        return (time.time() if now_unix_s is None else now_unix_s) - float(ago[1]) * _UNITS_S[ago[2]]
    try:
        return datetime.fromisoformat(text.strip()).timestamp()
    except (ValueError, OverflowError, OSError):
        raise UserError(
            f"--since {text}: this is no time; give a date such as 2026-01-31, a date with a time such as "
            "2026-01-31T18:00, or a time ago in min, h, d or w such as 12h"
        ) from None
