"""Draw docs/pictures/results.svg, the screen of `results` in a terminal.

Usage: python docs/pictures/draw_results.py DATABASE

The database is that of `make demo`.
"""

import io
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from efficientquant_controller.cli.results.results import rows_from_database
from efficientquant_controller.cli.tables.screen import print_screen
from rich.console import Console
from rich.terminal_theme import SVG_EXPORT_THEME

WIDTH = 80
PICTURE = Path(__file__).parent / "results.svg"


def draw(rows: Sequence[Mapping[str, Any]], title: str) -> str:
    """Return the screen of some rows as SVG.

    The picture loads no font or style from elsewhere.
    """
    terminal = Console(
        record=True, width=WIDTH, file=io.StringIO(), highlight=False, markup=False, emoji=False, force_terminal=True
    )
    print_screen(rows, terminal)
    picture = terminal.export_svg(title=title, theme=SVG_EXPORT_THEME, unique_id="results")
    return re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("name the database of a demo: efficientquant-demo/results.db")
    picture = draw(rows_from_database(sys.argv[1], "latest"), "efficientquant results")
    PICTURE.write_text(picture, encoding="utf-8")
