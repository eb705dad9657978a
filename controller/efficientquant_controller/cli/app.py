"""The Typer application, its verbs and its exit codes."""

import errno
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version as installed_version
from types import TracebackType
from typing import Annotated, Any, Self

import typer
from efficientquant.errors import EfficientQuantError
from typer.core import TyperGroup

from efficientquant_controller.cli import usage
from efficientquant_controller.cli.output import (
    READER_GONE_EXIT_CODE,
    close_output,
    open_missing_streams,
    print_line,
    print_message,
)
from efficientquant_controller.errors import LeaseLostError, StoreBusyError, UserError

EXIT_CODES = {
    0: "done; a watched campaign succeeded",
    1: "the campaign ended with failed or cancelled jobs; the checked artifact will not build",
    2: "what was asked cannot be done; stderr says why in one line",
    70: "a bug in the product; stderr has its traceback",
    75: "the database is busy or away, or another controller has taken it over; try again later",
    130: "stopped or detached with Ctrl-C",
    141: "what read the output has closed it, as head does",
}
BUG_EXIT_CODE = 70
TRY_AGAIN_EXIT_CODE = 75
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class Verbs(TyperGroup):
    """The group of verbs.

    The error for an unknown verb names similar ones, or else all of them.
    """

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Resolve the verb that the first word names.

        Raises UserError for an unknown verb, and Typer's UsageError for an unknown option.
        """
        if self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            raise usage.unknown_verb(args[0], list(self.commands))
        return super().resolve_command(ctx, args)


app = typer.Typer(
    name="efficientquant",
    cls=Verbs,
    epilog="Exit codes: " + "; ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items()) + ".",
    invoke_without_command=True,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# Modules of this package, in the order of the help.
VERBS = (
    "fleet.serve",
    "fleet.devices",
    "fleet.bench",
    "fleet.campaigns",
    "fleet.watch",
    "fleet.cancel",
    "results.results",
    "results.compare",
    "results.backup",
    "library.models",
    "library.recipes",
    "library.inspect",
    "library.quantize",
    "library.check",
    "library.profile",
    "library.evaluate",
    "library.table1",
    "library.plot",
    "library.audit",
    "fleet.demo",
)
for verb in VERBS:
    app.command(name=verb.rpartition(".")[2])(import_module(f"efficientquant_controller.cli.{verb}").command)


@app.callback()
def command(
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.", is_eager=True)] = False,
) -> None:
    """Quantize CNN-transformer hybrids and benchmark them on a fleet of edge devices."""
    if version:
        print_line(f"efficientquant {installed_version('efficientquant')}")
        raise typer.Exit


class ExitCodes:
    """A context manager that turns exceptions into exit codes.

    A user's error prints one line on stderr, a bug prints its traceback.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self._verb = words[0] if words and not words[0].startswith("-") else ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            code = _report(kind, error, trace, self._verb)
        except BrokenPipeError:
            code = READER_GONE_EXIT_CODE
        raise SystemExit(close_output(code)) from None


def _report(
    kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, verb: str
) -> int:
    """Print to stderr why a command ended and return its exit code."""
    if error is None:
        return 0
    if isinstance(error, typer.Exit):
        return error.exit_code
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 0
    if isinstance(error, StoreBusyError | LeaseLostError):  # a supervisor tries once more
        print_message(f"error: {error}")
        return TRY_AGAIN_EXIT_CODE
    if isinstance(error, UserError | EfficientQuantError):  # the message says what to do
        print_message(f"error: {error}")
        return 2
    if isinstance(error, usage.USAGE_ERROR):
        print_message(f"error: {usage.sentence(error, verb)}")
        return 2
    if isinstance(error, KeyboardInterrupt):
        return 130
    if isinstance(error, BrokenPipeError):
        return READER_GONE_EXIT_CODE
    if isinstance(error, OSError) and error.errno in _DISK_FULL:
        print_message(f"error: the output cannot be written ({error.strerror}); make room and run the command again")
        return 2
    traceback.print_exception(kind, error, trace)
    print_message("this is a bug in EfficientQuant; please report it with the lines above")
    return BUG_EXIT_CODE


def _require_text(words: Sequence[str]) -> None:
    """Raise UserError for an argument that is not UTF-8 text.

    Neither a message to the controller nor a terminal accepts such bytes.
    """
    for word in words:
        if not word.isprintable() and any("\ud800" <= character <= "\udfff" for character in word):
            shown = word.encode("utf-8", "backslashreplace").decode()
            raise UserError(f"the argument {shown!r} is not UTF-8 text; give it, or rename the file, in UTF-8")


def run(arguments: list[str] | None = None) -> None:
    """Run one command and exit with its code.

    Raises SystemExit.
    """
    open_missing_streams()
    words = sys.argv[1:] if arguments is None else arguments
    with ExitCodes(words):
        _require_text(words)
        group = typer.main.get_command(app)
        with group.make_context("efficientquant", words or ["--help"]) as context:
            group.invoke(context)
