"""The reasons that `results --why` prints, each once."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from efficientquant_controller.cli.tables.folding import folded
from efficientquant_controller.cli.tables.footnotes import where
from efficientquant_controller.cli.tables.reasons import KINDS, reasons

Row = Mapping[str, Any]


def print_reasons(rows: Sequence[Row], console: Console) -> None:
    """Print the reasons of each campaign."""
    campaigns: dict[str, list[Row]] = {}
    for row in rows:
        campaigns.setdefault(row["campaign_id"], []).append(row)
    for number, own in enumerate(campaigns.values()):
        lines = why_lines(own, console.width)
        console.print("\n".join(["", *lines] if number else lines), soft_wrap=True)


def why_lines(rows: Sequence[Row], width: int) -> list[str]:
    """Return the reasons of one campaign under a heading for each kind."""
    first = rows[0]
    lines = [f"campaign {first['campaign_id']}: {_counted(len(rows))}"]
    heading = ""
    for reason in sorted(reasons(rows), key=lambda reason: (list(KINDS).index(reason.kind), -len(reason.rows))):
        if KINDS[reason.kind] != heading:
            heading = KINDS[reason.kind]
            lines += ["", heading]
        start = f"  {_counted(len(reason.rows)):>8}  "
        lines += folded(f"{start}{reason.text} ({where(reason.rows)})", width, " " * len(start))
    if len(lines) == 1:
        lines.append("no row failed, was judged B or INVALID, or was left uncompared")
    return lines


def _counted(count: int) -> str:
    return f"{count} row" if count == 1 else f"{count} rows"
