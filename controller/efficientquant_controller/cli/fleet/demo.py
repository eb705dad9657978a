"""`efficientquant demo`: the whole product on this machine in a few minutes."""

import os
import shlex
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from efficientquant_controller.cli import output
from efficientquant_controller.cli.numbers import Repeats
from efficientquant_controller.cli.options import DEFAULT_CONTROLLER
from efficientquant_controller.cli.records import BenchRequest
from efficientquant_controller.config import measurement_for
from efficientquant_controller.model import CampaignState, Measurement, Weights

if TYPE_CHECKING:
    from efficientquant_controller.cli.fleet.demo_fleet import DemoFleet
    from efficientquant_controller.cli.records import CampaignListing

MODELS = ("mobilevit_xxs", "mobilevitv2_050")
AGENTS = ("bench-1", "bench-2")
RECIPES = ("fp32", "efficientquant")
FOLDER = Path("efficientquant-demo")
HUB = "https://huggingface.co"
HUB_FILE = "/timm/mobilevit_xxs.cvnets_in1k/resolve/main/config.json"
HUB_TIMEOUT_S = 5.0
# Measured on two cores: from the start to the first run, and the time of a run beyond its measurement.
START_S = 30.0
RUN_OVERHEAD_S = 2.0


def command(
    db: Annotated[
        Path | None, typer.Option("--db", metavar="FILE", help=f"The database; by default in a new ./{FOLDER}/.")
    ] = None,
    tier: Annotated[str, typer.Option("--tier", metavar="TIER", help="How long to measure.")] = "demo",
    repeats: Repeats = 3,
) -> None:
    """Run a controller and two agents here and benchmark two models.

    The results are shown, and all processes end with the command.
    """
    request = BenchRequest(MODELS, RECIPES, (), tier, repeats, intra_op_threads=thread_count())
    output.print_message(plan(measurement_for(tier), repeats))
    from efficientquant_controller.cli.fleet.demo_fleet import DemoFleet

    folder = fresh_folder(FOLDER) if db is None else db.with_name(f"{db.stem}-demo")
    database = folder / "results.db" if db is None else db
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    with DemoFleet(folder, database, AGENTS) as fleet:
        campaign = measure(fleet, request)
    if campaign is None:
        output.print_message(
            f"stopped; what was measured so far: {_program()} results --db {shlex.quote(str(database))}"
        )
        raise typer.Exit(130)
    _print_end(folder, database, campaign)
    raise typer.Exit(0 if campaign.state is CampaignState.SUCCEEDED else 1)


def plan(measurement: Measurement, repeats: int) -> str:
    """Return one line on what the demo does and its duration."""
    run_count = len(MODELS) * len(RECIPES) * len(AGENTS) * repeats
    run_s = measurement.min_time_s + 2 * measurement.idle_s + RUN_OVERHEAD_S
    times = "once" if repeats == 1 else f"{repeats} times"
    minutes = max(1, round((START_S + run_count * run_s) / 60))
    return (
        f"this quantizes {' and '.join(MODELS)} and measures them on two agents on this machine, "
        f"{times} each: about {minutes} minute{'s' * (minutes > 1)}"
    )


def thread_count() -> int:
    """Return the number of cores but one, at least 1.

    That one is left to the controller and the agents.
    """
    return max(1, len(os.sched_getaffinity(0)) - 1)


def _leave(number: int, frame: Any) -> NoReturn:
    """Exit so that the fleet's own cleanup runs.

    The signal itself would end the process without it. Raises SystemExit.
    """
    del frame
    raise SystemExit(128 + number)


def fresh_folder(wanted: Path) -> Path:
    """Return the first free folder of `wanted`, wanted-2, wanted-3 and so on."""
    number = 2
    folder = wanted
    while folder.exists():
        folder = wanted.with_name(f"{wanted.name}-{number}")
        number += 1
    return folder


def measure(fleet: "DemoFleet", request: BenchRequest) -> "CampaignListing | None":
    """Run the demo's campaign and return it.

    The weights are random where timm's cannot be fetched. Returns None when Ctrl-C ended the campaign.
    """
    output.print_message(f"starting a controller and two agents; logs and database in {fleet.folder}/")
    fleet.start()
    threads = "1 thread" if request.intra_op_threads == 1 else f"{request.intra_op_threads} threads"
    output.print_message(
        f"both agents share this board's cores, so they are measured one after the other, on {threads}: one core is "
        "left to the controller and the agents"
    )
    if hub_answers():
        campaign = fleet.run(request, Weights("pretrained"))
        if campaign is None or not fleet.builds_failed:
            return campaign
    output.print_message(
        "timm's pretrained weights cannot be fetched from the hub: random weights instead; latency and memory do not "
        "depend on weights, and no accuracy is reported"
    )
    return fleet.run(request, Weights("random"))


def hub_answers() -> bool:
    """Tell whether the hub with timm's weights can be reached."""
    from urllib.request import Request, urlopen

    if os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "ON", "YES", "TRUE"):
        return False
    url = os.environ.get("HF_ENDPOINT", HUB) + HUB_FILE
    try:
        with urlopen(Request(url, method="HEAD"), timeout=HUB_TIMEOUT_S):  # noqa: S310 – the scheme is the user's own setting
            return True
    except OSError:
        return False


def _program() -> str:
    """Return this program's name for commands that can be pasted."""
    return "efficientquant" if shutil.which("efficientquant") else os.path.relpath(sys.argv[0])


def _print_end(folder: Path, database: Path, campaign: "CampaignListing") -> None:
    from efficientquant_controller.cli.results.results import print_for_people, rows_from_database

    rows = rows_from_database(str(database), campaign.campaign_id)
    print_for_people(rows)
    if campaign.state is not CampaignState.SUCCEEDED:
        output.print_message(f"not everything succeeded; logs: {folder}/*.log")
    output.print_line(f"nothing is left running; every number is in {database}")
    output.print_line("try next:")
    for line in next_commands(_program(), folder, database):
        output.print_line(f"  {line}")


def next_commands(program: str, folder: Path, database: Path) -> list[str]:
    """Return the commands to try next.

    `program` is the name by which the user calls this program.
    """
    # With its state directory the agent is the same device as before. Without it, the name would be taken.
    agent = f"--name {AGENTS[0]} --state-dir {shlex.quote(str(folder / AGENTS[0]))}"
    db = shlex.quote(str(database))
    return [
        f"{program} results --db {db} --csv",
        shlex.join(["sqlite3", str(database), "select * from results"]),
        f"{program} serve --db {db}",
        f"{program}-agent --controller {DEFAULT_CONTROLLER} {agent}    # in a second terminal",
        f"{program} bench {MODELS[0]} --recipes {','.join(RECIPES)} --tier smoke --weights random    # in a third",
    ]
