"""Comparison of each variant with its FP32 twin on the same device."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from efficientquant_controller.analysis.job_comparison import JobComparison, compare_jobs, grade_notes
from efficientquant_controller.analysis.metrics import METRICS, Side
from efficientquant_controller.columns import OF_COMPARISONS, Kind
from efficientquant_controller.model import TWIN_RECIPE, JobState

Row = Mapping[str, Any]
# The metric of each comparison over repeats, and the prefix of its columns.
_COMPARED = (
    ("latency", "latency"),
    ("load", "load"),
    ("memory", "peak_rss"),
    ("energy", "energy"),
    ("pss", "peak_pss"),
)
_NUMBERS = ("ratio", "ratio_low", "ratio_high")
# The columns that `with_comparisons` adds, with the values for a row without a comparison.
_NO_COMPARISON: Mapping[str, Any] = {
    column.name: [] if column.kind is Kind.JSON else "" if column.kind in (Kind.STRING, Kind.TEXT) else None
    for column in OF_COMPARISONS
}


def with_comparisons(
    rows: Sequence[Row],
    repeats: Sequence[Row],
    checks: Mapping[str, Row],
    known: Mapping[str, Row] = MappingProxyType({}),
) -> list[dict[str, Any]]:
    """Return the rows of `results` with their comparisons to FP32.

    `repeats` are the succeeded runs as rows of the view `run_results`. `checks` are the library's
    BuildVerdict.to_dict() by SHA-256. `known` has the columns of `twin_columns` by job. The jobs in it need no repeats.
    """
    by_job: dict[str, list[Row]] = defaultdict(list)
    for repeat in repeats:
        by_job[repeat["job_id"]].append(repeat)
    twins = {place(row): row for row in rows if row["recipe"] == TWIN_RECIPE}
    return [
        {
            **row,
            **_NO_COMPARISON,
            **_arithmetic(checks.get(row["artifact_sha256"])),
            **_sizes(row, twins.get(place(row))),
            **(known.get(row["job_id"]) or _twin_comparison(row, twins.get(place(row)), by_job)),
        }
        for row in rows
    ]


def place(job: Row) -> tuple[str, str, str]:
    """Return the key that a variant shares with its twin.

    It is (campaign id, device id, model).
    """
    return job["campaign_id"], job["device_id"], job["model"]


def twin_columns(twin: Sequence[Row], own: Sequence[Row], recipe: str) -> dict[str, Any]:
    """Compare a variant with its twin.

    Each side is the succeeded repeats of one job, as rows of the view `run_results`. Answers are those of
    `compare_jobs`. Ratios are None when the guard refuses. `not_compared` has the refusals, `comparison_notes` the
    footnotes.
    """
    sides = Side(TWIN_RECIPE, twin, label=TWIN_RECIPE), Side(recipe, own, label=recipe)
    columns: dict[str, Any] = {}
    refusals: list[str] = []
    notes: list[str] = []
    for metric, prefix in _COMPARED:
        comparison = compare_jobs(*sides, METRICS[metric])
        columns |= _columns(prefix, comparison)
        refusals += comparison.refusals
        notes += comparison.footnotes
    grades = {sentence for side in sides for sentence in grade_notes(side)}  # `results` shows them anyway
    columns["not_compared"] = "; ".join(dict.fromkeys(refusals))
    columns["comparison_notes"] = [note for note in dict.fromkeys(notes) if note not in grades]
    return columns


def _arithmetic(check: Row | None) -> dict[str, Any]:
    """Count the integer and float operators of an artifact's check.

    Operators are convolutions, linears and matrix products.
    """
    if check is None:
        return {}
    counts: Counter[str] = Counter()
    for precisions in check["precisions"].values():
        counts.update(precisions)
    integers = counts.pop("int8", 0)
    words = f"{check['gain']} (by {check['runtime']}, where it was built)"
    return {"integer_operators": integers, "float_operators": counts.total(), "arithmetic": words}


def _sizes(row: Row, twin: Row | None) -> dict[str, Any]:
    if twin is None or row["recipe"] == TWIN_RECIPE:
        return {}
    twin_bytes, own_bytes = twin["artifact_bytes"], row["artifact_bytes"]
    return {"size_ratio": twin_bytes / own_bytes if twin_bytes and own_bytes else None}


def _twin_comparison(row: Row, twin: Row | None, by_job: Mapping[str, Sequence[Row]]) -> dict[str, Any]:
    if row["recipe"] == TWIN_RECIPE:
        return {}
    if twin is None:
        return {"not_compared": "this campaign has no fp32 twin of it"}
    theirs, own = by_job[twin["job_id"]], by_job[row["job_id"]]
    if (not theirs or not own) and not (_has_ended(row) and _has_ended(twin)):
        recipe = TWIN_RECIPE if not theirs else row["recipe"]
        return {"not_compared": f"no repeat of {recipe} has succeeded yet"}
    return twin_columns(theirs, own, row["recipe"])


def _has_ended(job: Row) -> bool:
    return JobState(job["state"]).ended


def _columns(prefix: str, comparison: JobComparison) -> dict[str, Any]:
    numbers = dict(zip(_NUMBERS, (comparison.ratio, comparison.low, comparison.high), strict=True))
    return {**{f"{prefix}_{name}": value for name, value in numbers.items()}, f"{prefix}_answer": comparison.answer}
