"""Each variant beside its FP32 twin on the same device: the columns that say what the recipe bought there."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from efficientquant_controller.analysis.comparison import Answer, Comparison, compare, differences
from efficientquant_controller.analysis.verdict import Grade
from efficientquant_controller.model import TWIN_RECIPE

Row = Mapping[str, Any]
_DURATION = {Answer.BETTER: "faster", Answer.WORSE: "slower"}
_SIZE = {Answer.BETTER: "smaller", Answer.WORSE: "larger"}
# What is compared over the repeats: the column of a repeat, the prefix of the result's columns, and how it is said.
_COMPARED = (
    ("latency_p50_s", "latency", _DURATION),
    ("load_s", "load", _DURATION),
    ("peak_pss_bytes", "peak_pss", _SIZE),
)
# The columns that `with_comparisons` adds, in the order of the wire's ResultRow.
COLUMNS: tuple[str, ...] = (
    "size_ratio",
    *(f"{prefix}_{name}" for _, prefix, _ in _COMPARED for name in ("ratio", "ratio_low", "ratio_high", "answer")),
    *("not_compared", "integer_operators", "float_operators", "arithmetic"),
)
_TEXTS = frozenset(name for name in COLUMNS if name.endswith("_answer") or name in ("not_compared", "arithmetic"))


def with_comparisons(rows: Sequence[Row], repeats: Sequence[Row], checks: Mapping[str, Row]) -> list[dict[str, Any]]:
    """The rows of the view `results`, each with COLUMNS: None, or an empty text, where there is nothing to say.

    `repeats` are the succeeded runs (see Store.repeats), `checks` the library's BuildVerdict.to_dict() by SHA-256.
    """
    by_job: dict[str, list[Row]] = defaultdict(list)
    for one in repeats:
        by_job[one["job_id"]].append(one)
    twins = {_place(row): row for row in rows if row["recipe"] == TWIN_RECIPE}
    return [
        {
            **row,
            **{name: "" if name in _TEXTS else None for name in COLUMNS},
            **_arithmetic(checks.get(row["artifact_sha256"])),
            **_against(row, twins.get(_place(row)), by_job),
        }
        for row in rows
    ]


def _place(row: Row) -> tuple[str, ...]:
    return row["campaign_id"], row["device"], row["model"]


def _arithmetic(check: Row | None) -> dict[str, Any]:
    """Count the check's convolutions, linears and products that compute in integers and in floats."""
    if check is None:
        return {}
    counts: Counter[str] = Counter()
    for precisions in check["precisions"].values():
        counts.update(precisions)
    integers = counts.pop("int8", 0)
    words = f"{check['gain']} (by {check['runtime']}, where it was built)"
    return {"integer_operators": integers, "float_operators": counts.total(), "arithmetic": words}


def _against(row: Row, twin: Row | None, by_job: Mapping[str, Sequence[Row]]) -> dict[str, Any]:
    if row["recipe"] == TWIN_RECIPE:
        return {}
    if twin is None:
        return {"not_compared": "this campaign has no fp32 twin of it"}
    theirs, own = by_job[twin["job_id"]], by_job[row["job_id"]]
    found = {"size_ratio": _ratio(twin["artifact_bytes"], row["artifact_bytes"])}
    if not theirs or not own:
        return {**found, "not_compared": f"no repeat of {TWIN_RECIPE if not theirs else row['recipe']} has succeeded"}
    theirs, own = (list(filter(_is_valid, runs)) for runs in (theirs, own))
    if not theirs or not own:
        return {**found, "not_compared": f"every repeat of {TWIN_RECIPE if not theirs else row['recipe']} is INVALID"}
    if problems := differences(theirs, own):
        return {**found, "not_compared": "; ".join(problems)}
    for column, prefix, words in _COMPARED:
        found |= _columns(prefix, words, _compared(column, theirs, own))
    return found


def _is_valid(repeat: Row) -> bool:
    """A throttled or disturbed run is no measurement of its recipe; runs of older releases have no verdict."""
    return repeat.get("verdict") != Grade.INVALID


def _compared(column: str, theirs: Sequence[Row], own: Sequence[Row]) -> Comparison:
    if column == "load_s" and len({one["load_cold"] for one in (*theirs, *own)}) > 1:
        return Comparison(Answer.NOT_ENOUGH_DATA)  # a file that is read from memory is no faster to load
    return compare(_known(theirs, column), _known(own, column))


def _known(repeats: Sequence[Row], column: str) -> list[float]:
    return [one[column] for one in repeats if one[column]]  # nothing takes no time and no memory: 0 is not known


def _columns(prefix: str, words: Mapping[Answer, str], found: Comparison) -> dict[str, Any]:
    return {
        f"{prefix}_ratio": found.ratio,
        f"{prefix}_ratio_low": found.low,
        f"{prefix}_ratio_high": found.high,
        f"{prefix}_answer": words.get(found.answer, found.answer.value),
    }


def _ratio(theirs: float | None, own: float | None) -> float | None:
    return theirs / own if theirs and own else None
