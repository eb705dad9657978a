"""The quantization of a model by a recipe, and its record."""

import dataclasses
from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn

from efficientquant.bits import bit_table
from efficientquant.graph.half import HalfInterpreter
from efficientquant.graph.structure import Manifest, find_float_convolutions
from efficientquant.images.calibration import CalibrationData, Progress
from efficientquant.models import InputSpec
from efficientquant.options import FloatType
from efficientquant.primitives import require_finite
from efficientquant.recipe import Recipe
from efficientquant.sites.accumulators import find_scale_changes
from efficientquant.workbench import QuantizedWeight, Workbench

if TYPE_CHECKING:
    import onnx_ir as ir

WEIGHT_GATE_DB = 38.0
CHANNEL_GATE_DB = 35.0


@dataclasses.dataclass(frozen=True)
class QuantizedModel:
    """A fake-quantized model that runs eagerly, with its record.

    `module` computes in float32 with the quantizers in it. Calling the model computes in the recipe's float type.
    """

    module: fx.GraphModule
    recipe: Recipe
    input_spec: InputSpec
    weights: dict[str, QuantizedWeight]
    manifest: Manifest
    notes: list[str]
    provenance: dict[str, Any]

    def __call__(self, images: Tensor) -> Tensor:
        """Return the logits (N, classes) of normalized images (N, C, H, W)."""
        with torch.no_grad():
            if self.recipe.float_type is FloatType.FP16:
                logits: Tensor = HalfInterpreter(self.module).run(images)
            else:
                logits = self.module(images)
        return logits

    def bit_table(self) -> dict[str, str]:
        """Return the number of bits of each class of tensors.

        Report it with every accuracy.
        """
        return bit_table(self.manifest, self.recipe.float_type)

    @cached_property
    def canonical(self) -> "ir.Model":
        """The exported ONNX model, with quantizers as markers.

        Every variant is lowered from it.
        """
        from efficientquant.graph.tracing import trace

        return trace(self.module, self.input_spec.shape)


def quantize(
    model: nn.Module, recipe: Recipe, data: CalibrationData | None = None, *, progress: Progress | None = None
) -> QuantizedModel:
    """Quantize a timm classifier by a recipe.

    The eager model is not changed. `data` are normalized images (N, C, H, W), or batches of them. Without data, a
    recipe that calibrates takes synthetic images, and its provenance says so. Raises CaptureError, CalibrationError,
    DataError, NonFiniteError, and RecipeOrderError for a recipe whose steps are in a wrong order.
    """
    # Other buffers, such as attention masks, may well hold infinity.
    statistics = [pair for pair in model.named_buffers() if pair[0].endswith(("running_mean", "running_var"))]
    for name, tensor in (*model.named_parameters(), *statistics):
        require_finite(tensor, name)
    workbench = Workbench(model, data, progress)
    workbench.image_count = recipe.synthetic_images if data is None else recipe.calibration_images
    with torch.no_grad():
        recipe.apply(workbench)
        accumulator_notes = _fit_accumulators(workbench)
    workbench.graph.recompile()
    return QuantizedModel(
        module=workbench.graph,
        recipe=recipe,
        input_spec=workbench.spec,
        weights=workbench.weights,
        manifest=workbench.manifest,
        notes=workbench.notes + accumulator_notes + _float_notes(workbench) + _gate_notes(workbench.manifest),
        provenance=workbench.provenance | {"recipe": recipe.to_dict(), "versions": _versions()},
    )


def _fit_accumulators(workbench: Workbench) -> list[str]:
    """Raise weight scales that are too small for biases, and return notes."""
    notes = []
    for dequantizer, change in find_scale_changes(workbench.graph).items():
        name = dequantizer.removesuffix("_dequantizer")
        bits, zero_point = workbench.manifest.entries[name].bits, workbench.weights[name].zero_point
        workbench.set_weight(name, change.codes, change.scale, zero_point, bits=bits)
        if change.raised:
            first, *others = change.raised
            where = f"channel {first} and {len(others)} others" if others else f"channel {first}"
            notes.append(
                f"{name}: the scale of {where} is raised, because the bias would overflow a 32-bit sum in steps of "
                "these tiny weights; the output is almost the bias alone"
            )
    return notes


def _float_notes(workbench: Workbench) -> list[str]:
    """Return a note for each kind of convolution that stays in float."""
    if not workbench.weights:
        return []
    return [
        f"{kind} stays in float in {len(modules)} places ({modules[0]} for instance): the only convolution that is "
        "quantized is conv2d with its padding as numbers"
        for kind, modules in find_float_convolutions(workbench.graph).items()
    ]


def _gate_notes(manifest: Manifest) -> list[str]:
    """Return a note for every 8-bit weight below a gate.

    The gates are 38 dB for the weight and 35 dB for its worst channel.
    """
    notes = []
    for entry in manifest.entries.values():
        if entry.bits != 8 or entry.sqnr_db is None or entry.worst_channel_db is None:
            continue
        if entry.sqnr_db < WEIGHT_GATE_DB:
            notes.append(f"{entry.parameter}: SQNR {entry.sqnr_db:.1f} dB is below {WEIGHT_GATE_DB:.0f} dB")
        if entry.worst_channel_db < CHANNEL_GATE_DB:
            where = f"{entry.parameter}: channel {entry.worst_channel}"
            notes.append(f"{where} has SQNR {entry.worst_channel_db:.1f} dB, below {CHANNEL_GATE_DB:.0f} dB")
    return notes


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("efficientquant", "onnx", "onnxruntime", "onnxscript", "timm", "torch")}
