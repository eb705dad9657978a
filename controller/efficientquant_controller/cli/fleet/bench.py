"""`efficientquant bench`: submit a campaign and watch it."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from efficientquant_controller.bounds import check_label
from efficientquant_controller.cli import output
from efficientquant_controller.cli.fleet.campaign_inputs import (
    checked_data,
    upload_images,
    upload_weights,
    weights_source,
)
from efficientquant_controller.cli.next_commands import bench_words, command_line
from efficientquant_controller.cli.numbers import CampaignSeed, Idle, RepeatsOrDefault, StartBelow, Threads
from efficientquant_controller.cli.options import DEFAULT_CONTROLLER, Controller, Json, split_list
from efficientquant_controller.cli.records import BenchRequest
from efficientquant_controller.config import TIERS, measurement_for
from efficientquant_controller.errors import UserError
from efficientquant_controller.model import TWIN_RECIPE


def command(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="timm models, e.g. mobilevit_xxs.")],
    recipes: Annotated[
        str,
        typer.Option(
            "--recipes",
            metavar="NAME,NAME:OPTION=VALUE",
            help="How to quantize, e.g. efficientquant:weight_bits=4:scope=conv+linear; see 'efficientquant recipes'.",
        ),
    ] = "fp32,efficientquant",
    no_twin: Annotated[
        bool, typer.Option("--no-twin", help="Do not measure fp32 with recipes that were asked for without it.")
    ] = False,
    devices: Annotated[
        str, typer.Option("--devices", metavar="all|NAME,NAME", help="Which devices; all means every connected one.")
    ] = "all",
    tier: Annotated[
        str, typer.Option("--tier", metavar="TIER", help=f"How long to measure: {', '.join(TIERS)}.")
    ] = "standard",
    repeats: RepeatsOrDefault = None,
    paper: Annotated[
        bool,
        typer.Option("--paper", help="As the paper measured: ten repeats averaged, its load time and its memory."),
    ] = False,
    backend: Annotated[
        str,
        typer.Option(
            "--backend",
            metavar="NAME",
            help="One that 'efficientquant devices' lists, e.g. trt or ort-cpu. Else each device's preferred one.",
        ),
    ] = "",
    lock_clocks: Annotated[
        bool, typer.Option("--lock-clocks", help="Lock clocks during each run, verify them, and put them back.")
    ] = False,
    power_mode: Annotated[
        str, typer.Option("--power-mode", metavar="MODE", help="Set this power mode during each run, e.g. MAXN or 0.")
    ] = "",
    cuda_graph: Annotated[
        bool, typer.Option("--cuda-graph", help="Run as one CUDA graph, where there is a GPU.")
    ] = False,
    sync: Annotated[
        str, typer.Option("--sync", metavar="spin|block", help="How the host waits for a GPU; spin by default.")
    ] = "",
    buffers: Annotated[
        str,
        typer.Option(
            "--buffers",
            metavar="auto|pinned|mapped|device",
            help="Memory of inputs and outputs with TensorRT; device leaves transfers out.",
        ),
    ] = "",
    layers: Annotated[bool, typer.Option("--layers", help="Time each layer too, in a pass of its own.")] = False,
    idle: Idle = None,
    start_below: StartBelow = None,
    weights: Annotated[
        str,
        typer.Option(
            "--weights",
            metavar="pretrained|random|FILE",
            help="timm's pretrained weights, seeded random ones (latency and memory only), or your checkpoint.",
        ),
    ] = "pretrained",
    seed: CampaignSeed = 0,
    threads: Threads = 0,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="FOLDER|NPZ",
            help="Images to calibrate on: 32, or up to 256 as a recipe takes, are uploaded. Else they are synthetic.",
        ),
    ] = None,
    label: Annotated[
        str, typer.Option("--label", metavar="TEXT", help="Your own word for the campaign; see 'results --label'.")
    ] = "",
    detach: Annotated[bool, typer.Option("--detach", help="Submit, print the campaign's id and leave.")] = False,
    controller: Controller = DEFAULT_CONTROLLER,
    as_json: Json = False,
) -> None:
    """Quantize models, measure them on devices and show the results.

    Ctrl-C offers to cancel the campaign or to detach from it.
    """
    check_label("--label", label)
    names = _named(recipes, "--recipes", "fp32,efficientquant")
    adds_twin = not no_twin and TWIN_RECIPE not in names
    request = BenchRequest(
        models=tuple(models),
        recipes=(TWIN_RECIPE, *names) if adds_twin else tuple(names),
        devices=_device_names(devices),
        tier=tier,
        repeats=repeats or 0,
        seed=seed,
        intra_op_threads=threads,
        paper=paper,
        backend=backend,
        lock_clocks=lock_clocks,
        power_mode=power_mode,
        cuda_graph=cuda_graph,
        sync_mode=sync,
        memory_kind=buffers,
        profile_layers=layers,
        idle_s=idle,
        max_start_temperature_c=start_below,
        label=label,
    )
    source, images = weights_source(weights), checked_data(data)
    submit_and_watch(controller, request, source, images, adds_twin=adds_twin, detach=detach, as_json=as_json)


def submit_and_watch(
    controller: str,
    request: BenchRequest,
    source: str | Path,
    data: Path | None = None,
    *,
    adds_twin: bool = False,
    detach: bool = False,
    as_json: bool = False,
) -> None:
    """Submit a campaign and watch it to its end unless `detach`.

    Raises typer.Exit with the exit code after watching.
    """
    from efficientquant_controller.cli.connection import Connection
    from efficientquant_controller.cli.fleet.watching import LONGER_TIER, watch_to_end

    with Connection(controller) as connection:
        # Check before minutes of packing, sending and measuring.
        connection.require_same_protocol()
        if data is not None or isinstance(source, Path):
            _require_known(request)
        calibration = None if data is None else upload_images(connection, data, request.recipes)
        campaign = connection.submit(request, upload_weights(connection, source), calibration)
        if adds_twin:
            output.print_message(f"{TWIN_RECIPE} is measured too, to compare with; --no-twin leaves it out")
        if not detach:
            output.print_message(
                f"campaign {campaign.campaign_id}: {campaign.job_count} jobs, {campaign.run_count} runs "
                f"on {', '.join(campaign.devices)}"
            )
            again = bench_words(request, source, data, LONGER_TIER)
            watch_to_end(connection, campaign.campaign_id, as_json=as_json, reached=True, again=again)
        elif as_json:
            output.print_json({"campaign": asdict(campaign)})
        else:
            output.print_line(campaign.campaign_id)
            output.print_message(f"watch it: {command_line(['watch', campaign.campaign_id], connection.address)}")


def _require_known(request: BenchRequest) -> None:
    """Raise an error for an unknown tier, measurement option or recipe.

    It is a UserError or the library's error.
    """
    from efficientquant.recipe import get_recipe

    changes = {"sync_mode": request.sync_mode, "memory_kind": request.memory_kind}
    measurement_for(request.tier, **{name: value for name, value in changes.items() if value})
    for recipe in request.recipes:
        get_recipe(recipe)


def _named(text: str, option: str, example: str) -> list[str]:
    names = split_list(text)
    if not names:
        raise UserError(f"{option} names nothing; give for example {example}")
    return names


def _device_names(text: str) -> tuple[str, ...]:
    """Return the named devices, or none for all of them.

    Raises UserError when `all` is not the only name.
    """
    names = _named(text, "--devices", "all or bench-1,bench-2")
    if "all" in names and len(names) > 1:
        raise UserError(f"--devices {text}: all stands alone; give all, or names without it")
    return () if names == ["all"] else tuple(names)
