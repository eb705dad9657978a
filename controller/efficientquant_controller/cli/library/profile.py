"""`efficientquant profile`: the modelled cost of a file's kernels on a target."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from efficientquant_controller.cli import output
from efficientquant_controller.cli.given import say_made
from efficientquant_controller.cli.options import Json
from efficientquant_controller.cli.phases import PhaseProgress
from efficientquant_controller.errors import UserError

if TYPE_CHECKING:
    from efficientquant.targets import Target
    from efficientquant.verdicts.costs.cost_model import Cost, Work
    from efficientquant.verdicts.costs.profile import Profile
    from rich.table import Table

# What fits on one screen with the rest.
SHOWN_KERNELS = 10


def command(
    artifact: Annotated[Path, typer.Argument(metavar="ARTIFACT", help="An ONNX file.")],
    target: Annotated[
        str, typer.Option("--target", metavar="TARGET", help="rtx-3080, tensorrt-rtx-sm89, onnxruntime, …")
    ],
    every: Annotated[bool, typer.Option("--all", help="List every kernel, not only the ten most expensive.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE.svg|FILE.png|DIR", help="Draw a roofline; a folder gets both.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Model what each kernel of an artifact costs on a target.

    TensorRT-RTX builds an engine here, without a GPU. A kernel takes a launch, and the time of its bytes or of its
    arithmetic. That is a model which ranks kernels, no measurement. On ONNX Runtime bytes and MACs are counted alone.
    """
    from efficientquant.files.given_paths import picture_paths, require_artifact
    from efficientquant.files.whole_files import require_writable
    from efficientquant.targets import get_target

    _require_profile(get_target(target), draws=out is not None)
    require_artifact(artifact)
    paths = [] if out is None else picture_paths(out, f"{artifact.stem}-roofline")
    require_writable(*paths)
    with PhaseProgress() as progress:
        progress.step(f"profiling {artifact.name} for {target}")
        from efficientquant.verdicts.costs.profiling import profile

        profiled = profile(artifact, target)
        if paths:
            from efficientquant.plots.drawing import save_figure
            from efficientquant.plots.roofline import plot_roofline

            say_made(save_figure(plot_roofline(profiled, name=artifact.stem), paths))
    if as_json:
        output.print_json(profiled.to_dict() | {"files": [str(path) for path in paths]})
        return
    _print(profiled, artifact.name, None if every else SHOWN_KERNELS)
    for path in paths:
        output.print_line(str(path))


def _require_profile(target: "Target", *, draws: bool) -> None:
    """Raise UserError for a target whose kernels or peaks are not known."""
    from efficientquant.installation import require_builder
    from efficientquant.verdicts.costs.cost_model import ceilings_of
    from efficientquant.verdicts.costs.profiling import require_profile

    require_profile(target)
    require_builder(target)
    if draws and ceilings_of(target) is None:
        raise UserError(f"a roofline needs peaks, and those of {target.name} are not known; leave --out out")


def _print(profile: "Profile", name: str, most: int | None) -> None:
    from efficientquant.verdicts.costs.cost_model import LAUNCH_S, NO_MEASUREMENT, total_s

    console = output.stdout_console()
    costs = profile.costs()
    where = f"{name} for {profile.target} ({profile.runtime}): {len(profile.work)} kernels"
    if profile.ceilings is None:
        size_bytes, macs = sum(work.size_bytes for work in profile.work), sum(work.macs for work in profile.work)
        output.print_line(f"{where}, {size_bytes / 2**20:.1f} MiB read and written, {macs / 1e6:.1f} million MACs\n")
        ranked = sorted(profile.work, key=lambda work: (work.size_bytes, work.macs), reverse=True)
        console.print(_work_table(ranked[:most]))
    else:
        output.print_line(f"{where}, {total_s(costs) * 1e6:.0f} µs on one {profile.ceilings.device}")
        bandwidth = f"{profile.ceilings.bytes_per_s / 1e9:.0f} GB/s"
        parts = f"{LAUNCH_S * 1e6:.1f} µs a launch and the longer of bytes / ({bandwidth}) and 2 · MACs / peak"
        output.print_line(f"{NO_MEASUREMENT}: {parts}\n")
        console.print(_share_table(profile))
        console.print()
        console.print(_cost_table(sorted(costs, key=lambda cost: cost.time_s, reverse=True)[:most]))
    shown = len(profile.work) if most is None else min(most, len(profile.work))
    if shown < len(profile.work):
        output.print_line(f"… and {len(profile.work) - shown} more; --all lists them")
    if profile.unnamed_macs:
        output.print_line(f"{profile.unnamed_macs / 1e6:.1f} million MACs are of products that no kernel names")
    output.print_line(f"\n{profile.advice[:1].upper()}{profile.advice[1:]}.")


def _share_table(profile: "Profile") -> "Table":
    table = output.new_table("bound by", "kernels", "modelled µs", "share")
    for share in profile.shares():
        table.add_row(str(share.bound), str(share.kernels), f"{share.time_s * 1e6:.1f}", f"{share.share:.0%}")
    return table


def _cost_table(costs: Sequence["Cost"]) -> "Table":
    table = output.new_table("modelled µs", "bound by", "KiB", "MMAC", "computes in", "ONNX nodes")
    for cost in costs:
        table.add_row(f"{cost.time_s * 1e6:.2f}", str(cost.bound), *_facts(cost.work))
    return table


def _work_table(work: Sequence["Work"]) -> "Table":
    table = output.new_table("KiB", "MMAC", "computes in", "node", "operator")
    for kernel in work:
        table.add_row(*_facts(kernel), kernel.kind)
    return table


def _facts(work: "Work") -> tuple[str, str, str, str]:
    """Return a kernel's bytes, MACs, arithmetic and nodes."""
    first, *others = work.nodes or (work.name,)
    nodes = f"{first} (+{len(others)})" if others else first
    macs = f"{work.macs / 1e6:.2f}" if work.macs else ""
    return f"{work.size_bytes / 1024:.0f}", macs, str(work.precision) if work.macs else "", nodes
