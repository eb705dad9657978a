"""What each recipe bought, in one line where all devices agree."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from efficientquant_controller.cli.tables.cells import ABSENT, UNSURE, gain_text, ratio_text
from efficientquant_controller.cli.tables.gains import Gain, Twins
from efficientquant_controller.cli.tables.measures import MEASURES, Measure, measure_of
from efficientquant_controller.cli.tables.pivot import device_names, shown_device
from efficientquant_controller.model import TWIN_RECIPE

Row = Mapping[str, Any]
COMPARED = {name: measure for name, measure in MEASURES.items() if measure.gain}


@dataclass(frozen=True)
class Line:
    """The gains of one recipe on devices that agree.

    `gains` has a list for each measure, with None where nothing may be said. `integers` are the percentages of products
    that are computed in integers.
    """

    recipe: str
    devices: tuple[str, ...]
    gains: Mapping[str, Sequence[Gain | None]]
    integers: Sequence[int | None]


def bought(rows: Sequence[Row]) -> list[Line]:
    """Return a line for each recipe and agreeing devices.

    Devices agree when each measure has the same answer on all of them that know it: better, worse, both, or not shown.
    Recipes that no device has measured have no line.
    """
    twins, names = Twins(rows), device_names(rows)
    measures = {name: measure_of(rows, measure) for name, measure in COMPARED.items()}
    recipes = dict.fromkeys(row["recipe"] for row in rows if row["recipe"] != TWIN_RECIPE)
    lines = []
    for recipe in recipes:
        measured = [row for row in rows if row["recipe"] == recipe and row["runs_done"]]
        for own in _agreeing(measured, twins, measures):
            devices = tuple(dict.fromkeys(shown_device(row, names) for row in own))
            gains = {name: [twins.gain(row, measure) for row in own] for name, measure in measures.items()}
            lines.append(Line(recipe, devices, gains, [_integer_percent(row) for row in own]))
    return [line for line in lines if any(gain for gains in line.gains.values() for gain in gains)]


def uncompared(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Return the devices that a measure was compared on nowhere.

    A measure that no device compares is left out.
    """
    twins, names = Twins(rows), device_names(rows)
    missing: dict[str, list[str]] = {}
    for name, measure in COMPARED.items():
        known: dict[str, bool] = {}
        for row in rows:
            if row["recipe"] != TWIN_RECIPE and row["runs_done"]:
                device = shown_device(row, names)
                known[device] = known.get(device, False) or twins.gain(row, measure_of(rows, measure)) is not None
        if any(known.values()) and not all(known.values()):
            missing[name] = [device for device, is_known in known.items() if not is_known]
    return missing


def _agreeing(rows: Sequence[Row], twins: Twins, measures: Mapping[str, Measure]) -> list[list[Row]]:
    """Return the rows of one recipe by devices with the same answers."""
    devices: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        devices.setdefault((row["device_id"], row["device"]), []).append(row)
    groups: list[tuple[list[str], list[Row]]] = []
    for own in devices.values():
        answers = [_answer([twins.gain(row, measure) for row in own]) for measure in measures.values()]
        for known, members in groups:
            if all(ABSENT in pair or pair[0] == pair[1] for pair in zip(known, answers, strict=True)):
                known[:] = [new if old == ABSENT else old for old, new in zip(known, answers, strict=True)]
                members += own
                break
        else:
            groups.append((answers, list(own)))
    return [members for _, members in groups]


def _answer(gains: Sequence[Gain | None]) -> str:
    known = {gain.answer for gain in gains if gain is not None and gain.known}
    if known:
        return "/".join(sorted(known))
    return UNSURE if any(gains) else ABSENT


def _integer_percent(row: Row) -> int | None:
    """Return the percentage rounded down: 89 of 90 are not all."""
    if row["integer_operators"] is None:
        return None
    total = row["integer_operators"] + row["float_operators"]
    return int(100 * row["integer_operators"] // total) if total else None


def gains_text(gains: Sequence[Gain | None], *, intervals: bool) -> str:
    """Return the range of several gains, or one with its interval.

    `≈` is for no difference shown, `–` for nothing compared. Where only some of the compared models have a difference,
    their number follows. `intervals` adds the interval.
    """
    compared = [gain for gain in gains if gain is not None]
    known = [gain for gain in compared if gain.known]
    if not known:
        return UNSURE if compared else ABSENT
    if len(compared) == 1:
        gain = known[0]
        interval = gain_text(gain)[1]
        return ratio_text(gain.ratio) + (f" ({interval})" if interval and intervals else "")
    ratios = [gain.ratio for gain in known]
    some = f" {len(known)}/{len(compared)}" if len(known) < len(compared) else ""
    return _range(min(ratios), max(ratios)) + some


def integers_text(percentages: Sequence[int | None]) -> str:
    """Return the share of products that are computed in integers."""
    known = [percent for percent in percentages if percent is not None]
    if not known:
        return ABSENT
    low, high = min(known), max(known)
    return f"{low} %" if low == high else f"{low}–{high} %"


def _range(low: float, high: float) -> str:
    texts = [ratio_text(ratio) for ratio in (low, high)]
    return texts[0] if texts[0] == texts[1] else "–".join(texts)
