"""Sentences about results: failures, broken rules, and gains over FP32."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from efficientquant_controller.analysis.comparison import MIN_EFFECT, REFUSED
from efficientquant_controller.analysis.verdict import Grade

Row = Mapping[str, Any]
GAINS_HEADING = (
    "what it bought, compared with fp32 on the same device (in brackets: 90 % interval; "
    f"{MIN_EFFECT * 100:.3g} % is the least that counts)"
)
LEGEND = (
    "median: of the repeats' medians, with their min–max; load: read + session create (or deserialize + create "
    "context) + first inference; peak RSS and USS: of the measuring process; board Δ: drop of the whole board's "
    "available memory"
)
VERDICT_LEGEND = (
    "verdict: A steady and undisturbed, B with a rule broken, which is named, INVALID not to be used; see "
    "docs/measurement.md"
)
PAPER_LEGEND = (
    "paper: its way, for its numbers alone: means over all repeats, load without the first inference, memory of "
    "all that ran on the device"
)
# The words for each compared quantity, and the prefix of its columns.
_COMPARED = (("latency", "latency"), ("load time", "load"), ("peak memory", "peak_rss"))
_ENERGY = ("energy", "energy")
# Agents before schema 7 read no RSS.
_COMPARED_BEFORE = (*_COMPARED[:2], ("peak PSS", "peak_pss"))


@dataclass
class Gains:
    """Short phrases about the effects of one variant's recipe."""

    bought: list[str] = field(default_factory=list)
    not_bought: list[str] = field(default_factory=list)
    not_known: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def failure_sentences(rows: Sequence[Row]) -> list[str]:
    """Return a line for each row that failed."""
    return [
        f"{row['device']} · {row['model']} · {row['recipe']}: failed ({row['failure_type']}): {row['failure_message']}"
        for row in rows
        if row["state"] == "failed"
    ]


def verdict_sentences(rows: Sequence[Row]) -> list[str]:
    """Return a line for each row of grade B or INVALID."""
    return [
        f"{row['device']} · {row['model']} · {row['recipe']}: {row['verdict']}, {_broken_rules(row)}"
        for row in rows
        if row["verdict"] in ("B", "INVALID")
    ]


def rail_sentences(rows: Sequence[Row]) -> list[str]:
    """Return a line for each device with its set of rails.

    Energies of two sets of rails are never compared.
    """
    known = {(row["device"], row["rail_set"]) for row in rows if row["energy_per_inference_j"] is not None}
    return [f"{device}: energy of {rail_set or 'rails it does not name'}" for device, rail_set in sorted(known)]


def gains(row: Row, twin: Row | None) -> Gains:
    """Sort a variant's facts into bought, not bought and not known.

    `row` is a row of `results` with its comparison columns. `twin` is its FP32 row, or None.
    """
    phrases = Gains(notes=list(row.get("comparison_notes") or ()))
    _judge_size(row, twin, phrases)
    is_old = row["peak_rss_bytes"] is None and row["peak_pss_bytes"] is not None
    compared = [*(_COMPARED_BEFORE if is_old else _COMPARED)]
    if row["energy_per_inference_j"] is not None:
        compared.append(_ENERGY)
    invalid = [other["recipe"] for other in (row, twin) if other is not None and other["verdict"] == Grade.INVALID]
    refused = [name for name, prefix in compared if invalid or row[f"{prefix}_answer"] in ("", REFUSED)]
    if invalid:
        phrases.not_known.append(f"{_listed(refused)} compared with fp32 ({_listed(invalid)} INVALID)")
    elif refused:
        phrases.not_known.append(f"{_listed(refused)} compared with fp32 ({row['not_compared']})")
    for name, prefix in compared:
        if name not in refused:
            _judge(name, prefix, row, phrases)
    _judge_arithmetic(row, phrases)
    phrases.not_known.append("accuracy (not measured here; 'efficientquant evaluate' does)")
    return phrases


def readable(value: float, unit: str) -> str:
    """Format a value in SI units for a person.

    Bytes become MiB, and seconds and joules below 1 become milliseconds and millijoules.
    """
    if unit == "B":
        return f"{value / 2**20:.2f} MiB"
    if unit in ("s", "J") and value < 1:
        return f"{value * 1e3:.4g} m{unit}"
    return f"{value:.4g} {unit}"


def is_compared(row: Row) -> bool:
    """Tell whether a measured row was compared with FP32 or refused."""
    return bool(row["runs_done"] and (row["latency_answer"] or row["not_compared"]))


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]


def _judge_size(row: Row, twin: Row | None, phrases: Gains) -> None:
    ratio = row["size_ratio"]
    if ratio is None or twin is None:
        return
    sizes = f"{twin['artifact_bytes'] / 2**20:.2f} → {row['artifact_bytes'] / 2**20:.2f} MiB"
    least = 1 + MIN_EFFECT  # a file's size is exact and needs no interval
    if ratio >= least:
        phrases.bought.append(f"a file {ratio:.2f}× smaller ({sizes})")
    elif ratio <= 1 / least:
        phrases.not_bought.append(f"a smaller file: {1 / ratio:.2f}× larger ({sizes})")
    else:
        phrases.not_bought.append(f"a smaller file: the same ({sizes})")


def _judge(name: str, prefix: str, row: Row, phrases: Gains) -> None:
    ratio, answer = row[f"{prefix}_ratio"], row[f"{prefix}_answer"]
    if ratio is None:
        phrases.not_known.append(f"{name} (not enough data)")
    elif answer in ("faster", "smaller", "less"):
        phrases.bought.append(f"{name} {ratio:.2f}× {answer}{_interval(prefix, row)}")
    elif answer in ("slower", "larger", "more"):
        phrases.not_bought.append(f"{name}: {1 / ratio:.2f}× {answer}{_interval(prefix, row, inverted=True)}")
    elif answer == "same":
        phrases.not_bought.append(f"{name}: the same, {ratio:.2f}×{_interval(prefix, row)}")
    else:
        phrases.not_known.append(f"{name} ≈{_interval(prefix, row)}, {answer}")


def _interval(prefix: str, row: Row, *, inverted: bool = False) -> str:
    low, high = row[f"{prefix}_ratio_low"], row[f"{prefix}_ratio_high"]
    if low is None or high is None:
        return ""
    return f" ({1 / high:.2f}–{1 / low:.2f})" if inverted else f" ({low:.2f}–{high:.2f})"


def _judge_arithmetic(row: Row, phrases: Gains) -> None:
    if row["integer_operators"] is None:
        phrases.not_known.append("arithmetic (the artifact was not checked)")
    elif row["integer_operators"]:
        phrases.bought.append(row["arithmetic"])
    else:
        phrases.not_bought.append(f"integer arithmetic: {row['arithmetic']}")


def _broken_rules(row: Row) -> str:
    """Return the broken rules of a verdict in one text.

    Rules that could not be checked are only in --json and --csv.
    """
    return "; ".join(reason for reason in row["verdict_reasons"] or () if not reason.startswith("not checked:"))
