"""Accuracy on a really trained hybrid: what each recipe loses against FP32, with the standard error of the estimate.

EFFICIENTQUANT_TRAINED names a folder with mobilevit_xxs.safetensors (64×64), calibration_512.npz and test_4000.npz;
without it the tests' own small model is taken, on scikit-learn's digits.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

sys.path.append(str(Path(__file__).parent.parent / "fixtures/digits"))

from efficientquant.artifact.export import export_onnx
from efficientquant.evaluation import Evaluation, evaluate_all
from efficientquant.images.data import ImageData, open_images
from efficientquant.models import create_model, input_spec
from efficientquant.quantization import quantize
from efficientquant.recipe import get_recipe
from goal import Goal
from torch import nn

MAX_LOSS = {"efficientquant": 0.003, "int8": 0.005}
CALIBRATION_IMAGES = 32
BITS = {
    "efficientquant": ("weight_bits={0}",),
    "int8": ("weight_bits={0}", "activation_bits={0}", "output_bits={0}"),
}


class Trained(NamedTuple):
    """A model with its data, and what to call it."""

    title: str
    model: nn.Module
    test: ImageData
    calibration: ImageData


def measure(folder: Path) -> Iterator[Goal]:
    """The two goals, for artifacts in ONNX Runtime; then 8, 6 and 4 bits, per channel and per tensor."""
    trained = load(folder)
    recipes = variants()
    subjects: list[object] = []
    for name in recipes:
        quantized = quantize(trained.model, get_recipe(name), trained.calibration.sample(CALIBRATION_IMAGES))
        subjects.append(export_onnx(quantized, folder / f"{name}.onnx") if name in MAX_LOSS else quantized)
    found = evaluate_all(subjects, trained.test, reference=trained.model)
    fp32 = found[0].reference_top1 or 0.0
    print(f"        {trained.title}: FP32 top-1 {fp32:.2%} of {found[0].images} images", flush=True)
    for name, evaluation in zip(recipes, found, strict=True):
        if name in MAX_LOSS:
            loss = -(evaluation.top1_change or 0.0)
            yield Goal(loss <= MAX_LOSS[name], f"{sentence(name, evaluation)} (goal: loses ≤ {MAX_LOSS[name]:.1%})")
        else:
            print(f"        {sentence(name, evaluation)}", flush=True)


def variants() -> list[str]:
    """The recipes of the goals first, then their other widths and granularities."""
    others = [
        ":".join([name, *(option.format(bits) for option in BITS[name]), f"granularity={granularity}"])
        for name in MAX_LOSS
        for bits in (8, 6, 4)
        for granularity in ("per-channel", "per-tensor")
        if (bits, granularity) != (8, "per-channel")
    ]
    return [*MAX_LOSS, *others]


def load(folder: Path) -> Trained:
    """The trained model that the environment names, or the tests' own."""
    given = os.environ.get("EFFICIENTQUANT_TRAINED")
    if given:
        place = Path(given)
        model = create_model("mobilevit_xxs", place / "mobilevit_xxs.safetensors", input_size=64)
        test, calibration = place / "test_4000.npz", place / "calibration_512.npz"
        title = "mobilevit_xxs at 64×64"
    else:
        import digits

        digits.save_npz(folder)
        model = create_model(digits.MODEL, digits.WEIGHTS)
        test, calibration = folder / "test.npz", folder / "train.npz"
        title = f"{digits.MODEL}, since EFFICIENTQUANT_TRAINED names no other trained model"
    spec = input_spec(model)
    return Trained(title, model, open_images(test, spec), open_images(calibration, spec))


def sentence(name: str, found: Evaluation) -> str:
    """Top-1 and its change, both with standard errors, and the bits that they were reached with."""
    assert None not in (found.top1, found.top1_error, found.top1_change, found.top1_change_error)
    bits = ", ".join(f"{kind} {width}" for kind, width in found.bit_table.items())
    return (
        f"{name} ({found.subject}): top-1 {found.top1 * 100:.2f} ± {found.top1_error * 100:.2f} %, "
        f"{found.top1_change * 100:+.2f} ± {found.top1_change_error * 100:.2f} points against FP32; {bits}"
    )
