"""`efficientquant check`: what a target makes of an artifact."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from efficientquant_controller.cli import output
from efficientquant_controller.cli.library.comparison_table import print_comparison
from efficientquant_controller.cli.options import Json
from efficientquant_controller.cli.phases import PhaseProgress
from efficientquant_controller.errors import UserError

if TYPE_CHECKING:
    from efficientquant.targets import Target
    from efficientquant.verdicts.build_verdict import BuildVerdict
    from rich.table import Table

WILL_NOT_BUILD = 1
HOW = {
    "predicted": "predicted from rules, not built",
    "built": "really built on this machine",
    "loaded": "really loaded on this machine",
}


def command(
    artifact: Annotated[Path, typer.Argument(metavar="ARTIFACT", help="An ONNX file.")],
    target: Annotated[
        str,
        typer.Option(
            "--target",
            metavar="TARGET",
            help="jetson-nano, agx-xavier, rtx-3080, tensorrt-10, tensorrt-rtx-sm89, onnxruntime, openvino, …; "
            "a wrong name lists them all.",
        ),
    ],
    layers: Annotated[bool, typer.Option("--layers", help="List every convolution and matrix product.")] = False,
    against: Annotated[
        Path | None,
        typer.Option(
            "--against", metavar="OTHER", help="Compare with this ONNX file, not with the same one without quantizers."
        ),
    ] = None,
    predict: Annotated[
        bool, typer.Option("--predict", help="Judge TensorRT-RTX by rules, without building; needs no extra.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check whether and how a target builds an artifact.

    The verdict names the arithmetic of the layers and what quantization gains there. Classic TensorRT is predicted from
    rules. TensorRT-RTX builds an engine here, without a GPU. ONNX Runtime loads the file, OpenVINO compiles it. What is
    built or loaded is compared with its float twin. The exit code is 1 where the file fails to build there or nothing
    is known.
    """
    from efficientquant.files.given_paths import require_artifact
    from efficientquant.targets import get_target

    _require_builder(get_target(target), predict=predict)
    require_artifact(artifact)
    if against is not None:
        _require_comparable(get_target(target), predict=predict)
        require_artifact(against)
    with PhaseProgress() as progress:
        progress.step(f"checking {artifact.name} for {target}")
        from efficientquant.checking import check, check_against

        verdict = check(artifact, target, predict_only=True) if predict else check_against(artifact, target, against)
    if as_json:
        output.print_json(verdict.to_dict())
    else:
        _print(verdict, layers)
    if not verdict.builds:
        raise typer.Exit(WILL_NOT_BUILD)


def _require_builder(target: "Target", *, predict: bool) -> None:
    """Raise UserError when this machine cannot build for the target.

    With `predict`, raise it when the target is not TensorRT.
    """
    from efficientquant.errors import MissingExtraError
    from efficientquant.installation import require_builder

    if predict and not target.is_tensorrt:
        raise UserError(f"--predict is for TensorRT; {target.name} loads the file here, leave --predict out")
    if not predict:
        try:
            require_builder(target)
        except MissingExtraError as error:
            way_out = ", and --predict judges by rules alone" if target.is_tensorrt else ""
            raise UserError(f"{error}{way_out}") from None


def _require_comparable(target: "Target", *, predict: bool) -> None:
    """Raise UserError for a target whose verdict is predicted."""
    if predict or target.is_predicted:
        what = "--predict" if predict else f"the verdict of {target.name}"
        raise UserError(f"--against compares what is built or loaded here, and {what} follows rules; leave it out")


def verdict_table(verdict: "BuildVerdict") -> "Table":
    """Return a verdict as a table with one fact per row."""
    table = output.new_table("verdict", str(verdict.outcome).replace("_", " "))
    table.add_row("target", verdict.target)
    table.add_row("runtime", f"{verdict.runtime}: {HOW[verdict.basis]}")
    for kind, counts in verdict.precisions().items() if verdict.builds else ():
        table.add_row(f"{kind} layers", ", ".join(f"{count} {precision}" for precision, count in counts.items()))
    for name, value in verdict.facts.items():
        table.add_row(*_fact(name, value))
    if verdict.unsupported_operators:
        table.add_row("unknown operators", ", ".join(verdict.unsupported_operators))
    return table


def layer_table(verdict: "BuildVerdict") -> "Table":
    """Return every convolution and matrix product with its arithmetic.

    The last column has the reason.
    """
    table = output.new_table("node", "kind", "computes in", "because")
    for layer in verdict.layers:
        table.add_row(layer.node, str(layer.operator), str(layer.precision), layer.reason)
    return table


def _print(verdict: "BuildVerdict", layers: bool) -> None:
    console = output.stdout_console()
    if layers:
        console.print(layer_table(verdict))
        console.print()
    console.print(verdict_table(verdict))
    print_comparison(verdict.to_dict())
    for reason in verdict.reasons:
        output.print_line(f"- {reason}")
    output.print_line(f"It buys {verdict.gain}.")


def _fact(name: str, value: Any) -> tuple[str, str]:
    """Return a fact's name and value in readable form.

    `plan_bytes` 10260188 becomes "plan" and "9.78 MiB".
    """
    if name.endswith("_bytes") and value is not None:
        return name.removesuffix("_bytes"), f"{value / 2**20:.2f} MiB"
    if name.endswith("_s") and value is not None:
        return name.removesuffix("_s"), f"{value:.1f} s"
    if isinstance(value, dict):
        return name.replace("_", " "), ", ".join(f"{count} {kind}" for kind, count in value.items())
    return name.replace("_", " "), str(value)
