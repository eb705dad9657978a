"""Result rows as tables for a person: milliseconds and MiB, speed-up against FP32, failures as sentences."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

Row = Mapping[str, Any]
ABSENT = "–"
REFERENCE_RECIPE = "fp32"


def print_result_tables(rows: Sequence[Row], console: Console) -> None:
    """Print each campaign's rows: in one table where the console is wide enough, else in two; then what failed."""
    for campaign_id in dict.fromkeys(row["campaign_id"] for row in rows):
        of_campaign = [row for row in rows if row["campaign_id"] == campaign_id]
        console.print(_heading(of_campaign[0]), soft_wrap=True)
        for table in _tables(of_campaign, console):
            console.print(table)
        for sentence in failure_sentences(of_campaign):
            console.print(sentence, soft_wrap=True)


def failure_sentences(rows: Sequence[Row]) -> list[str]:
    """What did not succeed, each in one line."""
    return [
        f"{row['device']} · {row['model']} · {row['recipe']}: failed ({row['failure_type']}): {row['failure_message']}"
        for row in rows
        if row["state"] == "failed"
    ]


def speed_up(row: Row, rows: Sequence[Row]) -> float | None:
    """How many times faster than the FP32 row of the same campaign, device, model; None where either is missing."""
    same = ("campaign_id", "device", "model")
    for other in rows:
        if other["recipe"] == REFERENCE_RECIPE and all(other[name] == row[name] for name in same):
            reference_s, own_s = other["latency_p50_s"], row["latency_p50_s"]
            return reference_s / own_s if reference_s is not None and own_s else None
    return None


def _heading(row: Row) -> str:
    return f"campaign {row['campaign_id']} · tier {row['tier']} · weights {row['weights']}"


def _tables(rows: Sequence[Row], console: Console) -> list[Table]:
    whole = _table(rows, {**_LATENCY, **_MEMORY})
    # Rich folds cells to fit; numbers cut in pieces cannot be read, so the columns are shared out instead.
    if _natural_width(whole, console) <= console.width:
        return [whole]
    return [_table(rows, _LATENCY), _table(rows, _MEMORY)]


def _natural_width(table: Table, console: Console) -> int:
    return console.measure(table, options=console.options.update_width(1000)).maximum


def _table(rows: Sequence[Row], columns: Mapping[str, "Cell"]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("device", "model", "recipe"):
        table.add_column(name, overflow="fold")
    all_succeeded = all(row["state"] == "succeeded" for row in rows)
    if not all_succeeded:
        table.add_column("state")
    for heading in columns:
        table.add_column(heading, justify="right")
    for row in rows:
        state = [] if all_succeeded else [_state(row)]
        cells = [cell(row, rows) for cell in columns.values()]
        table.add_row(row["device"], row["model"], row["recipe"], *state, *cells)
    return table


def _state(row: Row) -> str:
    if row["state"] in ("pending", "queued", "leased"):
        return f"{row['state']} {row['runs_done']}/{row['runs_planned']}"
    return str(row["state"])


Cell = Callable[[Row, Sequence[Row]], str]


def _milliseconds(name: str) -> Cell:
    return lambda row, _: ABSENT if row[name] is None else f"{row[name] * 1e3:.2f}"


def _mebibytes(name: str, digits: int) -> Cell:
    return lambda row, _: ABSENT if row[name] is None else f"{row[name] / 2**20:.{digits}f}"


def _range(row: Row, _: Sequence[Row]) -> str:
    low_s, high_s = row["latency_p50_min_s"], row["latency_p50_max_s"]
    return ABSENT if low_s is None or high_s is None else f"{low_s * 1e3:.2f}–{high_s * 1e3:.2f}"


def _speed_up(row: Row, rows: Sequence[Row]) -> str:
    ratio = speed_up(row, rows)
    return ABSENT if ratio is None else f"{ratio:.2f}×"


_LATENCY: Mapping[str, Cell] = {
    "median\nms": _milliseconds("latency_p50_s"),
    "min–max\nms": _range,
    "speed-up\nvs fp32": _speed_up,
    "p90\nms": _milliseconds("latency_p90_s"),
    "p99\nms": _milliseconds("latency_p99_s"),
}
_MEMORY: Mapping[str, Cell] = {
    "load\nms": _milliseconds("load_s"),
    "transfer\nms": _milliseconds("transfer_s"),
    "peak PSS\nMiB": _mebibytes("peak_pss_bytes", 1),
    "board Δ\nMiB": _mebibytes("board_memory_delta_bytes", 1),
    "artifact\nMiB": _mebibytes("artifact_bytes", 2),
}
