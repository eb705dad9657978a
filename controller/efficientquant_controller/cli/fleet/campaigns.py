"""`efficientquant campaigns`: the campaigns and their states."""

from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING

from efficientquant_controller.cli import output
from efficientquant_controller.cli.next_commands import FIRST_BENCH, command_line
from efficientquant_controller.cli.options import DEFAULT_CONTROLLER, Controller, Json
from efficientquant_controller.cli.records import CampaignListing

if TYPE_CHECKING:
    from rich.table import Table


def command(controller: Controller = DEFAULT_CONTROLLER, as_json: Json = False) -> None:
    """List the campaigns, newest first."""
    from efficientquant_controller.cli.connection import Connection

    with Connection(controller) as connection:
        campaigns = connection.campaigns()
    if as_json:
        output.print_json([asdict(campaign) for campaign in campaigns])
    elif campaigns:
        output.stdout_console().print(campaign_table(campaigns))
    else:
        output.print_line(f"no campaigns yet; start one: {command_line(FIRST_BENCH, connection.address)}")


def campaign_table(campaigns: list[CampaignListing]) -> "Table":
    """Return the campaigns as a table with local times."""
    table = output.new_table()
    for heading in ("campaign", "label", "state", "created", "models", "recipes", "devices", "weights", "tier"):
        table.add_column(heading, no_wrap=heading in ("campaign", "state"))
    table.add_column("runs", justify="right")
    for campaign in campaigns:
        created = datetime.fromtimestamp(campaign.created_unix_s).astimezone().strftime("%Y-%m-%d %H:%M")
        named = (", ".join(names) for names in (campaign.models, campaign.recipes, campaign.devices))
        table.add_row(
            campaign.campaign_id,
            campaign.submission.request.label if campaign.submission else "",
            campaign.state,
            created,
            *named,
            campaign.weights,
            campaign.tier,
            str(campaign.run_count),
        )
    return table
