"""`efficientquant quantize`: a checked ONNX file for one target."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from efficientquant_controller.cli import output
from efficientquant_controller.cli.given import image_count, require_inputs, say_made, say_unused
from efficientquant_controller.cli.library.comparison_table import print_comparison
from efficientquant_controller.cli.library.local_model import DataSource, ModelName, WeightsSource, open_model
from efficientquant_controller.cli.library.model_names import require_model
from efficientquant_controller.cli.numbers import CalibrationImages, CalibrationSeed, InputSize
from efficientquant_controller.cli.options import Json
from efficientquant_controller.cli.phases import PhaseProgress

if TYPE_CHECKING:
    from efficientquant.artifact.export import Artifact, Rendered
    from efficientquant.images.data import ImageData
    from efficientquant.models import InputSpec
    from efficientquant.targets import Target
    from efficientquant.verdicts.build_verdict import BuildVerdict

PREDICTED = "what {} makes of the file is predicted from rules, not built"


def command(
    model: ModelName,
    recipe: Annotated[
        str, typer.Option("--recipe", metavar="R", help="How to quantize, e.g. int8 or efficientquant:weight_bits=4.")
    ] = "efficientquant",
    weights: WeightsSource = "pretrained",
    data: DataSource = None,
    images: CalibrationImages = None,
    target: Annotated[
        str,
        typer.Option("--for", metavar="TARGET", help="What will run it, e.g. jetson-nano, rtx-3080, openvino."),
    ] = "onnxruntime",
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the file and its report go.")] = Path(),
    input_size: InputSize = None,
    seed: CalibrationSeed = 0,
    without_passes: Annotated[
        list[str] | None,
        typer.Option("--without-pass", metavar="PASS", help="Leave out a lowering pass; repeat it for more."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Quantize a model and write the ONNX file for a target.

    The output says what the target makes of the file.
    """
    from efficientquant.files.whole_files import require_writable
    from efficientquant.recipe import get_recipe
    from efficientquant.targets import get_target

    parsed_recipe, capabilities = get_recipe(recipe), get_target(target)
    parsed_recipe.require_target(capabilities)
    if without_passes:
        from efficientquant.lowering.passes import choose_passes

        choose_passes(capabilities, without_passes)
        known = {each.name for each in choose_passes(capabilities)}
        for name in without_passes:
            if name not in known:
                say_unused(f"--without-pass {name}", f"{target} has no such pass")
    require_model(model)
    count = image_count(images, data, parsed_recipe.calibration_images)
    require_inputs(weights, data)
    path = out / f"{file_stem(model, parsed_recipe.name, target)}.onnx"
    require_writable(path, report_path(path))
    if data is not None and not parsed_recipe.needs_calibration:
        say_unused("--data", f"{parsed_recipe.name} needs no calibration")
        data = None
    if doubt := parsed_recipe.doubt_target(capabilities):
        output.print_message(f"note: {doubt}")
    missing = missing_builder(capabilities)
    if missing:
        output.print_message(f"note: {PREDICTED.format(target)}: {missing}")
    with PhaseProgress() as progress:
        progress.step(f"loading {model}")("torch, timm and weights", 0.0)
        from efficientquant import input_spec, quantize
        from efficientquant.artifact.export import render_onnx
        from efficientquant.checking import judge, judge_beside_twin

        created = open_model(model, weights, input_size)
        calibration = _open_data(data, input_spec(created), count, seed)
        report = progress.step(f"{parsed_recipe.name} for {target}")
        quantized = quantize(created, parsed_recipe, calibration, progress=report)
        rendered = render_onnx(quantized, path, target=target, progress=report, without_passes=without_passes or ())
        progress.step(f"checking what {capabilities.name} makes of it")
        if missing:
            verdict = judge(rendered.model, capabilities, predict_only=True)
        else:
            verdict = judge_beside_twin(rendered.model, quantized, created, capabilities, without_passes or ())
    if advice := faster_target(capabilities, verdict):
        output.print_message(f"note: {advice}")
    facts = artifact_facts(rendered.artifact, verdict) | {"model": model, "recipe": parsed_recipe.to_dict()}
    facts["without_passes"] = without_passes or []
    facts["notes"] = [*facts["notes"], *([PREDICTED.format(target)] if missing else [])]
    say_made(write_with_report(rendered, facts | {"provenance": quantized.provenance}))
    if as_json:
        output.print_json(facts)
    else:
        _print_facts(facts)


