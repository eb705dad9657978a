"""The tables of docs/database.md that list columns, made from the registry."""

import re
from collections.abc import Iterable

from efficientquant_controller.columns import OF_COMPARISONS, OF_JOBS, OF_PAIRS, OF_RUNS, Column

_TABLES = {"results": OF_JOBS, "comparisons": OF_PAIRS, "rows": OF_COMPARISONS, "run_results": OF_RUNS}
_MARKED = re.compile(r"(<!-- columns: (\w+) -->\n).*?(<!-- end of columns -->)", re.DOTALL)


def with_tables(page: str) -> str:
    """Return the page with its marked tables regenerated.

    Raises KeyError for a mark that names no table.
    """
    return _MARKED.sub(lambda mark: f"{mark[1]}{_table(_TABLES[mark[2]], mark[2] == 'results')}{mark[3]}", page)


def _table(columns: Iterable[Column], over_repeats: bool) -> str:
    headings = ["column", "unit", *(["of the repeats"] if over_repeats else []), "meaning"]
    rows = [headings, ["---"] * len(headings), *(_row(column, over_repeats) for column in columns)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _row(column: Column, over_repeats: bool) -> list[str]:
    unit = "JSON" if column.kind == "json" else column.unit
    over = [column.over.value] if over_repeats else []
    return [f"`{column.name}`", unit, *over, column.meaning]
