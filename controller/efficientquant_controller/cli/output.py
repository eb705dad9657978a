"""Where output goes: results to stdout, progress and messages to stderr."""

import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

# Wide enough for every column: a file or a pipe has no width of its own, and a folded table is hard to read.
PIPE_WIDTH = 200


def stdout_console() -> "Console":
    """The console that results are printed on."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else PIPE_WIDTH
    return Console(file=sys.stdout, width=width, highlight=False, markup=False, emoji=False)


def stderr_console() -> "Console":
    """The console that progress and messages are printed on."""
    from rich.console import Console

    return Console(file=sys.stderr, highlight=False, markup=False, emoji=False, soft_wrap=not sys.stderr.isatty())


def new_table(*headings: str, title: str | None = None) -> "Table":
    """An empty table in the product's look."""
    from rich import box
    from rich.table import Table

    table = Table(
        box=box.SIMPLE_HEAD, show_edge=False, collapse_padding=True, pad_edge=False, title=title, title_justify="left"
    )
    for heading in headings:
        table.add_column(heading)
    return table


def print_json(value: Any) -> None:
    """Print one JSON document on stdout."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def print_line(text: str) -> None:
    """Print a line of a result on stdout, never folded."""
    sys.stdout.write(text + "\n")


def print_message(text: str) -> None:
    """Print a line for the person at the terminal, never folded and out of a script's way."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
