"""An artifact next to its float twin, as a table."""

from collections.abc import Mapping
from typing import Any

from efficientquant_controller.cli import output


def print_comparison(comparison: Mapping[str, Any]) -> None:
    """Print the numbers of two files side by side."""
    from efficientquant.verdicts.comparison import comparison_rows

    table = output.new_table("compared", "this file", comparison["with"])
    for row in comparison_rows(comparison):
        table.add_row(*row)
    console = output.stdout_console()
    console.print()
    console.print(table)
    output.print_line(f"({comparison['with']}: {comparison['origin']})")
