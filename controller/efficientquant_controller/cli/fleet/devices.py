"""`efficientquant devices`: the devices and what they can do."""

import shlex
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from efficientquant_controller.cli import output
from efficientquant_controller.cli.durations import duration
from efficientquant_controller.cli.options import DEFAULT_CONTROLLER, Controller, Json
from efficientquant_controller.cli.records import DeviceListing, FleetListing

# The agent's doctor warns from the same offset on.
CLOCK_TOLERANCE_S = 2.0

if TYPE_CHECKING:
    from rich.table import Table

    from efficientquant_controller.model import Gpu


def command(
    forget: Annotated[
        str | None,
        typer.Option("--forget", metavar="NAME", help="Free the name of a device that will not come back."),
    ] = None,
    controller: Controller = DEFAULT_CONTROLLER,
    as_json: Json = False,
) -> None:
    """List the devices with their state and what they can do."""
    from efficientquant_controller.cli.connection import Connection

    with Connection(controller) as connection:
        if forget is not None:
            _show_forgotten(connection.forget_device(forget), as_json)
            return
        fleet = connection.devices()
    _show(fleet, controller, as_json)


def _show_forgotten(device: DeviceListing, as_json: bool) -> None:
    if as_json:
        output.print_json(asdict(device))
    else:
        output.print_line(f"forgot {device.name}; its results stay, and its name is free")


def _show(fleet: FleetListing, controller: str, as_json: bool) -> None:
    if fleet.problem:
        output.print_message(f"the controller takes no new campaign: {fleet.problem}")
    if as_json:
        output.print_json([asdict(device) for device in fleet.devices])
    elif fleet.devices:
        output.stdout_console().print(device_table(fleet.devices, fleet.now_unix_s))
        for device in fleet.devices:
            if device.problem:
                output.print_line(f"{device.name} takes no new run: {device.problem}")
            for sentence in device.broken_backends:
                output.print_line(f"{device.name}: {sentence}")
            if abs(device.clock_offset_s or 0.0) >= CLOCK_TOLERANCE_S:
                output.print_line(_wrong_clock(device))
    else:
        output.print_line("no device has connected yet; start an agent on one:")
        output.print_line(f"  {shlex.join(['efficientquant-agent', '--controller', controller, '--name', 'NAME'])}")


def device_table(devices: list[DeviceListing], now_unix_s: float) -> "Table":
    """Return the devices as a table.

    `now_unix_s` is the controller's clock, as are the devices' times.
    """
    table = output.new_table("device", "state", "board", "runs models with", "system")
    for device in devices:
        table.add_row(device.name, _state(device, now_unix_s), _board(device), _capabilities(device), _system(device))
    return table


def _wrong_clock(device: DeviceListing) -> str:
    offset_s = device.clock_offset_s or 0.0
    direction = "ahead of" if offset_s > 0 else "behind"
    return (
        f"{device.name}'s clock is {duration(abs(offset_s))} {direction} the controller's, and so are the times of its "
        "runs; set the wrong one: sudo timedatectl set-ntp true"
    )


def _state(device: DeviceListing, now_unix_s: float) -> str:
    if device.state != "offline":
        return device.state
    return f"offline for {duration(now_unix_s - device.last_seen_unix_s)}"


def _board(device: DeviceListing) -> str:
    snapshot = device.snapshot
    facts = [snapshot.board or snapshot.cpu_model or "unknown board"]
    if snapshot.cpu_count:
        facts.append(f"{snapshot.cpu_count} cores")
    if snapshot.memory_total_bytes:
        facts.append(f"{snapshot.memory_total_bytes / 2**30:.1f} GiB")
    return ", ".join(facts)


def _capabilities(device: DeviceListing) -> str:
    backends = device.snapshot.backends
    listed = (
        ", ".join(f"{backend.name} {backend.version}" for backend in backends)
        or "nothing: see 'efficientquant-agent doctor'"
    )
    products = "/".join(name.upper() for name in device.snapshot.cpu_dot_products)
    return ", ".join([listed, *map(_gpu, device.snapshot.gpus), *([f"CPU with {products}"] if products else [])])


def _gpu(gpu: "Gpu") -> str:
    kinds = [name for name, has in (("FP16", gpu.fp16), ("INT8", gpu.int8), ("TF32", gpu.tf32)) if has]
    sm = f"SM {gpu.compute_capability // 10}.{gpu.compute_capability % 10}" if gpu.compute_capability else "unknown SM"
    return f"{gpu.name} ({' '.join([sm, *kinds])})"


def _system(device: DeviceListing) -> str:
    snapshot = device.snapshot
    python = snapshot.library_versions.get("python", "")
    jetpack = f" (JetPack {snapshot.jetpack})" if snapshot.jetpack else ""
    mode = snapshot.power_mode and f"mode {snapshot.power_mode}"
    facts = (
        snapshot.l4t and f"L4T {snapshot.l4t}{jetpack}",
        mode,
        snapshot.os,
        snapshot.architecture,
        python and f"Python {python}",
    )
    return ", ".join(fact for fact in facts if fact)
