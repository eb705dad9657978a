"""`efficientquant cancel`: end a campaign now."""

from dataclasses import asdict
from typing import Annotated

import typer

from efficientquant_controller.cli import output
from efficientquant_controller.cli.next_commands import command_line
from efficientquant_controller.cli.options import DEFAULT_CONTROLLER, Controller, Json
from efficientquant_controller.model import CampaignState


def command(
    campaign: Annotated[str, typer.Argument(metavar="ID|latest", help="Which campaign.")],
    controller: Controller = DEFAULT_CONTROLLER,
    as_json: Json = False,
) -> None:
    """Cancel a campaign and keep the results measured so far."""
    from efficientquant_controller.cli.connection import Connection

    with Connection(controller) as connection:
        ended = connection.cancel(campaign)
    if as_json:
        output.print_json(asdict(ended))
    elif ended.state is CampaignState.CANCELLED:
        output.print_line(f"campaign {ended.campaign_id} is cancelled; what was measured stays:")
        results = ["results", "--campaign", ended.campaign_id]
        output.print_line(f"  {command_line(results, connection.address)}")
    else:
        output.print_line(f"campaign {ended.campaign_id} had already ended: {ended.state}")
