"""The views of the current schema, made from the registry of columns."""

from collections.abc import Sequence

from efficientquant_controller.columns import OF_GUARD, OF_JOBS, OF_RUNS, Column, Kind, Origin, Over
from efficientquant_controller.store.views import v3
from efficientquant_controller.store.views.sql import (
    LAST,
    WORST,
    median,
    of_last_report,
    of_one_run,
    over_succeeded,
    ratio,
    selected,
)

_JOINS = """FROM jobs
JOIN campaigns ON campaigns.campaign_id = jobs.campaign_id
JOIN devices ON devices.device_id = jobs.device_id
LEFT JOIN builds ON builds.campaign_id = jobs.campaign_id AND builds.model = jobs.model
AND builds.recipe = jobs.recipe AND builds.target = jobs.target
LEFT JOIN artifacts ON artifacts.artifact_sha256 = builds.artifact_sha256"""
_SPREAD = {
    "latency_ratio_min": ratio("latency_p50_min_s", "latency_p50_max_s"),
    "latency_ratio_max": ratio("latency_p50_max_s", "latency_p50_min_s"),
}
# The columns of `comparisons` before schema 4, in their order.
_FIRST = ("latency_ratio", "latency_ratio_min", "latency_ratio_max", "load_ratio", "peak_pss_ratio")
# The columns of the variant that schema 6 added.
_LATER_OF_VARIANT = ("device_id", "started_unix_s", "reported_unix_s", "clock_offset_s", "agent_version")


def current_views() -> dict[str, str]:
    """Return the statement that creates each view, in that order."""
    return {"results": _results(), "run_results": _run_results(), "comparisons": _comparisons()}


def _in_order(columns: Sequence[Column], released: str) -> list[Column]:
    """Put the columns of a released view first, in their order.

    Some programs read columns by position.
    """
    places = {name: place for place, name in enumerate(selected(released))}
    return sorted(columns, key=lambda column: places.get(column.name, len(places)))


def _results() -> str:
    columns = ",\n".join(f"{_of_job(column)} AS {column.name}" for column in _in_order(OF_JOBS, v3.RESULTS))
    return f"CREATE VIEW results AS\nSELECT {columns}\n{_JOINS}\nORDER BY campaigns.number DESC, jobs.ordinal"


def _run_results() -> str:
    columns = ",\n".join(
        f"{column.run_sql or f'runs.{column.name}'} AS {column.name}" for column in _in_order(OF_RUNS, v3.RUN_RESULTS)
    )
    return (
        f"CREATE VIEW run_results AS\nSELECT {columns}\n{_JOINS}\nJOIN runs ON runs.job_id = jobs.job_id\n"
        "LEFT JOIN device_snapshots ON device_snapshots.snapshot_sha256 = runs.snapshot_sha256"
    )


def _comparisons() -> str:
    """Make the view of the guard's answers.

    It has NULL, or an empty text, where the guard gave no answer.
    """
    of_guard = {column.name: _of_guard(column) for column in OF_GUARD}
    spread = {name: f"CASE WHEN stored.latency_ratio IS NOT NULL THEN {sql} END" for name, sql in _SPREAD.items()}
    known = {**of_guard, **spread}
    names = [*_FIRST, *(column.name for column in OF_GUARD if column.name not in _FIRST)]
    columns = ",\n".join(f"{known[name]} AS {name}" for name in names)
    own = ", ".join(f"own.{name}" for name in _LATER_OF_VARIANT)
    return f"""CREATE VIEW comparisons AS
SELECT own.campaign_id, own.job_id, fp32.job_id AS fp32_job_id, own.device, own.model, own.recipe, own.weights,
own.tier, own.runs_done, fp32.runs_done AS fp32_runs_done,
{ratio("artifact_bytes")} AS size_ratio,
{columns},
{own}
FROM results AS own
JOIN results AS fp32 ON fp32.campaign_id = own.campaign_id AND fp32.device_id = own.device_id
AND fp32.model = own.model
LEFT JOIN job_comparisons AS stored ON stored.job_id = own.job_id
WHERE fp32.recipe = 'fp32' AND own.recipe <> 'fp32'"""  # noqa: S608


def _of_guard(column: Column) -> str:
    is_text = column.kind in (Kind.STRING, Kind.TEXT)
    return f"coalesce(stored.{column.name}, '')" if is_text else f"stored.{column.name}"


def _of_job(column: Column) -> str:
    """Return the expression of a column in the view `results`."""
    if column.origin is Origin.REPEATS:
        return over_succeeded(column.job_sql)
    return column.job_sql or _over_repeats(column)


def _over_repeats(column: Column) -> str:
    name, whole = column.name, column.kind.whole
    match column.over:
        case Over.MEDIAN:
            return median(name, integer=whole)
        case Over.MIN | Over.MAX:
            return over_succeeded(f"{'min' if column.over is Over.MIN else 'max'}(runs.{name})")
        case Over.SUM:
            return over_succeeded(f"CAST(sum(runs.{name}) AS BIGINT)" if whole else f"sum(runs.{name})")
        case Over.MEAN:
            return over_succeeded(f"CAST(round(avg(runs.{name})) AS BIGINT)" if whole else f"avg(runs.{name})")
        case Over.LAST:
            return of_one_run(name, LAST)
        case Over.WORST:
            return of_one_run(name, WORST)
        case Over.LAST_REPORTED:
            return of_last_report(name)
        case Over.NONE:
            raise ValueError(f"the view results has no column {name}: its entry does not say what the repeats make")
