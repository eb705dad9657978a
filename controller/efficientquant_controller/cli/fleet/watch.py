"""`efficientquant watch`: the progress of a campaign."""

from typing import Annotated

import typer

from efficientquant_controller.cli.options import DEFAULT_CONTROLLER, Controller, Json


def command(
    campaign: Annotated[str, typer.Argument(metavar="ID|latest", help="Which campaign.")] = "latest",
    controller: Controller = DEFAULT_CONTROLLER,
    as_json: Json = False,
) -> None:
    """Watch a campaign to its end and show its results.

    Ctrl-C offers to cancel the campaign or to detach from it.
    """
    from efficientquant_controller.cli.connection import Connection
    from efficientquant_controller.cli.fleet.watching import watch_to_end

    with Connection(controller) as connection:
        watch_to_end(connection, campaign, as_json=as_json, reached=False)
