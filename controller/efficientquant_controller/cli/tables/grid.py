"""A pivot laid out in as few tables as fit a width.

Nothing is cut: names are shortened, then the columns are split into several tables.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from rich.cells import cell_len
from rich.text import Text

from efficientquant_controller.cli.tables.cells import STYLES, CellText
from efficientquant_controller.cli.tables.pivot import Key, Pivot
from efficientquant_controller.cli.tables.short_names import shortened, without_start

Texts = Mapping[tuple[Key, Key], CellText]
GAP = 2
GROUP_GAP = 3


@dataclass(frozen=True)
class Naming:
    """The shown name of each model and recipe."""

    models: dict[str, str]
    recipes: dict[str, str]

    def of(self, dimension: str, name: str) -> str:
        """Return the shown name."""
        return {"model": self.models, "recipe": self.recipes}.get(dimension, {}).get(name, name)

    def legend(self) -> list[str]:
        """Return what the short names stand for."""
        starts = {name.removesuffix(short[1:]) for name, short in self.models.items() if short != name}
        models = [f"… is {start}" for start in sorted(starts)]
        recipes = [f"{short} is {name}" for name, short in self.recipes.items() if short != name]
        return [*recipes, *models]


@dataclass(frozen=True)
class Column:
    """One column of cells, with the group that it stands in."""

    group: str
    heading: str
    cells: Sequence[CellText]
    padding: int = 0

    @cached_property
    def widths(self) -> tuple[int, int, int, int]:
        """The widths of the values, marks, gains and intervals."""
        parts = [(cell.value, cell.mark, cell.gain, cell.interval) for cell in self.cells]
        value, mark, gain, interval = (max(map(cell_len, column)) for column in zip(*parts, strict=True))
        return max(value, cell_len(self.heading)), mark, gain, interval

    @property
    def width(self) -> int:
        """The width of the whole column."""
        value, mark, gain, interval = self.widths
        return value + mark + (gain + 1 if gain else 0) + (interval + 1 if interval else 0) + self.padding

    def line(self, cell: CellText) -> Text:
        """Return one cell, padded to the column's width."""
        value, mark, gain, interval = self.widths
        text = " " * (value - cell_len(cell.value)) + cell.value + cell.mark + " " * (mark - cell_len(cell.mark))
        for part, width in ((cell.gain, gain), (cell.interval, interval)):
            text += f" {' ' * (width - cell_len(part))}{part}" if width else ""
        return Text(text, style=STYLES[cell.style]).append(" " * self.padding)


@dataclass(frozen=True)
class Layout:
    """Columns in one or several tables, with their rows' names."""

    naming: Naming
    labels: Sequence[Sequence[str]]
    tables: Sequence[Sequence[Column]]

    @property
    def label_width(self) -> int:
        """The width of the names, with the gaps between them."""
        return sum(self.label_widths) + GAP * (len(self.label_widths) - 1)

    @cached_property
    def label_widths(self) -> list[int]:
        """The width of each column of names."""
        return [max(map(cell_len, names)) for names in zip(*self.labels, strict=True)]

    def cost(self, width: int) -> tuple[int, int]:
        """Return how much wider it is, then how many tables it has."""
        widest = self.label_width + max(map(_width, self.tables), default=0)
        return max(widest - width, 0), len(self.tables)


def lay_out(pivot: Pivot, texts: Texts, corner: str, width: int, *, may_shorten: bool = True) -> Layout:
    """Return the layout with the fewest tables for a width.

    Of layouts with as many tables, the one with the longest names is chosen. Where none fits, it is the narrowest.
    `corner` is above the names.
    """
    models, recipes = _names(pivot, "model"), _names(pivot, "recipe")
    whole_models, whole_recipes = {name: name for name in models}, {name: name for name in recipes}
    namings = [Naming(whole_models, whole_recipes)]
    if may_shorten:
        namings += [
            Naming(whole_models, shortened(recipes)),
            Naming(without_start(models), whole_recipes),
            Naming(without_start(models), shortened(recipes)),
        ]
    layouts = [_packed(pivot, texts, corner, width, naming) for naming in namings]
    return min(layouts, key=lambda layout: layout.cost(width))  # min keeps the first of equals


def _names(pivot: Pivot, dimension: str) -> list[str]:
    for axis, keys in ((pivot.axes.down, pivot.down), (pivot.axes.across, pivot.across)):
        if dimension in axis:
            return list(dict.fromkeys(key[axis.index(dimension)] for key in keys))
    return []


