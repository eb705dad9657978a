"""Draw docs/pictures/results.svg, the results of a database in a terminal.

Usage: python docs/pictures/draw_results.py DATABASE
"""

import io
import re
import sys
from pathlib import Path

from efficientquant_controller.cli.results.results import rows_from_database
from efficientquant_controller.cli.tables.screen import print_screen
from rich.console import Console
from rich.terminal_theme import SVG_EXPORT_THEME

WIDTH = 80
PICTURE = Path(__file__).parent / "results.svg"


def draw(database: str) -> str:
    """Return the latest results as SVG.

    The picture loads no font or style from elsewhere.
    """
    terminal = Console(
        record=True, width=WIDTH, file=io.StringIO(), highlight=False, markup=False, emoji=False, force_terminal=True
    )
    print_screen(rows_from_database(database, "latest"), terminal)
    picture = terminal.export_svg(title="efficientquant results", theme=SVG_EXPORT_THEME)
    return re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL)


if __name__ == "__main__":
    PICTURE.write_text(draw(*sys.argv[1:]), encoding="utf-8")
