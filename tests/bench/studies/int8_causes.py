"""What recipe int8 loses, by images, range rule, outputs and target.

Usage: python tests/bench/studies/int8_causes.py [PART]

PART is "development" (the default), every other test image, on which options may be chosen, or "final", the rest. The
model is that of `accuracy.py`. Prints a table in Markdown.
"""

import dataclasses
import itertools
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent))

from accuracy import load
from efficientquant.artifact.export import export_onnx
from efficientquant.evaluation import Evaluation, evaluate_all
from efficientquant.images.data import ImageData
from efficientquant.quantization import quantize
from efficientquant.recipe import get_recipe

IMAGES = (32, 128, 512)
RULES = ("mse", "percentile", "minmax")
OUTPUTS = ("8", "none")


def recipes() -> Iterator[tuple[str, int]]:
    """Yield each recipe with its number of calibration images."""
    for images, rule, bits in itertools.product(IMAGES, RULES, OUTPUTS):
        yield f"int8:range_rule={rule}:output_bits={bits}:rounding=nearest", images


def part_of(data: ImageData, part: str) -> ImageData:
    """Return every other image, beginning with the first or the second."""
    return dataclasses.replace(data, indices=data.indices[0 if part == "development" else 1 :: 2])


def row(name: str, images: int, evaluation: Evaluation) -> str:
    """Return a row of the table."""
    change, error, sqnr = evaluation.top1_change, evaluation.top1_change_error, evaluation.sqnr_db
    assert None not in (change, error, sqnr)
    return f"| `{name}` | {images} | {change * 100:+.2f} ± {error * 100:.2f} | {sqnr:.1f} |"


def main() -> None:
    """Print the table."""
    part = sys.argv[1] if len(sys.argv) > 1 else "development"
    with tempfile.TemporaryDirectory() as folder:
        trained = load(Path(folder))
        test = part_of(trained.test, part)
        rows = list(recipes())
        print(f"{trained.title}, {part}, {len(test)} images")
        print("| recipe | images | points | SQNR of the logits (dB) |\n|---|---|---|---|", flush=True)
        for name, images in rows:
            quantized = quantize(trained.model, get_recipe(name), trained.calibration.sample(images))
            [evaluation] = evaluate_all([quantized], test, reference=trained.model)
            print(row(name, images, evaluation), flush=True)
        artifact = export_onnx(
            quantize(trained.model, get_recipe("int8"), trained.calibration.sample(256)),
            Path(folder, "int8.onnx"),
            target="rtx-3080",
        )
        [evaluation] = evaluate_all([artifact], test, reference=trained.model)
        print(row("int8, the file for rtx-3080", 256, evaluation))


if __name__ == "__main__":
    main()
