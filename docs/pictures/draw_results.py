"""Draw docs/pictures/results.svg, the screen of `results` in a terminal.

Usage: python docs/pictures/draw_results.py [DATABASE]

Without a database it shows the made-up rows of the tests, and the title says so.
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
SAMPLES = Path(__file__).parents[2] / "tests" / "fixtures"


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


def sample_rows() -> list[dict[str, Any]]:
    """Return the rows that the tests make up."""
    sys.path.insert(0, str(SAMPLES))
    from campaign_rows import campaign_rows

    return campaign_rows()


if __name__ == "__main__":
    if databases := sys.argv[1:]:
        picture = draw(rows_from_database(databases[0], "latest"), "efficientquant results")
    else:
        picture = draw(sample_rows(), "efficientquant results (made-up numbers)")
    PICTURE.write_text(picture, encoding="utf-8")
