"""The script of `make compare`, which compares all methods on trained models.

Usage: python tests/bench/comparison.py FOLDER

Writes methods.json, methods.md and methods.svg into the folder. A stopped run continues where it stopped. The models
are those of the digits, and with EFFICIENTQUANT_TRAINED that of `accuracy.py`.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

sys.path[:0] = [str(Path(__file__).parent.parent / "fixtures/digits")]

import digits
import torch
from efficientquant.artifact.export import export_onnx
from efficientquant.errors import LoweringError
from efficientquant.evaluation import evaluate
from efficientquant.images.data import ImageData, open_images
from efficientquant.lowering import lower
from efficientquant.models import create_model, input_spec
from efficientquant.plots.drawing import BLUE, GREEN, GREY, ORANGE, RED, grid, new_figure, save_figure, styled
from efficientquant.quantization import QuantizedModel, quantize
from efficientquant.recipe import get_recipe
from efficientquant.targets import get_target
from torch import nn

TARGETS = ("onnxruntime", "rtx-3080", "agx-xavier", "jetson-nano")
BITS = (8, 6, 4)
# The recipe of each row, without its bits.
METHODS = {
    "min-max": "int8:range_rule=minmax:output_bits=none:rounding=nearest",
    "efficientquant": "efficientquant:rounding=nearest",
    "int8": "int8:output_bits=none:rounding=nearest",
    "easyquant": "easyquant",
    "ptq4vit": "ptq4vit",
    "ptq4vit, convolution inputs too": "ptq4vit:conv_inputs=true",
    "repq-vit": "repq-vit",
    "q-hyvit": "q-hyvit",
    "hyq": "hyq",
}
# The marks of the picture's axis, which is linear from -1 to 1 point and logarithmic below.
TICKS = (1, 0, -1, -3, -10, -30, -100)
COLOURS = (GREY, BLUE, "#000000", ORANGE, GREEN, "#56B4E9", RED, "#CC79A7", "#F0E442")


class Trained(NamedTuple):
    """A trained model with its images."""

    name: str
    model: nn.Module
    calibration: ImageData
    test: ImageData


def main(folder: Path) -> int:
    """Measure what is missing, then write the table and the picture."""
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    stored = folder / "methods.json"
    rows: list[dict[str, Any]] = json.loads(stored.read_text()) if stored.exists() else []
    known = {(row["model"], row["method"], row["bits"]) for row in rows}
    with tempfile.TemporaryDirectory() as scratch:
        cells = [
            (trained, method, bits)
            for trained in models(Path(scratch))
            for bits in BITS
            for method in METHODS
            if (trained.name, method, bits) not in known
        ]
        begin_s = time.monotonic()
        for done, (trained, method, bits) in enumerate(cells):
            elapsed_s = time.monotonic() - begin_s
            left = f", about {elapsed_s / done * (len(cells) - done) / 60:.0f} min left" if done else ""
            print(f"{done}/{len(cells)} {trained.name}: {method}, {bits} bits{left}", flush=True)
            rows.append(measure(trained, method, bits, Path(scratch)))
            stored.write_text(json.dumps(rows, indent=1) + "\n")
    (folder / "methods.md").write_text(table(rows))
    draw(rows, folder / "methods.svg")
    print((folder / "methods.md").read_text())
    return 0


def models(scratch: Path) -> Iterator[Trained]:
    """Yield the trained models."""
    given = os.environ.get("EFFICIENTQUANT_TRAINED")
    if given:
        place = Path(given)
        model = create_model("mobilevit_xxs", place / "mobilevit_xxs.safetensors", input_size=64)
        yield with_images("mobilevit_xxs, CIFAR-10", model, place / "calibration_512.npz", place / "test_4000.npz")
    digits.save_npz(scratch)
    for name, weights in ((digits.MODEL, digits.WEIGHTS), (digits.MODEL_V2, digits.WEIGHTS_V2)):
        yield with_images(name, create_model(name, weights), scratch / "train.npz", scratch / "test.npz")


def with_images(name: str, model: nn.Module, calibration: Path, test: Path) -> Trained:
    """Return a model with images from two files."""
    spec = input_spec(model)
    return Trained(name, model, open_images(calibration, spec), open_images(test, spec))


def recipe_name(method: str, bits: int) -> str:
    """Return the recipe of a row at a width."""
    name = METHODS[method]
    widths = f"weight_bits={bits}" if method == "efficientquant" else f"weight_bits={bits}:activation_bits={bits}"
    return f"{name}:{widths}"


def measure(trained: Trained, method: str, bits: int, scratch: Path) -> dict[str, Any]:
    """Return the facts of one cell.

    The points are those of the eager model against FP32. The size is that of the file for ONNX Runtime.
    """
    recipe = get_recipe(recipe_name(method, bits))
    begin_s = time.process_time()
    drawn = trained.calibration.sample(recipe.calibration_images) if recipe.needs_calibration else None
    quantized = quantize(trained.model, recipe, drawn)
    cpu_s = time.process_time() - begin_s
    evaluation = evaluate(quantized, trained.test, reference=trained.model)
    artifact = export_onnx(quantized, scratch / "artifact.onnx", target="onnxruntime")
    return {
        "model": trained.name,
        "method": method,
        "bits": bits,
        "recipe": recipe.name,
        "reference_top1": evaluation.reference_top1,
        "change": evaluation.top1_change,
        "change_error": evaluation.top1_change_error,
        "images": evaluation.images,
        "cpu_s": cpu_s,
        "size_bytes": artifact.size_bytes,
        "targets": [target for target in TARGETS if is_held(quantized, target)],
        "bit_table": evaluation.bit_table,
    }


def is_held(quantized: QuantizedModel, target: str) -> bool:
    """Tell whether a target can hold every quantizer."""
    try:
        lower(quantized.canonical, get_target(target), quantized.recipe, Path("artifact.onnx"))
    except LoweringError:
        return False
    return True


def table(rows: list[dict[str, Any]]) -> str:
    """Return the table of docs/results.md."""
    lines = []
    for model in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == model]
        lines += [
            f"{model}: FP32 {own[0]['reference_top1']:.2%} of {own[0]['images']} images.",
            "",
            "| method | W8A8 | W6A6 | W4A4 | CPU s | MiB | targets |",
            "|---|---|---|---|---|---|---|",
        ]
        for method in METHODS:
            cells = {row["bits"]: row for row in own if row["method"] == method}
            if len(cells) < len(BITS):
                continue
            points = " | ".join(f"{cells[b]['change'] * 100:+.2f} ± {cells[b]['change_error'] * 100:.2f}" for b in BITS)
            held = "all" if len(cells[8]["targets"]) == len(TARGETS) else ", ".join(cells[8]["targets"])
            size = f"{cells[8]['size_bytes'] / 2**20:.2f}"
            lines.append(f"| {method} | {points} | {cells[8]['cpu_s']:.0f} | {size} | {held} |")
        lines.append("")
    return "\n".join(lines)


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw accuracy against size, by model and width."""
    names = list(dict.fromkeys(row["model"] for row in rows))
    with styled():
        figure = new_figure(11, 2.8 * len(names) + 1, "Accuracy against size of the file for ONNX Runtime")
        axes = grid(figure, len(names), len(BITS), sharex="row", sharey=True)
        for name, line in zip(names, axes, strict=True):
            for bits, plot in zip(BITS, line, strict=True):
                for (method, _), colour in zip(METHODS.items(), COLOURS, strict=True):
                    for row in rows:
                        if (row["model"], row["bits"], row["method"]) == (name, bits, method):
                            plot.errorbar(
                                row["size_bytes"] / 2**20,
                                row["change"] * 100,
                                yerr=row["change_error"] * 100,
                                fmt="o",
                                color=colour,
                                label=method,
                            )
                plot.axhline(0, color=GREY, linewidth=0.8)
                plot.set_yscale("symlog", linthresh=1)
                plot.set_ylim(-120, 1.5)
                plot.set_yticks(TICKS, [f"{tick:+d}" if tick else "0" for tick in TICKS])
                plot.minorticks_off()
                plot.grid(axis="y", linewidth=0.4)
                plot.margins(x=0.12)
                plot.set_title(f"{name}, {bits} bits")
                plot.set_xlabel("file size, MiB")
            line[0].set_ylabel("points against FP32")
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4)
    save_figure(figure, [path])


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
