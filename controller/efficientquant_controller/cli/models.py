"""`efficientquant models`: the names that can be benchmarked."""

from fnmatch import fnmatchcase
from typing import Annotated

import typer

from efficientquant_controller.cli import output
from efficientquant_controller.cli.options import Json
from efficientquant_controller.errors import UserError


def command(
    pattern: Annotated[
        str | None, typer.Argument(metavar="[PATTERN]", help="Only names that match, e.g. 'mobilevit*'.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the timm models; the ones this product is made for are the mobilevit and mobilevitv2 families."""
    names = model_names(pattern or "*")
    if not names:
        raise UserError(f"no model matches '{pattern}'; try a pattern such as '*vit*', or no pattern for all")
    if as_json:
        output.print_json(names)
        return
    for name in names:
        output.print_line(name)


def model_names(pattern: str) -> list[str]:
    """The names timm knows that match; a pattern without * matches anywhere in a name."""
    import timm

    wanted = pattern if "*" in pattern else f"*{pattern}*"
    return [name for name in timm.list_models() if fnmatchcase(name, wanted)]