def _packed(pivot: Pivot, texts: Texts, corner: str, width: int, naming: Naming) -> Layout:
    labels = [[naming.of(name, part) for name, part in zip(pivot.axes.down, key, strict=True)] for key in pivot.down]
    headings = [corner, *("" for _ in labels[0][1:])]
    room = width - Layout(naming, [headings, *labels], []).label_width
    tables: list[list[Column]] = []
    for group in _groups(pivot, texts, naming):
        if tables and _width([*tables[-1], *group]) <= room:
            tables[-1].extend(group)
        elif _width(group) <= room:
            tables.append(list(group))
        else:
            tables += _split(group, room)
    return Layout(naming, [headings, *labels], tables)


def _groups(pivot: Pivot, texts: Texts, naming: Naming) -> list[list[Column]]:
    """Return the columns by the first of their two names.

    The last column of a group is padded where the group's name is wider than its columns.
    """
    groups: dict[str, list[Column]] = {}
    for across in pivot.across:
        names = [naming.of(name, part) for name, part in zip(pivot.axes.across, across, strict=True)]
        group, heading = ["", "", *names][-2:]
        groups.setdefault(group, []).append(
            Column(group, heading, [texts.get((down, across), CellText()) for down in pivot.down])
        )
    for group, columns in groups.items():
        lacking = cell_len(group) - sum(column.width for column in columns) - GAP * (len(columns) - 1)
        columns[-1] = replace(columns[-1], padding=max(lacking, 0))
    return list(groups.values())


def _split(group: Sequence[Column], room: int) -> list[list[Column]]:
    """Split a group that is too wide into several tables."""
    tables: list[list[Column]] = []
    for column in group:
        if tables and _width([*tables[-1], column]) <= room:
            tables[-1].append(column)
        else:
            tables.append([column])
    return tables


def _width(columns: Sequence[Column]) -> int:
    return sum(len(_gap(before, column)) + column.width for before, column in _with_before(columns))


def _with_before(columns: Sequence[Column]) -> Iterator[tuple[Column | None, Column]]:
    """Return each column with the one before it."""
    return zip([None, *columns[:-1]], columns, strict=True)


def _gap(before: Column | None, column: Column) -> str:
    return " " * (GROUP_GAP if before is None or before.group != column.group else GAP)


def grid_lines(layout: Layout) -> list[list[Text]]:
    """Return each table of a layout as lines."""
    return [_table_lines(layout, table) for table in layout.tables]


def _table_lines(layout: Layout, columns: Sequence[Column]) -> list[Text]:
    corner, *labels = layout.labels
    headings = [_heading(column) for column in columns]
    if any(column.group for column in columns):
        lines = [_group_line(layout, columns), _line(layout, ["" for _ in corner], headings, columns)]
    else:
        lines = [_line(layout, corner, headings, columns)]
    for index, names in enumerate(labels):
        lines.append(_line(layout, names, [column.line(column.cells[index]) for column in columns], columns))
    for line in lines:
        line.rstrip()
    return lines


def _line(layout: Layout, names: Sequence[str], cells: Sequence[Text], columns: Sequence[Column]) -> Text:
    line = _labels(layout, names)
    for (before, column), cell in zip(_with_before(columns), cells, strict=True):
        line.append(_gap(before, column))
        line.append_text(cell)
    return line


def _labels(layout: Layout, names: Sequence[str]) -> Text:
    padded = [name + " " * (width - cell_len(name)) for name, width in zip(names, layout.label_widths, strict=True)]
    return Text((" " * GAP).join(padded))


def _heading(column: Column) -> Text:
    """Return a column's heading, right above its values."""
    value = column.widths[0]
    return Text(" " * (value - cell_len(column.heading)) + column.heading + " " * (column.width - value), style="bold")


def _group_line(layout: Layout, columns: Sequence[Column]) -> Text:
    """Return the line of the groups' names, each where its columns begin.

    A name that is wider than its columns moves the next group.
    """
    line = _labels(layout, layout.labels[0])
    position = layout.label_width
    for before, column in _with_before(columns):
        position += len(_gap(before, column))
        if before is None or before.group != column.group:
            line.append(" " * max(position - cell_len(line.plain), 1))
            line.append(column.group, style="bold")
        position += column.width
    return line
