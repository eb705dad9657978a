"""The one verb: quantize a model by a recipe, and keep a record of everything that was done."""

import dataclasses
from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, fx, nn

from efficientquant import primitives
from efficientquant.bits import bit_table
from efficientquant.calibration import (
    DEFAULT_IMAGES,
    CalibrationData,
    CalibrationImages,
    Progress,
    collect_images,
    run_calibration,
)
from efficientquant.capture import call_nodes, capture, fold_batch_norm, get_tensor
from efficientquant.graph_edits import Site, find_sites, insert_behind, observing, replace_parameter
from efficientquant.half import HalfInterpreter
from efficientquant.manifest import operator_of
from efficientquant.models import InputSpec, checkpoint_notes, input_spec, synthetic_images
from efficientquant.observers import MagnitudeObserver, RangeObserver
from efficientquant.primitives import DataFreeLog2, Log2Parameters, top_code
from efficientquant.quantizers import ActivationQuantizer, Log2Quantizer, LogitQuantizer, WeightDequantizer
from efficientquant.recipe import (
    FloatType,
    Granularity,
    IdentificationRule,
    Log2Emulation,
    Log2Form,
    RangeRule,
    Recipe,
    Scope,
)
from efficientquant.structure import SOFTMAX, ActivationSite, Manifest, build_manifest, find_weights

if TYPE_CHECKING:
    import onnx_ir as ir

WEIGHT_GATE_DB = 38.0
CHANNEL_GATE_DB = 35.0


@dataclasses.dataclass(frozen=True)
class QuantizedWeight:
    """int8 codes (O, ...) and their float32 scale, broadcastable against them."""

    codes: Tensor
    scale: Tensor


@dataclasses.dataclass(frozen=True)
class QuantizedModel:
    """A fake-quantized model that runs eagerly, with the evidence of what was done to it.

    `module` computes in float32 with the quantizers in it; calling the model computes as the recipe says, in FP16
    too.
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
        """Return how many bits each class of tensors has: what every accuracy figure has to be read with."""
        return bit_table(self.manifest, self.recipe.float_type)

    @cached_property
    def canonical(self) -> "ir.Model":
        """The model as the ONNX exporter gives it, quantizers as markers: what every variant is lowered from."""
        from efficientquant.tracing import trace

        return trace(self.module, self.input_spec.shape)


class Quantization:
    """A quantization in progress: what a recipe's `apply` works on."""

    def __init__(self, model: nn.Module, images: CalibrationData | None, progress: Progress | None) -> None:
        self.spec = input_spec(model)
        self.progress = progress
        self.notes: list[str] = checkpoint_notes(model)
        self.weights: dict[str, QuantizedWeight] = {}
        self.provenance: dict[str, Any] = {}
        self._given = images
        self._images: CalibrationImages | None = None
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

    def find_weights(self, scope: Scope, rule: IdentificationRule) -> list[str]:
        """Return the names of the weights in scope that are still in float."""
        found = find_weights(self._model, self.graph, scope, rule)
        return [name for name in found if name not in self.weights]

    def quantize_weights(
        self,
        scope: Scope,
        bits: int,
        granularity: Granularity,
        rule: IdentificationRule = IdentificationRule.GRAPH,
    ) -> None:
        """Quantize every weight in scope; say so where there is none."""
        names = self.find_weights(scope, rule)
        if not names:
            self.notes.append(f"the model has no weight in scope {scope.value!r}: nothing to quantize there")
        for name in names:
            self.quantize_weight(name, bits, granularity)

    def quantize_weight(self, name: str, bits: int, granularity: Granularity) -> None:
        """Replace a weight (O, ...) by symmetric codes and a dequantizer, and record its SQNR."""
        weight = get_tensor(self.graph, name).detach()
        scale = primitives.choose_scale(weight, bits, granularity)
        codes = primitives.quantize(weight, scale, bits)
        approximation = primitives.dequantize(codes, scale)
        replace_parameter(self.graph, name, f"{name}_dequantizer", WeightDequantizer(codes, scale))
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

    def quantize_activations(self, scope: Scope, bits: int, output_bits: int | None, rule: RangeRule) -> None:
        """Quantize what goes into everything in scope, and what comes out unless `output_bits` is None.

        Calibration on the float model finds the ranges, so this comes before the weights.
        """
        names = self.find_weights(scope, IdentificationRule.GRAPH)
        sites = find_sites(self.graph, scope, names, outputs=output_bits is not None)
        with observing(self.graph, [site.source for site in sites], MagnitudeObserver) as observers:
            run_calibration(self.graph, self._calibration_images(), self.progress)
        for index, (site, observer) in enumerate(zip(sites, observers, strict=True)):
            chosen = bits if site.consumers or output_bits is None else output_bits
            self._quantize_activation(
                f"activation_quantizer_{index}", site, chosen, observer.choose_range(rule, chosen)
            )

    def _quantize_activation(self, name: str, site: Site, bits: int, largest: float) -> None:
        quantizer = ActivationQuantizer(name, largest / top_code(bits) if largest > 0 else 1.0, bits)
        insert_behind(self.graph, site.source, name, quantizer, site.readers)
        entry = ActivationSite(
            node=site.source.name,
            quantizer=name,
            consumers=tuple(sorted({operator_of(consumer) for consumer in site.consumers})),
            producer=operator_of(site.source) if site.is_output else "",
            bits=bits,
            scale=quantizer.scale,
        )
        self.manifest.activation_sites.append(entry)

    def quantize_softmax(
        self, bits: int, form: Log2Form, epsilon: float, octaves: int, emulation: Log2Emulation
    ) -> None:
        """Put a log2 quantizer behind every softmax; form A is calibrated on the images first."""
        sites = call_nodes(self.graph, *SOFTMAX)
        if not sites:
            self.notes.append("the model has no softmax: the log2 part of the recipe did nothing")
            return
        parameters: list[Log2Parameters]
        if form is Log2Form.CALIBRATED:
            with observing(self.graph, sites, RangeObserver) as observers:
                run_calibration(self.graph, self._calibration_images(), self.progress)
            parameters = [primitives.choose_log2_parameters(o.smallest, o.largest, bits, epsilon) for o in observers]
        else:
            parameters = [DataFreeLog2(bits=bits, octaves=octaves) for _ in sites]
        for index, (site, codec) in enumerate(zip(sites, parameters, strict=True)):
            name = f"log2_quantizer_{index}"
            if emulation is Log2Emulation.MOVE:
                insert_behind(self.graph, cast(fx.Node, site.args[0]), name, LogitQuantizer(name, codec.step), [site])
            else:
                dropped = emulation is Log2Emulation.DROP
                insert_behind(self.graph, site, name, Log2Quantizer(name, codec, dropped=dropped))
            self._update_site(
                index, bits=bits, form=form.value, emulation=emulation.value, quantizer=dataclasses.asdict(codec)
            )

    def _calibration_images(self) -> CalibrationImages:
        if self._images is None:
            self._images = self._load_images()
        return self._images

    def _load_images(self) -> CalibrationImages:
        if self._given is None:
            self.notes.append(f"calibrated on {DEFAULT_IMAGES} synthetic images, since no data were given")
        given = synthetic_images(self.spec, DEFAULT_IMAGES) if self._given is None else self._given
        images = collect_images(given, self.spec)
        self.notes += images.notes
        source = "synthetic" if self._given is None else "given"
        calibration = {"source": source, "images": len(images), "sha256": images.sha256}
        if images.provenance is not None:
            calibration["data"] = images.provenance
        self.provenance["calibration"] = calibration
        return images

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
