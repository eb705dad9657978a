"""Rows of the views with Python's types, from either database."""

import json
from collections.abc import Sequence
from math import isfinite
from typing import Any

from sqlalchemy import RowMapping

from efficientquant_controller.columns import Kind, names_of_kind

_JSON, _BOOLEAN, _DOUBLE = (names_of_kind(kind) for kind in (Kind.JSON, Kind.BOOLEAN, Kind.DOUBLE))


def typed(rows: Sequence[RowMapping]) -> list[dict[str, Any]]:
    """Decode the JSON and booleans of a view's rows.

    SQLite returns them as text and as 1 and 0. An empty text becomes None. So does a number that is not finite, because
    rows are sent as JSON, which cannot hold it.
    """
    if not rows:
        return []
    json_names, booleans, doubles = ([name for name in rows[0] if name in kind] for kind in (_JSON, _BOOLEAN, _DOUBLE))
    return [_typed(dict(row), json_names, booleans, doubles) for row in rows]


def _typed(
    values: dict[str, Any], json_names: Sequence[str], booleans: Sequence[str], doubles: Sequence[str]
) -> dict[str, Any]:
    for name in json_names:
        if isinstance(values[name], str):
            values[name] = json.loads(values[name]) if values[name] else None
    for name in booleans:
        if values[name] is not None:
            values[name] = bool(values[name])
    for name in doubles:
        if values[name] is not None and not isfinite(values[name]):
            values[name] = None
    return values
