"""An artifact next to another file, as a table."""

from collections.abc import Mapping
from typing import Any

from efficientquant_controller.cli import output


def print_comparison(verdict: Mapping[str, Any]) -> None:
    """Print the numbers of two files side by side.

    `verdict` is a stored verdict. A prediction for a quantized file has no numbers, which is said.
    """
    comparison = verdict["comparison"]
    if comparison is not None:
        _print_table(comparison)
    elif verdict["basis"] == "predicted" and verdict["facts"].get("quantized_weights"):
        output.print_line(f"Not compared with a float twin: nothing is built here for {verdict['target']}.")


def _print_table(comparison: Mapping[str, Any]) -> None:
    from efficientquant.verdicts.comparison import comparison_rows

    table = output.new_table("compared", "this file", comparison["with"])
    for row in comparison_rows(comparison):
        table.add_row(*row)
    console = output.stdout_console()
    console.print()
    console.print(table)
    output.print_line(f"({comparison['with']}: {comparison['origin']})")
