"""Reasons of failures, verdicts and refused comparisons, each said once."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from efficientquant_controller.analysis.verdict import Grade

Row = Mapping[str, Any]
UNCHECKED = "not checked:"
# A name in quotes, or a number that stands alone, unlike those in fp16, nano-1 or 8.6.1, and is no limit.
_VARYING = re.compile(
    r"(?<!\w)'[^']*'(?!\w)|(?<!at most )(?<!less than )(?<![\w.-])\d+(?:\.\d+)?(?:e[+-]\d+)?(?!\w|\.\d)"
)
_OVER_LIMIT = re.compile(r"(\d+(?:\.\d+)?(?:e[+-]\d+)?) %.*\((?:at most|less than) (\d+(?:\.\d+)?) %")
_THROTTLED = re.compile(r"^throttled: |too hot to measure|^the (?!CPU)\S+ clock was below ")
# What a sentence of the verdict begins with, and its short name in a grade.
_SHORT = {
    "the coefficient of variation": "CoV",
    "the last third's median": "drift",
    "the sampler": "sampler",
    "the warm-up": "warm-up",
    "a measuring thread waited": "CPU wait",
    "other processes took": "other processes",
    "throttled: ": "throttled",
}

# Each kind of reasons with its heading.
KINDS: Mapping[str, str] = {
    "failed": "failed",
    "INVALID": "INVALID, not to be used",
    "B": "B, usable with care",
    "not compared": "not compared with fp32",
    "note": "compared with fp32, though this differs",
    "unchecked": "not checked, for nothing was read that could show it",
}


@dataclass
class Reason:
    """A reason with the rows that it holds for.

    Texts that differ only in their numbers and in names in quotes are one reason.
    """

    kind: str
    texts: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The reason with the range of its numbers."""
        return merged(self.texts)


def reasons(rows: Sequence[Row]) -> list[Reason]:
    """Return each distinct reason once, sorted by kind."""
    distinct: dict[tuple[str, str], Reason] = {}
    for row in rows:
        for kind, text in _of(row):
            reason = distinct.setdefault((kind, template(text)), Reason(kind))
            reason.texts.append(text)
            reason.rows.append(row)
    return sorted(distinct.values(), key=lambda reason: list(KINDS).index(reason.kind))


def _of(row: Row) -> Iterator[tuple[str, str]]:
    if row["state"] == "failed":
        yield "failed", failure(row)
    for text in row["verdict_reasons"] or ():
        if text.startswith(UNCHECKED):
            yield "unchecked", text.removeprefix(UNCHECKED).strip()
        else:
            yield row["verdict"] or "B", text
    if row["not_compared"]:
        yield "not compared", row["not_compared"]
    for text in row["comparison_notes"] or ():
        yield "note", text


def failure(row: Row) -> str:
    """Return a failure as its kind and its sentence on one line."""
    return f"{row['failure_type']}: {' '.join(str(row['failure_message']).split())}".strip(": ")


def template(text: str) -> str:
    """Return a text with `#` for numbers and quoted names."""
    return _VARYING.sub("#", text)


def merged(texts: Sequence[str]) -> str:
    """Merge texts of one template, with the range of each number.

    Of several names in quotes the first stands for all.
    """
    columns = zip(*(_VARYING.findall(text) for text in texts), strict=True)
    parts = iter([_range(column) for column in columns])
    return _VARYING.sub(lambda _: next(parts), texts[0])


def _range(parts: Sequence[str]) -> str:
    distinct = list(dict.fromkeys(parts))
    if any(part.startswith("'") for part in distinct):
        return distinct[0] if len(distinct) == 1 else f"{distinct[0]} and {len(distinct) - 1} more"
    ordered = sorted(distinct, key=float)
    return ordered[0] if float(ordered[0]) == float(ordered[-1]) else f"{ordered[0]}–{ordered[-1]}"


def broken_rules(row: Row) -> list[str]:
    """Return the broken rules of a verdict."""
    return [reason for reason in row["verdict_reasons"] or () if not reason.startswith(UNCHECKED)]


def is_throttled(row: Row) -> bool:
    """Tell whether a row is INVALID because its device was throttled."""
    return row["verdict"] == Grade.INVALID and any(map(_THROTTLED.search, broken_rules(row)))


def grade(row: Row) -> str:
    """Return a verdict with its worst number: `B, CoV 39 %`.

    A reason without a short form is given in full.
    """
    reason = _worst_reason(row)
    return ", ".join(part for part in (row["verdict"], _short(reason) or reason) if part)


def brief_grade(row: Row) -> str:
    """Return a verdict, with its worst number in its short form."""
    return ", ".join(part for part in (row["verdict"], _short(_worst_reason(row))) if part)


def _worst_reason(row: Row) -> str:
    """Return the reason whose number exceeds its limit most.

    Of an INVALID row it is the first reason, since those that make it INVALID come first.
    """
    broken = broken_rules(row)
    if row["verdict"] == Grade.INVALID:
        return broken[0] if broken else ""
    return max(broken, key=_excess, default="")


def worst(rows: Sequence[Row]) -> Row:
    """Return the row whose grade has the worst number."""
    return max(rows, key=lambda row: max(map(_excess, broken_rules(row)), default=0.0))


def _excess(reason: str) -> float:
    limits = _OVER_LIMIT.search(reason)
    return float(limits[1]) / float(limits[2]) if limits else 0.0


def _short(reason: str) -> str:
    """Return the short form of a reason, or an empty text."""
    name = next((short for start, short in _SHORT.items() if reason.startswith(start)), "")
    number = re.search(r"\d+(?:\.\d+)?(?:e[+-]\d+)? %", reason)
    return f"{name} {number[0]}" if name and number and _excess(reason) else name
