"""The one verb: quantize a model by a recipe, and keep a record of everything that was done."""

import dataclasses
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, fx, nn

from efficientquant import primitives
from efficientquant.calibration import CalibrationData, Progress, collect_images, hash_images, run_calibration
from efficientquant.capture import call_nodes, capture, fold_batch_norm, get_tensor, set_tensor
from efficientquant.models import InputSpec, input_spec, synthetic_images
from efficientquant.observers import RangeObserver
from efficientquant.primitives import DataFreeLog2, Log2Parameters
from efficientquant.recipe import Granularity, IdentificationRule, Log2Form, Recipe
from efficientquant.structure import SOFTMAX, Manifest, build_manifest, find_convolutions

WEIGHT_GATE_DB = 38.0
CHANNEL_GATE_DB = 35.0
DEFAULT_IMAGES = 32


@dataclasses.dataclass(frozen=True)
class QuantizedWeight:
    """int8 codes (O, ...) and their float32 scale, broadcastable against them."""

    codes: Tensor
    scale: Tensor


@dataclasses.dataclass(frozen=True)
class QuantizedModel:
    """A fake-quantized model that runs eagerly, with the evidence of what was done to it."""

    module: fx.GraphModule
    recipe: Recipe
    input_spec: InputSpec
    weights: dict[str, QuantizedWeight]
    manifest: Manifest
    notes: list[str]
    provenance: dict[str, Any]


class Log2Quantizer(nn.Module):
    """Rounds post-softmax probabilities to their log2 codes and back."""

    def __init__(self, codec: Log2Parameters) -> None:
        super().__init__()
        self.codec = codec

    def forward(self, probabilities: Tensor) -> Tensor:
        """Return the fake-quantized probabilities, in the same shape."""
        return self.codec.dequantize(self.codec.quantize(probabilities))


class Quantization:
    """A quantization in progress: what a recipe's `apply` works on."""

    def __init__(self, model: nn.Module, images: CalibrationData | None, progress: Progress | None) -> None:
        self.spec = input_spec(model)
        self.progress = progress
        self.notes: list[str] = []
        self.weights: dict[str, QuantizedWeight] = {}
        self.provenance: dict[str, Any] = {}
        self._images = images
        self._model = model
        self.report("capture", 0.0)
        self.graph = capture(model, self.spec.shape)
        self.manifest = build_manifest(model, self.graph)
        for name, weight in fold_batch_norm(self.graph).items():
            self._update(name, folded_into=weight)
        self.report("capture", 1.0)

    def report(self, phase: str, fraction: float) -> None:
        """Tell the caller how far a phase is."""
        if self.progress is not None:
            self.progress(phase, fraction)

    def convolutions(self, rule: IdentificationRule) -> list[str]:
        """Return the weight names of the convolutions that the rule finds."""
        return find_convolutions(self._model, self.graph, rule)

    def quantize_weight(self, name: str, bits: int, granularity: Granularity) -> None:
        """Replace a weight (O, ...) by its symmetric fake-quantized self and record its SQNR."""
        weight = get_tensor(self.graph, name).detach()
        scale = primitives.choose_scale(weight, bits, granularity)
        codes = primitives.quantize(weight, scale, bits)
        approximation = primitives.dequantize(codes, scale)
        set_tensor(self.graph, name, approximation)
        self.weights[name] = QuantizedWeight(codes=codes, scale=scale)
        channels = primitives.channel_sqnr_db(weight, approximation)
        worst = min(range(len(channels)), key=channels.__getitem__)
        self._update(
            name,
            bits=bits,
            granularity=granularity.value,
            sqnr_db=primitives.sqnr_db(weight, approximation),
            worst_channel_db=channels[worst],
            worst_channel=worst,
        )

    def quantize_softmax(self, bits: int, form: Log2Form, epsilon: float, octaves: int) -> None:
        """Put a log2 quantizer behind every softmax; form A is calibrated on the images first."""
        sites = call_nodes(self.graph, *SOFTMAX)
        if not sites:
            self.notes.append("the model has no softmax: the log2 part of the recipe did nothing")
            return
        parameters: list[Log2Parameters]
        if form is Log2Form.CALIBRATED:
            observers = self._observe(sites)
            parameters = [primitives.choose_log2_parameters(o.smallest, o.largest, bits, epsilon) for o in observers]
        else:
            parameters = [DataFreeLog2(bits=bits, octaves=octaves) for _ in sites]
        for index, (site, quantizer) in enumerate(zip(sites, parameters, strict=True)):
            self._insert_behind(site, f"log2_quantizer_{index}", Log2Quantizer(quantizer))
            self._update_site(index, bits=bits, form=form.value, quantizer=dataclasses.asdict(quantizer))

    def _observe(self, sites: list[fx.Node]) -> list[RangeObserver]:
        """Run the calibration images with an observer behind each site, and take the observers out again."""
        observers = [RangeObserver() for _ in sites]
        nodes = [
            self._insert_behind(s, f"observer_{i}", o) for i, (s, o) in enumerate(zip(sites, observers, strict=True))
        ]
        run_calibration(self.graph, self._calibration_images(), self.progress)
        for index, (site, node) in enumerate(zip(sites, nodes, strict=True)):
            node.replace_all_uses_with(site)
            self.graph.graph.erase_node(node)
            delattr(self.graph, f"observer_{index}")
        return observers

    def _calibration_images(self) -> Tensor:
        if self._images is None:
            images = synthetic_images(self.spec, DEFAULT_IMAGES)
            self.notes.append(f"calibrated on {DEFAULT_IMAGES} synthetic images, since no data were given")
        else:
            images = collect_images(self._images, self.spec)
        source = "synthetic" if self._images is None else "given"
        self.provenance["calibration"] = {"source": source, "images": len(images), "sha256": hash_images(images)}
        return images

    def _insert_behind(self, site: fx.Node, name: str, module: nn.Module) -> fx.Node:
        self.graph.add_submodule(name, module)
        with self.graph.graph.inserting_after(site):
            node = self.graph.graph.call_module(name, (site,))
        site.replace_all_uses_with(node, delete_user_cb=lambda user: user is not node)
        self.graph.recompile()
        return node

    def _update(self, name: str, **changes: Any) -> None:
        self.manifest.entries[name] = dataclasses.replace(self.manifest.entries[name], **changes)

    def _update_site(self, index: int, **changes: Any) -> None:
        self.manifest.softmax_sites[index] = dataclasses.replace(self.manifest.softmax_sites[index], **changes)


def quantize(
    model: nn.Module, recipe: Recipe, data: CalibrationData | None = None, *, progress: Progress | None = None
) -> QuantizedModel:
    """Quantize a timm classifier by a recipe; the eager model is left as it was.

    `data` are normalized images (N, C, H, W), or batches of them; without any, a recipe that calibrates takes 32
    synthetic ones and its provenance says so. Raises CaptureError, CalibrationError, NonFiniteError.
    """
    quantization = Quantization(model, data, progress)
    with torch.no_grad():
        recipe.apply(quantization)
    quantization.graph.recompile()
    return QuantizedModel(
        module=quantization.graph,
        recipe=recipe,
        input_spec=quantization.spec,
        weights=quantization.weights,
        manifest=quantization.manifest,
        notes=quantization.notes + _gate_notes(quantization.manifest),
        provenance=quantization.provenance | {"recipe": recipe.to_dict(), "versions": _versions()},
    )


def _gate_notes(manifest: Manifest) -> list[str]:
    """Name every 8-bit weight below the gates: 38 dB, worst channel 35 dB."""
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
