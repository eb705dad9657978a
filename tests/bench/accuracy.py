"""Each recipe's loss of accuracy against FP32, on a trained hybrid.

The loss has the standard error of its estimate. EFFICIENTQUANT_TRAINED names a folder with mobilevit_xxs.safetensors
(64×64), calibration_512.npz and test_4000.npz. Without it the tests' own small model is used, on scikit-learn's
digits.
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
# Compensated rounding, which needs more images than the rest.
MAX_LOSS_COMPENSATED = {
    "efficientquant-w4": 0.005,
    "w4a8": 0.0075,
    "efficientquant-weights:scope=conv+linear:weight_bits=3:group_size=32": 0.01,
}
CALIBRATION_IMAGES = 32
BITS = {
    "efficientquant": ("weight_bits={0}",),
    "int8": ("weight_bits={0}", "activation_bits={0}", "output_bits={0}"),
}


class Trained(NamedTuple):
    """A model with its data and its title in the output."""

    title: str
    model: nn.Module
    test: ImageData
    calibration: ImageData


def measure(folder: Path) -> Iterator[Goal]:
    """Yield the goals, those of 8 bits for artifacts in ONNX Runtime.

    Then print the loss of 8, 6 and 4 bits with nearest rounding, per channel and per tensor.
    """
    trained = load(folder)
    goals = MAX_LOSS | MAX_LOSS_COMPENSATED
    recipes = [*goals, *variants()]
    subjects: list[object] = []
    for name in recipes:
        recipe = get_recipe(name)
        count = recipe.calibration_images if name in MAX_LOSS_COMPENSATED else CALIBRATION_IMAGES
        quantized = quantize(trained.model, recipe, trained.calibration.sample(count))
        subjects.append(export_onnx(quantized, folder / f"{name}.onnx") if name in MAX_LOSS else quantized)
    evaluations = evaluate_all(subjects, trained.test, reference=trained.model)
    fp32 = evaluations[0].reference_top1 or 0.0
    print(f"        {trained.title}: FP32 top-1 {fp32:.2%} of {evaluations[0].images} images", flush=True)
    for name, evaluation in zip(recipes, evaluations, strict=True):
        if name in goals:
            loss = -(evaluation.top1_change or 0.0)
            yield Goal(loss <= goals[name], f"{sentence(name, evaluation)} (goal: loses ≤ {goals[name]:.2%})")
        else:
            print(f"        {sentence(name, evaluation)}", flush=True)


def variants() -> list[str]:
    """Return the other widths and granularities of the 8-bit recipes."""
    return [
        ":".join([name, *(option.format(bits) for option in BITS[name]), f"granularity={granularity}:rounding=nearest"])
        for name in MAX_LOSS
        for bits in (8, 6, 4)
        for granularity in ("per-channel", "per-tensor")
        if (bits, granularity) != (8, "per-channel")
    ]


def load(folder: Path) -> Trained:
    """Load the trained model that the environment names, or the tests' own."""
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


def sentence(name: str, evaluation: Evaluation) -> str:
    """Return top-1 and its change with standard errors, and the bits."""
    top1, error = evaluation.top1, evaluation.top1_error
    change, change_error = evaluation.top1_change, evaluation.top1_change_error
    assert None not in (top1, error, change, change_error)
    bits = ", ".join(f"{kind} {width}" for kind, width in evaluation.bit_table.items())
    return (
        f"{name} ({evaluation.subject}): top-1 {top1 * 100:.2f} ± {error * 100:.2f} %, "
        f"{change * 100:+.2f} ± {change_error * 100:.2f} points against FP32; {bits}"
    )
