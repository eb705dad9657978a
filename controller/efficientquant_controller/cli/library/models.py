"""`efficientquant models`: the names that can be benchmarked."""

from typing import Annotated

import typer

from efficientquant_controller.cli import output
from efficientquant_controller.cli.library.model_names import model_names
from efficientquant_controller.cli.options import Json
from efficientquant_controller.errors import UserError


def command(
    pattern: Annotated[
        str | None, typer.Argument(metavar="[PATTERN]", help="Only names that match, e.g. 'mobilevit*'.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the names of timm's models.

    This product is made for the mobilevit and mobilevitv2 families.
    """
    names = model_names(pattern or "*")
    if not names:
        raise UserError(f"no model matches '{pattern}'; try a pattern such as '*vit*', or no pattern for all")
    if as_json:
        output.print_json(names)
        return
    for name in names:
        output.print_line(name)
