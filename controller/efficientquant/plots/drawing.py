"""The look and the files of every plot.

The same numbers give the same file.
"""

import difflib
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efficientquant.errors import UnknownBlockError
from efficientquant.files.whole_files import write_together

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# More rows than this are too small to read on a page.
MAX_ROWS = 6
# Okabe and Ito's colours, which also colour-blind people can tell apart.
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#7F7F7F"
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.labelsize": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "efficientquant",  # element names would be random otherwise
}


def new_figure(width: float, height: float, title: str) -> "Figure":
    """Return an empty figure in inches, drawn without a display."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(title, fontsize=12, fontweight="bold")
    return figure


def styled() -> Any:
    """Return a context that applies the product's plot style."""
    import matplotlib as mpl

    return mpl.rc_context(STYLE)


def grid(figure: "Figure", rows: int, columns: int, **options: Any) -> "list[list[Axes]]":
    """Add a grid of axes to a figure and return its rows."""
    axes: list[list[Axes]] = figure.subplots(rows, columns, squeeze=False, **options).tolist()
    return axes


def choose_block(names: Sequence[str], block: str, what: str) -> list[str]:
    """Return the names in a block.

    They are the block itself and everything below it. Raises UnknownBlockError, which suggests similar names.
    """
    inside = [name for name in names if name == block or name.startswith(f"{block}.")]
    if not inside:
        blocks = dict.fromkeys(name.rsplit(".", depth)[0] for name in names for depth in (0, 1, 2))
        near = difflib.get_close_matches(block, list(blocks), n=3, cutoff=0.4)
        raise UnknownBlockError(block, what, near or list(names[:3]) or ["none at all in this model"])
    return inside


def save_figure(figure: "Figure", paths: Iterable[Path]) -> list[Path]:
    """Write a figure as .png or .svg, by each path's suffix.

    Returns the folders that were made for it. The same figure gives the same bytes. Raises OutputError where a file
    cannot be written, and then writes none.
    """
    with styled():
        figure.draw_without_rendering()
    figure.set_layout_engine("none")  # laid out once: every further drawing would shift the axes a little
    return write_together({path: _render(figure, path.suffix) for path in paths})


def _render(figure: "Figure", suffix: str) -> bytes:
    stream = io.BytesIO()
    with styled():
        figure.savefig(stream, format=suffix[1:], dpi=150, metadata={"Date": None} if suffix == ".svg" else {})
    return stream.getvalue()
