"""The command that updates a page's tables of columns.

Usage: `python -m efficientquant_controller.columns docs/database.md`.
"""

import sys
from pathlib import Path

from efficientquant_controller.columns.document import with_tables

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("name the page whose tables to write: docs/database.md")
    page = Path(sys.argv[1])
    page.write_text(with_tables(page.read_text(encoding="utf-8")), encoding="utf-8")
