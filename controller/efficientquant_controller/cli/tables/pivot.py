"""Result rows as a grid, such as models by device."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any

from efficientquant_controller.analysis.comparison import Answer
from efficientquant_controller.analysis.verdict import Grade
from efficientquant_controller.cli.tables.gains import Gain, Twins
from efficientquant_controller.cli.tables.measures import Measure
from efficientquant_controller.cli.tables.view import DIMENSIONS
from efficientquant_controller.model import TWIN_RECIPE

Row = Mapping[str, Any]
Key = tuple[str, ...]
# The order of the columns where a user names only the rows.
_ACROSS = ("device", "model", "recipe")


@dataclass(frozen=True)
class Axes:
    """The dimensions down and across a grid.

    Each of model, device and recipe is in one of them.
    """

    down: Key
    across: Key


@dataclass(frozen=True)
class Cell:
    """One row of the results, as a cell shows it.

    `value` is in the measure's unit, and `valid` tells whether it may be used. `best` marks the least value of a model
    on a device, and those as good.
    """

    row: Row
    value: float | None
    gain: Gain | None
    valid: bool = True
    best: bool = False


@dataclass(frozen=True)
class Pivot:
    """A grid of cells by (key down, key across)."""

    axes: Axes
    down: list[Key]
    across: list[Key]
    cells: Mapping[tuple[Key, Key], Cell]

    def without(self, recipe: str) -> "Pivot":
        """Return the grid without the cells of a recipe."""
        cells = {keys: cell for keys, cell in self.cells.items() if cell.row["recipe"] != recipe}
        downs, acrosses = ({keys[place] for keys in cells} for place in (0, 1))
        down, across = [key for key in self.down if key in downs], [key for key in self.across if key in acrosses]
        return Pivot(self.axes, down, across, cells)


def choose_axes(rows: Sequence[Row], down: Key = (), across: Key = ()) -> Axes:
    """Return the named axes, or those that suit the rows.

    Models go down unless there is only one. A dimension that is not named goes to the other axis.
    """
    if not down and not across:
        several = (name for name in DIMENSIONS if len({row[name] for row in rows}) > 1)
        down = (next(several, DIMENSIONS[0]),)
    rest = tuple(name for name in _ACROSS if name not in down and name not in across)
    if not down and not rest:
        return Axes(across[-1:], across[:-1])
    return Axes(down, across + rest) if down else Axes(rest, across)


def pivot(rows: Sequence[Row], axes: Axes, measure: Measure, sort: str = "campaign") -> Pivot:
    """Return the rows of one campaign as a grid.

    Keys are in the order of the rows, unless `sort` orders those down the grid by name, by their least value or by
    their greatest gain.
    """
    names = device_names(rows)
    places = {name: _places(rows, name, names) for name in DIMENSIONS}
    cells: dict[tuple[Key, Key], Cell] = {}
    for cell in _cells(rows, measure):
        down, across = (tuple(_named(cell.row, name, names) for name in axis) for axis in (axes.down, axes.across))
        cells[down, across] = cell

    def in_order(keys: set[Key], axis: Key) -> list[Key]:
        return sorted(keys, key=lambda key: [places[name][part] for name, part in zip(axis, key, strict=True)])

    downs = in_order({down for down, _ in cells}, axes.down)
    acrosses = in_order({across for _, across in cells}, axes.across)
    return Pivot(axes, _sorted(downs, sort, cells), acrosses, cells)


def device_names(rows: Sequence[Row]) -> dict[str, str]:
    """Return the shown name of each device by its id.

    Devices that share a name get the beginning of their id.
    """
    names = {row["device_id"]: str(row["device"]) for row in rows}
    shared = {name for name in names.values() if list(names.values()).count(name) > 1}
    return {id_: f"{name} ({id_[:6]})" if name in shared else name for id_, name in names.items()}


def shown_device(row: Row, names: Mapping[str, str]) -> str:
    """Return the name of a row's device, see `device_names`."""
    return names[row["device_id"]] if row["device_id"] else str(row["device"])


def _named(row: Row, dimension: str, names: Mapping[str, str]) -> str:
    return shown_device(row, names) if dimension == "device" else str(row[dimension])


def _places(rows: Sequence[Row], dimension: str, names: Mapping[str, str]) -> dict[str, int]:
    """Number the names of a dimension in their order, FP32 first."""
    in_order = dict.fromkeys(_named(row, dimension, names) for row in rows)
    return {name: place for place, name in enumerate(sorted(in_order, key=lambda name: name != TWIN_RECIPE))}


def _cells(rows: Sequence[Row], measure: Measure) -> list[Cell]:
    """Return the cells of rows, with the best ones marked."""
    twins = Twins(rows)
    groups: dict[tuple[Any, ...], list[Cell]] = {}
    for row in rows:
        value = measure.value(row)
        valid = value is not None and not (measure.judged and row["verdict"] == Grade.INVALID)
        cell = Cell(row, value, twins.gain(row, measure), valid)
        groups.setdefault((row["device_id"], row["device"], row["model"]), []).append(cell)
    tested = any(cell.gain for cells in groups.values() for cell in cells)
    return [
        replace(cell, best=is_best)
        for cells in groups.values()
        for cell, is_best in zip(cells, best_of(cells, tested=tested), strict=True)
    ]


def best_of(cells: Sequence[Cell], *, tested: bool = True) -> list[bool]:
    """Mark the least value among a model's recipes on a device.

    A recipe counts as the best only if it is known to beat FP32, and FP32 only if it is known to beat a recipe. Recipes
    whose intervals overlap with the best one's are marked too. Where nothing was `tested`, the least value is marked.
    """
    valid = [cell for cell in cells if cell.valid]
    if len(valid) < 2:
        return [False] * len(cells)
    least = min(valid, key=lambda cell: cell.value or 0.0)
    answers = {cell.gain.answer for cell in valid if cell.gain is not None}
    if not tested:
        return [cell is least for cell in cells]
    if least.gain is not None and least.gain.answer is Answer.BETTER:
        return [cell is least or _overlap(cell, least) for cell in cells]
    return [cell.valid and cell.row["recipe"] == TWIN_RECIPE and Answer.WORSE in answers for cell in cells]


def _overlap(cell: Cell, least: Cell) -> bool:
    if not cell.valid or cell.gain is None or cell.gain.answer is not Answer.BETTER or least.gain is None:
        return False
    if cell.gain.high is None or least.gain.low is None:
        return cell.value == least.value
    return cell.gain.high >= least.gain.low


def _known_ratio(gain: Gain) -> float:
    """Return a gain's ratio, and 1 where no difference was shown."""
    return gain.ratio if gain.known else 1.0


def _sorted(keys: list[Key], sort: str, cells: Mapping[tuple[Key, Key], Cell]) -> list[Key]:
    of_key: dict[Key, list[Cell]] = {}
    for (down, _), cell in cells.items():
        of_key.setdefault(down, []).append(cell)
    orders: Mapping[str, Callable[[Key], Any]] = {
        "name": lambda key: key,
        "value": lambda key: min(
            (cell.value for cell in of_key[key] if cell.valid and cell.value is not None), default=inf
        ),
        "gain": lambda key: -max((_known_ratio(cell.gain) for cell in of_key[key] if cell.gain), default=0.0),
    }
    return sorted(keys, key=orders[sort]) if sort in orders else keys
