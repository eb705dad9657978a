"""Draw docs/pictures/results.svg: what `efficientquant results` prints of a database, as a terminal shows it.

Usage: python docs/pictures/draw_results.py DATABASE [CAMPAIGN]
"""

import io
import re
import sys
from pathlib import Path

from efficientquant_controller.cli.results.result_table import print_result_tables
from efficientquant_controller.cli.results.results import rows_from_database
from rich.console import Console
from rich.terminal_theme import SVG_EXPORT_THEME

WIDTH = 112
PICTURE = Path(__file__).parent / "results.svg"


def draw(database: str, campaign: str) -> str:
    """Return the tables of a campaign as one SVG that loads nothing from elsewhere."""
    console = Console(
        record=True, width=WIDTH, file=io.StringIO(), highlight=False, markup=False, emoji=False, force_terminal=True
    )
    console.print(f"$ efficientquant results --campaign {campaign}")
    print_result_tables(rows_from_database(database, campaign), console)
    picture = console.export_svg(title="efficientquant results", theme=SVG_EXPORT_THEME)
    return re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL)


if __name__ == "__main__":
    PICTURE.write_text(draw(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "latest"), encoding="utf-8")
