"""The options that several verbs share."""

import os
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
    """Split `a, b,c` into its parts without the empty ones."""
    return [part.strip() for part in text.split(",") if part.strip()]


def controller_hint(address: str) -> str:
    """What a command to be typed next needs to reach the same controller."""
    return (
        "" if address == os.environ.get("EFFICIENTQUANT_CONTROLLER", DEFAULT_CONTROLLER) else f" --controller {address}"
    )
