"""What a recipe's `apply` works on: the captured graph of a model, and every edit that quantizes it."""

import dataclasses
from typing import Any, cast

from torch import Tensor, fx, nn

from efficientquant import primitives
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
from efficientquant.manifest import operator_of
from efficientquant.models import checkpoint_notes, input_spec, synthetic_images
from efficientquant.observers import MagnitudeObserver, RangeObserver
from efficientquant.options import Granularity, IdentificationRule, Log2Emulation, Log2Form, RangeRule, Scope
from efficientquant.primitives import DataFreeLog2, Log2Parameters, top_code
from efficientquant.quantizers import ActivationQuantizer, Log2Quantizer, LogitQuantizer, WeightDequantizer
from efficientquant.structure import SOFTMAX, ActivationSite, build_manifest, find_weights


@dataclasses.dataclass(frozen=True)
class QuantizedWeight:
    """int8 codes (O, ...) and their float32 scale, broadcastable against them."""

    codes: Tensor
    scale: Tensor


class Workbench:
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
