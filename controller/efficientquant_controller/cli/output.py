"""Where output goes: results to stdout, progress and messages to stderr."""

import io
import json
import os
import sys
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

# What a shell shows for a program that SIGPIPE ended.
READER_GONE_EXIT_CODE = 141
UNWRITABLE_EXIT_CODE = 2

# Wide enough for every column: a file or a pipe has no width of its own, and a folded table is hard to read.
PIPE_WIDTH = 200


@cache
def _console_class() -> "type[Console]":
    from rich.console import Console

    class PipeConsole(Console):
        """A console that leaves it to the command what a closed pipe means.

        Rich would end with 1.
        """

        def on_broken_pipe(self) -> NoReturn:
            """Raise BrokenPipeError."""
            raise BrokenPipeError

    return PipeConsole


def stdout_console() -> "Console":
    """The console that results are printed on."""
    width = None if sys.stdout.isatty() else PIPE_WIDTH
    return _console_class()(file=sys.stdout, width=width, highlight=False, markup=False, emoji=False)


def stderr_console() -> "Console":
    """The console that progress and messages are printed on."""
    return _console_class()(
        file=sys.stderr, highlight=False, markup=False, emoji=False, soft_wrap=not sys.stderr.isatty()
    )


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


def open_missing_streams() -> None:
    """Open the null device for each standard stream that the caller had closed."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 – it stays open as long as the process lives


def close_output(code: int) -> int:
    """Write out what is still held back, and return the exit code: `code`, unless nobody can read the output."""
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
    """Point a stream at the null device, or the interpreter complains of what it could not flush."""
    with suppress(io.UnsupportedOperation, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
