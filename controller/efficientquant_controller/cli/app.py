"""The command's verbs put together, and the one place where an error becomes an exit code."""

import traceback
from importlib.metadata import version as installed_version
from types import TracebackType
from typing import Annotated, Self

import typer
from efficientquant.errors import EfficientQuantError

from efficientquant_controller.cli import (
    audit,
    backup,
    bench,
    campaigns,
    cancel,
    check,
    compare,
    demo,
    devices,
    evaluate,
    inspect,
    models,
    plot,
    quantize,
    recipes,
    results,
    serve,
    table1,
    watch,
)
from efficientquant_controller.cli.output import print_line, print_message
from efficientquant_controller.errors import UserError

EXIT_CODES = {
    0: "done; a watched campaign succeeded",
    1: "the campaign ended with failed or cancelled jobs; the checked artifact will not build",
    2: "what was asked cannot be done; stderr says why in one line",
    70: "a bug in the product; stderr has its traceback",
    130: "stopped or detached with Ctrl-C",
}
BUG_EXIT_CODE = 70

app = typer.Typer(
    name="efficientquant",
    epilog="Exit codes: " + "; ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items()) + ".",
    invoke_without_command=True,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for verb in (
    serve,
    devices,
    bench,
    campaigns,
    watch,
    cancel,
    results,
    compare,
    backup,
    models,
    recipes,
    inspect,
    quantize,
    check,
    evaluate,
    table1,
    plot,
    audit,
    demo,
):
    app.command(name=verb.__name__.rpartition(".")[2])(verb.command)


@app.callback()
def command(
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.", is_eager=True)] = False,
) -> None:
    """Quantize CNN-transformer hybrids and benchmark them honestly on a fleet of edge devices."""
    if version:
        print_line(f"efficientquant {installed_version('efficientquant')}")
        raise typer.Exit


class ExitCodes:
    """Turns what escapes a command into its exit code: a user's error is one line, a bug its traceback."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, (UserError, EfficientQuantError)):  # both refuse on purpose, and say why
            print_message(f"error: {error}")
            raise SystemExit(2) from None
        if isinstance(error, KeyboardInterrupt):
            raise SystemExit(130) from None
        if isinstance(error, Exception):
            traceback.print_exception(kind, error, trace)
            print_message("this is a bug in EfficientQuant; please report it with the lines above")
            raise SystemExit(BUG_EXIT_CODE) from None


def run(arguments: list[str] | None = None) -> None:
    """Run one command and leave with its exit code (SystemExit)."""
    with ExitCodes():
        app(arguments)
