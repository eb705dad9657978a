"""The output streams: results on stdout, progress and messages on stderr."""

import io
import json
import os
import sys
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, NoReturn

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

# The exit code that a shell reports for a program killed by SIGPIPE.
READER_GONE_EXIT_CODE = 141
UNWRITABLE_EXIT_CODE = 2

# Wide enough for every column. Files and pipes have no width of their own, and folded tables are hard to read.
PIPE_WIDTH = 200


@cache
def _console_class() -> "type[Console]":
    from rich.console import Console

    class PipeConsole(Console):
        """A console that raises BrokenPipeError for a closed pipe.

        Rich would exit with 1.
        """

        def on_broken_pipe(self) -> NoReturn:
            """Raise BrokenPipeError."""
            raise BrokenPipeError

    return PipeConsole


def stdout_console() -> "Console":
    """Return the console for results.

    A pipe has no width to fold lines to. With $NO_COLOR the text is plain.
    """
    width = None if sys.stdout.isatty() else PIPE_WIDTH
    colours: Literal["auto"] | None = None if os.environ.get("NO_COLOR") else "auto"
    return _console_class()(
        file=sys.stdout, width=width, highlight=False, markup=False, emoji=False, color_system=colours
    )


def stderr_console() -> "Console":
    """Return the console for progress and messages."""
    return _console_class()(
        file=sys.stderr, highlight=False, markup=False, emoji=False, soft_wrap=not sys.stderr.isatty()
    )


def new_table(*headings: str, title: str | None = None) -> "Table":
    """Return an empty table in the product's style."""
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
    """Print a result line on stdout without folding it."""
    sys.stdout.write(text + "\n")


def print_message(text: str) -> None:
    """Print a line on stderr without folding it."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def open_missing_streams() -> None:
    """Open the null device for each closed standard stream."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 – it stays open until the process ends


def close_output(code: int) -> int:
    """Flush stdout and stderr and return the exit code.

    The code is 141 when the reader has closed a stream, 2 when a stream cannot be written, and otherwise `code`.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            _silence(stream)
            code = READER_GONE_EXIT_CODE
        except OSError as error:
            _silence(stream)
            with suppress(OSError):
                print_message(f"error: the output cannot be written: {error.strerror}")
            code = UNWRITABLE_EXIT_CODE
    return code


def _silence(stream: Any) -> None:
    """Redirect a stream to the null device.

    Otherwise the interpreter complains at exit that it cannot flush the stream.
    """
    with suppress(io.UnsupportedOperation, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
