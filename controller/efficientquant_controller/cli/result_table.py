"""Result rows as tables for a person: milliseconds and MiB, speed-up against FP32, failures as sentences."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from efficientquant_controller.cli.gains import print_gains
from efficientquant_controller.cli.output import new_table
from efficientquant_controller.model import TWIN_RECIPE

Row = Mapping[str, Any]
Cell = Callable[[Row, Sequence[Row]], str]
LEGEND = (
    "median: of the repeats' medians, with their min–max; load: read + session create + first inference; "
    "peak PSS: of the measuring process; board Δ: drop of the whole board's available memory; verdict: A steady and "
    "undisturbed, B one rule broken, INVALID not to be used; see docs/measurement.md"
)
ABSENT = "–"


def print_result_tables(rows: Sequence[Row], console: Console) -> None:
    """Print each campaign's rows, in several tables where one is too wide; then what failed, and what was bought."""
    for of_campaign in _grouped(rows, "campaign_id"):
        console.print(_heading(of_campaign[0]), soft_wrap=True)
        for table in _tables(of_campaign, console):
            console.print()
            console.print(table)
        for sentence in ("", *failure_sentences(of_campaign), *verdict_sentences(of_campaign)):
            console.print(sentence, soft_wrap=True)
        print_gains(of_campaign, console)
    console.print(LEGEND)


def failure_sentences(rows: Sequence[Row]) -> list[str]:
    """What did not succeed, each in one line."""
    return [
        f"{row['device']} · {row['model']} · {row['recipe']}: failed ({row['failure_type']}): {row['failure_message']}"
        for row in rows
        if row["state"] == "failed"
    ]


def verdict_sentences(rows: Sequence[Row]) -> list[str]:
    """Why a row is not an A, each in one line."""
    return [
        f"{row['device']} · {row['model']} · {row['recipe']}: {row['verdict']}, {_broken_rules(row)}"
        for row in rows
        if row["verdict"] in ("B", "INVALID")
    ]


def _broken_rules(row: Row) -> str:
    """The reasons for a verdict, without what could not be checked: those stand in --json and --csv."""
    return "; ".join(one for one in row["verdict_reasons"] or () if not one.startswith("not checked:"))


def speed_up(row: Row, rows: Sequence[Row]) -> float | None:
    """How many times faster than the FP32 row of the same campaign, device, model; None where either is missing."""
    same = ("campaign_id", "device", "model")
    for other in rows:
        if other["recipe"] == TWIN_RECIPE and all(other[name] == row[name] for name in same):
            reference_s, own_s = other["latency_p50_s"], row["latency_p50_s"]
            return reference_s / own_s if reference_s is not None and own_s else None
    return None


def _heading(row: Row) -> str:
    return f"campaign {row['campaign_id']} · tier {row['tier']} · weights {row['weights']}"


def _tables(rows: Sequence[Row], console: Console) -> list[Table]:
    groups = [_LATENCY, _MEMORY, *(group for group in (_ENERGY, _PAPER) if any(_has(row, group) for row in rows))]
    whole = _table(rows, rows, {**_DEVICE, **_VARIANT, **{name: cell for one in groups for name, cell in one.items()}})
    # Rich folds cells to fit; numbers cut in pieces cannot be read, so rows and columns are shared out instead.
    if _natural_width(whole, console) <= console.width:
        return [whole]
    return [
        _table(of_device, rows, {**_VARIANT, **columns}, title=of_device[0]["device"])
        for of_device in _grouped(rows, "device")
        for columns in groups
    ]


def _has(row: Row, group: Mapping[str, Cell]) -> bool:
    """Whether a row has anything to say in a group of columns."""
    if group is _PAPER and not row["paper"]:
        return False
    return any(cell(row, (row,)) != ABSENT for cell in group.values())


def _grouped(rows: Sequence[Row], name: str) -> list[list[Row]]:
    groups: dict[object, list[Row]] = {}
    for row in rows:
        groups.setdefault(row[name], []).append(row)
    return list(groups.values())


def _natural_width(table: Table, console: Console) -> int:
    return console.measure(table, options=console.options.update_width(1000)).maximum


def _table(shown: Sequence[Row], rows: Sequence[Row], columns: Mapping[str, Cell], title: str | None = None) -> Table:
    table = new_table(title=title)
    unfinished = any(row["state"] != "succeeded" for row in rows)
    chosen = {heading: cell for heading, cell in columns.items() if heading != "state" or unfinished}
    for heading in chosen:
        table.add_column(heading, justify="right" if "\n" in heading else "left", overflow="fold")
    for row in shown:
        table.add_row(*(cell(row, rows) for cell in chosen.values()))
    return table


def _text(name: str) -> Cell:
    return lambda row, _: str(row[name])


def _state(row: Row, _: Sequence[Row]) -> str:
    if row["state"] in ("pending", "queued", "leased"):
        return f"{row['state']} {row['runs_done']}/{row['runs_planned']}"
    return str(row["state"])


def _milliseconds(name: str) -> Cell:
    return lambda row, _: ABSENT if row[name] is None else f"{row[name] * 1e3:.2f}"


_thousandths = _milliseconds


def _plain(name: str, digits: int) -> Cell:
    return lambda row, _: ABSENT if row[name] is None else f"{row[name]:.{digits}f}"


def _mebibytes(name: str, digits: int) -> Cell:
    return lambda row, _: ABSENT if row[name] is None else f"{row[name] / 2**20:.{digits}f}"


def _range(row: Row, _: Sequence[Row]) -> str:
    low_s, high_s = row["latency_p50_min_s"], row["latency_p50_max_s"]
    return ABSENT if low_s is None or high_s is None else f"{low_s * 1e3:.2f}–{high_s * 1e3:.2f}"


def _speed_up(row: Row, rows: Sequence[Row]) -> str:
    ratio = speed_up(row, rows)
    return ABSENT if ratio is None else f"{ratio:.2f}×"


_DEVICE: Mapping[str, Cell] = {"device": _text("device")}
_VARIANT: Mapping[str, Cell] = {
    "model": _text("model"),
    "recipe": _text("recipe"),
    "state": _state,
    "verdict": lambda row, _: row["verdict"] or ABSENT,
}
# A heading of two lines has its unit in the second: those columns are numbers.
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
_ENERGY: Mapping[str, Cell] = {
    "energy\nmJ": _thousandths("energy_per_inference_j"),
    "net of idle\nmJ": _thousandths("net_energy_per_inference_j"),
    "power\nW": _plain("mean_power_w", 2),
    "hottest\n°C": _plain("max_temperature_c", 1),
}
_PAPER: Mapping[str, Cell] = {
    "paper latency\nms": _milliseconds("paper_latency_s"),
    "paper load\nms": _milliseconds("paper_load_s"),
    "paper memory\nMiB": _mebibytes("paper_memory_bytes", 0),
    "of": lambda row, _: row["paper_memory_kind"] or ABSENT,
}
