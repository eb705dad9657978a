"""The options that several verbs share."""

from typing import Annotated

import typer

DEFAULT_CONTROLLER = "127.0.0.1:50051"

Controller = Annotated[
    str,
    typer.Option(
        "--controller", metavar="HOST:PORT", envvar="EFFICIENTQUANT_CONTROLLER", help="The controller to talk to."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout; progress and messages go to stderr.")]


def split_list(text: str) -> list[str]:
    """Split `a, b,c` at its commas and drop empty parts."""
    return [part.strip() for part in text.split(",") if part.strip()]