def missing_builder(target: "Target") -> str:
    """Return how to install the builder that is missing for a target.

    The sentence is empty when nothing is missing.
    """
    from efficientquant.errors import MissingExtraError
    from efficientquant.installation import require_builder

    try:
        require_builder(target)
    except MissingExtraError as error:
        return str(error)
    return ""


def faster_target(target: "Target", verdict: "BuildVerdict") -> str:
    """Return which target is faster on this CPU, or "".

    Signed weights gain nothing in a file without integer products.
    """
    from efficientquant.artifact import exact_products
    from efficientquant.targets import find_exact_twin
    from efficientquant.verdicts.build_verdict import count_int8

    twin = find_exact_twin(target)
    is_exact = exact_products.is_x86() and not exact_products.products_saturate()
    if twin is None or not is_exact or not count_int8(verdict.layers):
        return ""
    return f"this CPU has VNNI, where --for {twin.name} is faster"


def file_stem(model: str, recipe: str, target: str) -> str:
    """Return the artifact's file name without its ending.

    It has only characters that every file system accepts.
    """
    return re.sub(r"[^\w.+-]", "_", f"{model}-{recipe.replace('=', '-')}-{target}")


def artifact_facts(artifact: "Artifact", verdict: "BuildVerdict") -> dict[str, Any]:
    """Return the facts of an artifact and its verdict."""
    return {
        "path": str(artifact.path),
        "sha256": artifact.sha256,
        "size_bytes": artifact.size_bytes,
        "target": artifact.target,
        "opset": artifact.opset,
        "ir_version": artifact.ir_version,
        "builder_flags": list(artifact.builder_flags),
        "parity_max_abs": artifact.parity_max_abs,
        "bit_table": artifact.bit_table,
        "emulation": {kind: own._asdict() for kind, own in artifact.emulation.items()},
        "verdict": verdict.to_dict(),
        "notes": artifact.notes,
    }


def report_path(path: Path) -> Path:
    """Return the path of an artifact's report, in the same folder."""
    return path.with_suffix(".json")


def write_with_report(rendered: "Rendered", report: dict[str, Any]) -> list[Path]:
    """Write an artifact and its JSON report, both or neither.

    Returns the folders that were made.
    """
    from efficientquant.files.whole_files import write_together

    artifact = rendered.artifact
    text = json.dumps(report | {"manifest": artifact.manifest}, indent=1, ensure_ascii=False) + "\n"
    return write_together({report_path(artifact.path): text.encode(), artifact.path: rendered.content})


def _open_data(data: Path | None, spec: "InputSpec", images: int, seed: int) -> "ImageData | None":
    from efficientquant.images.data import open_images

    return None if data is None else open_images(data, spec, split="train").sample(images, seed)


def _print_facts(facts: dict[str, Any]) -> None:
    verdict = facts["verdict"]
    table = output.new_table("what", "found")
    table.add_row("file", f"{facts['path']} ({facts['size_bytes'] / 2**20:.2f} MiB, opset {facts['opset']})")
    table.add_row("report", str(report_path(Path(facts["path"]))))
    table.add_row("SHA-256", facts["sha256"])
    table.add_row("max |Δ| to the eager model", f"{facts['parity_max_abs']:.1e}")
    table.add_row("bits", "; ".join(f"{name}: {bits}" for name, bits in facts["bit_table"].items()))
    if facts["builder_flags"]:
        table.add_row("builder flags", ", ".join(facts["builder_flags"]))
    table.add_row(f"on {facts['target']}", f"{verdict['outcome']} ({verdict['basis']}, {verdict['runtime']})")
    table.add_row("what it buys there", verdict["gain"])
    output.stdout_console().print(table)
    print_comparison(verdict)
    for note in facts["notes"]:
        output.print_line(f"note: {note}")
