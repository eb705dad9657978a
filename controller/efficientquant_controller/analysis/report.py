"""What each recipe bought on each device beside FP32, and what it did not, in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from efficientquant_controller.analysis.comparison import MIN_EFFECT
from efficientquant_controller.analysis.job_comparison import REFUSED
from efficientquant_controller.model import TWIN_RECIPE

Row = Mapping[str, Any]
HEADING = (
    "what it bought, beside fp32 on the same device (in brackets: 90 % interval; "
    f"{MIN_EFFECT * 100:.3g} % is the least that counts)"
)
# What is compared: how a person says it, and the prefix of its columns.
_COMPARED = (("latency", "latency"), ("load time", "load"), ("peak memory", "peak_pss"))


@dataclass
class Gains:
    """Short phrases about one variant."""

    bought: list[str] = field(default_factory=list)
    not_bought: list[str] = field(default_factory=list)
    not_known: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def print_gains(rows: Sequence[Row], console: Console) -> None:
    """Print a paragraph for each variant that was measured; nothing where there is none, or where nothing is known."""
    told = [(row, gains(row, _twin(row, rows))) for row in rows if row["recipe"] != TWIN_RECIPE and _known(row)]
    if not told:
        return
    console.print(HEADING, soft_wrap=True)
    for row, found in told:
        console.print(f"{row['device']} · {row['model']} · {row['recipe']}", soft_wrap=True)
        console.print(Padding(_paragraph(found), (0, 0, 0, 2), expand=False))
    console.print()


def gains(row: Row, twin: Row | None) -> Gains:
    """Sort what is known of a variant (a row with the comparison columns) by whether its recipe bought it."""
    found = Gains(notes=list(row.get("comparison_notes") or ()))
    _judge_size(row, twin, found)
    refused = [name for name, prefix in _COMPARED if row[f"{prefix}_answer"] in ("", REFUSED)]
    if refused:
        found.not_known.append(f"{_listed(refused)} beside fp32 ({row['not_compared']})")
    for name, prefix in _COMPARED:
        if name not in refused:
            _judge(name, prefix, row, found)
    _judge_arithmetic(row, found)
    found.not_known.append("accuracy (not measured here; 'efficientquant evaluate' does)")
    return found


def _known(row: Row) -> bool:
    return bool(row["runs_done"] and (row["latency_answer"] or row["not_compared"]))


def _twin(row: Row, rows: Sequence[Row]) -> Row | None:
    same = ("campaign_id", "device", "model")
    return next((o for o in rows if o["recipe"] == TWIN_RECIPE and all(o[n] == row[n] for n in same)), None)


def _paragraph(found: Gains) -> Table:
    """Three lines with a hanging indent."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for label, phrases in (("bought", found.bought), ("not bought", found.not_bought), ("not known", found.not_known)):
        table.add_row(label, "; ".join(phrases) or "nothing")
    if found.notes:
        table.add_row("note", "; ".join(found.notes))
    return table


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]


def _judge_size(row: Row, twin: Row | None, found: Gains) -> None:
    ratio = row["size_ratio"]
    if ratio is None or twin is None:
        return
    sizes = f"{twin['artifact_bytes'] / 2**20:.2f} → {row['artifact_bytes'] / 2**20:.2f} MiB"
    least = 1 + MIN_EFFECT  # a file's size is exact and needs no interval
    if ratio >= least:
        found.bought.append(f"a file {ratio:.2f}× smaller ({sizes})")
    elif ratio <= 1 / least:
        found.not_bought.append(f"a smaller file: {1 / ratio:.2f}× larger ({sizes})")
    else:
        found.not_bought.append(f"a smaller file: the same ({sizes})")


def _judge(name: str, prefix: str, row: Row, found: Gains) -> None:
    ratio, answer = row[f"{prefix}_ratio"], row[f"{prefix}_answer"]
    if ratio is None:
        found.not_known.append(f"{name} (not enough data)")
    elif answer in ("faster", "smaller"):
        found.bought.append(f"{name} {ratio:.2f}× {answer}{_interval(prefix, row)}")
    elif answer in ("slower", "larger"):
        found.not_bought.append(f"{name}: {1 / ratio:.2f}× {answer}{_interval(prefix, row, inverted=True)}")
    elif answer == "same":
        found.not_bought.append(f"{name}: the same, {ratio:.2f}×{_interval(prefix, row)}")
    else:
        found.not_known.append(f"{name}: {ratio:.2f}×{_interval(prefix, row)}, {answer}")


def _interval(prefix: str, row: Row, *, inverted: bool = False) -> str:
    low, high = row[f"{prefix}_ratio_low"], row[f"{prefix}_ratio_high"]
    if low is None or high is None:
        return ""
    return f" ({1 / high:.2f}–{1 / low:.2f})" if inverted else f" ({low:.2f}–{high:.2f})"


def _judge_arithmetic(row: Row, found: Gains) -> None:
    if row["integer_operators"] is None:
        found.not_known.append("arithmetic (the artifact was not checked)")
    elif row["integer_operators"]:
        found.bought.append(row["arithmetic"])
    else:
        found.not_bought.append(f"integer arithmetic: {row['arithmetic']}")
