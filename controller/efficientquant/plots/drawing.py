"""The look of every picture, and writing it so that the same numbers give the same file."""

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efficientquant.errors import PictureError, UnknownBlockError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg")
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
    """Return a context in which axes are made in the product's look."""
    import matplotlib as mpl

    return mpl.rc_context(STYLE)


def grid(figure: "Figure", rows: int, columns: int, **options: Any) -> "list[list[Axes]]":
    """Return axes as rows of columns."""
    axes: list[list[Axes]] = figure.subplots(rows, columns, squeeze=False, **options).tolist()
    return axes


def choose_block(names: Sequence[str], block: str, what: str) -> list[str]:
    """Return the names in a block: the block itself, or what lies below it. Raises UnknownBlockError with near ones."""
    found = [name for name in names if name == block or name.startswith(f"{block}.")]
    if not found:
        blocks = dict.fromkeys(name.rsplit(".", depth)[0] for name in names for depth in (0, 1, 2))
        near = difflib.get_close_matches(block, list(blocks), n=3, cutoff=0.4)
        raise UnknownBlockError(block, what, near or list(names[:3]) or ["none at all in this model"])
    return found


def picture_paths(out: Path, name: str) -> list[Path]:
    """Return the files to write: `out` itself, or NAME.png and NAME.svg where it is a folder. Raises PictureError."""
    if out.suffix in SUFFIXES:
        paths = [out]
    elif not out.suffix or out.is_dir():
        paths = [out / f"{name}{suffix}" for suffix in SUFFIXES]
    else:
        raise PictureError(out, f"can end in {' or '.join(SUFFIXES)}, or be a folder that gets both")
    return paths


def save_figure(figure: "Figure", paths: Iterable[Path]) -> None:
    """Write a figure as .png or .svg, by each path's suffix; the same figure gives the same bytes.

    Folders are made. Raises PictureError where a file cannot be written; nothing half-written is left.
    """
    with styled():
        figure.draw_without_rendering()
    figure.set_layout_engine("none")  # laid out once: every further drawing would shift the axes a little
    for path in paths:
        part = path.with_name(f".{path.name}.part")
        metadata = {"Date": None} if path.suffix == ".svg" else {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with styled():
                figure.savefig(part, format=path.suffix[1:], dpi=150, metadata=metadata)
            part.replace(path)
        except OSError as error:
            raise PictureError(path, f"cannot be written: {error.strerror or error}") from error
        finally:
            if part.is_file():
                part.unlink()
