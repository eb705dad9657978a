"""Pieces of SQL that views of several schemas share.

Released views are made of them, so none of them ever changes.
"""

import re


def median(column: str, integer: bool = False) -> str:
    """Return the median of a column over a job's succeeded runs.

    It is the mean of the one or two middle values, and NULL without any.
    """
    value = "CAST(round(avg(value)) AS BIGINT)" if integer else "avg(value)"
    return (
        f"(SELECT {value} FROM (SELECT runs.{column} AS value, row_number() OVER (ORDER BY runs.{column}) AS place, "  # noqa: S608
        "count(*) OVER () AS n FROM runs "
        f"WHERE runs.job_id = jobs.job_id AND runs.state = 'succeeded' AND runs.{column} IS NOT NULL) AS ranked "
        "WHERE place IN ((n + 1) / 2, (n + 2) / 2))"
    )


def over_succeeded(expression: str) -> str:
    """Return an aggregate over a job's succeeded runs."""
    return f"(SELECT {expression} FROM runs WHERE runs.job_id = jobs.job_id AND runs.state = 'succeeded')"  # noqa: S608


def of_last_report(column: str) -> str:
    """Return a column of the job's last reported repeat.

    A succeeded repeat goes before any other. The value is empty before the first report.
    """
    return (
        f"coalesce((SELECT runs.{column} FROM runs "  # noqa: S608
        "WHERE runs.job_id = jobs.job_id AND runs.reported_unix_s IS NOT NULL "
        "ORDER BY CASE runs.state WHEN 'succeeded' THEN 0 ELSE 1 END, runs.repeat_index DESC LIMIT 1), '')"
    )


def of_one_run(column: str, order: str) -> str:
    """Return a column of the first succeeded run, as text.

    `order` defines which run is first. The value is empty before a run has succeeded.
    """
    return (
        f"coalesce((SELECT CAST(runs.{column} AS TEXT) FROM runs "  # noqa: S608
        "WHERE runs.job_id = jobs.job_id AND runs.state = 'succeeded' "
        f"ORDER BY {order} LIMIT 1), '')"
    )


LAST = "runs.repeat_index DESC"
WORST = "CASE runs.verdict WHEN 'INVALID' THEN 0 WHEN 'B' THEN 1 WHEN 'A' THEN 2 ELSE 3 END, runs.repeat_index"
WEIGHTS = (
    "CASE campaigns.weights_kind WHEN 'checkpoint' THEN 'checkpoint:' || campaigns.weights_filename "
    "ELSE campaigns.weights_kind END"
)


def selected(statement: str) -> list[str]:
    """Return the names of a CREATE VIEW's columns, in their order."""
    names, depth, start = [], 0, statement.index("SELECT ") + len("SELECT ")
    for place in range(start, len(statement)):
        depth += {"(": 1, ")": -1}.get(statement[place], 0)
        ends = statement.startswith("\nFROM ", place)
        if depth == 0 and (ends or statement[place] == ","):
            names.append(re.split(r"[\s.]", statement[start:place].strip())[-1])
            start = place + 1
        if depth == 0 and ends:
            break
    return names


def ratio(column: str, own: str | None = None) -> str:
    """Return FP32's value divided by the variant's own, as a float.

    It is NULL where either value is unknown.
    """
    return f"CAST(fp32.{column} AS DOUBLE PRECISION) / NULLIF(own.{own or column}, 0)"
