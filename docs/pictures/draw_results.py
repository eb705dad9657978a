"""Draw docs/pictures/results.svg, the results of a database in a terminal.

Usage: python docs/pictures/draw_results.py DATABASE DEVICE
"""

import io
import re
import sys
from pathlib import Path
from typing import Any

from efficientquant_controller.cli.results.result_table import print_result_tables
from efficientquant_controller.cli.results.results import rows_from_database
from rich.console import Console
from rich.terminal_theme import SVG_EXPORT_THEME

WIDTH = 126
PICTURE = Path(__file__).parent / "results.svg"


class Terminal(Console):
    """A terminal that folds long lines itself, since a picture cannot."""

    def print(self, *objects: Any, soft_wrap: bool | None = None, **options: Any) -> None:
        """Print as Rich does, folded at the width."""
        del soft_wrap
        super().print(*objects, **options)


def draw(database: str, device: str) -> str:
    """Return the latest results of a device as SVG.

    The picture loads no font or style from elsewhere.
    """
    rows = [row for row in rows_from_database(database, "latest") if row["device"] == device]
    terminal = Terminal(
        record=True, width=WIDTH, file=io.StringIO(), highlight=False, markup=False, emoji=False, force_terminal=True
    )
    print_result_tables(rows, terminal)
    picture = terminal.export_svg(title="efficientquant results", theme=SVG_EXPORT_THEME)
    return re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL)


if __name__ == "__main__":
    PICTURE.write_text(draw(*sys.argv[1:]), encoding="utf-8")
