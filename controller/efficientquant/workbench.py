"""The workbench that a recipe's `apply` edits."""

import dataclasses
from typing import cast

from torch import Tensor, fx, nn

from efficientquant import primitives
from efficientquant.blocks import Layer, Tap
from efficientquant.calibration import CalibrationData, Progress
from efficientquant.capture import call_nodes, get_tensor, parameter_name, set_tensor, use_bias
from efficientquant.errors import RecipeOrderError
from efficientquant.graph_edits import (
    Site,
    copy_graph,
    find_sites,
    insert_at_operand,
    insert_behind,
    replace_parameter,
)
from efficientquant.manifest import ActivationSite, operator_of
from efficientquant.networks import Networks
from efficientquant.observers import MagnitudeObserver, RangeObserver
from efficientquant.options import Granularity, IdentificationRule, Log2Emulation, Log2Form, Network, RangeRule, Scope
from efficientquant.primitives import DataFreeLog2, Log2Parameters, top_code
from efficientquant.quantizers import (
    ActivationQuantizer,
    AffineQuantizer,
    CodeQuantizer,
    Log2Quantizer,
    LogitQuantizer,
    WeightDequantizer,
)
from efficientquant.roles import PRODUCTS, SOFTMAX, WEIGHTED
from efficientquant.structure import find_weights


@dataclasses.dataclass(frozen=True)
class QuantizedWeight:
    """int8 codes (O, ...), their float32 scale and maybe int8 zero-points.

    Scale and zero-points broadcast against the codes, or are (O, groups) where there is a `group_size`: a group is
    that many consecutive columns of the codes as (O, columns).
    """

    codes: Tensor
    scale: Tensor
    zero_point: Tensor | None = None
    group_size: int | None = None


class Workbench(Networks):
    """A quantization in progress.

    A recipe edits `graph`, and the manifest records each edit. Activations come before weights: once a weight is
    quantized, calibration has to name its network.
    """

    def __init__(self, model: nn.Module, images: CalibrationData | None, progress: Progress | None) -> None:
        super().__init__(model, images, progress)
        self.weights: dict[str, QuantizedWeight] = {}
        self._float_manifest = self.manifest.copy()
        self._sites: dict[Tap, str] = {}

    def find_weights(self, scope: Scope, rule: IdentificationRule = IdentificationRule.GRAPH) -> list[str]:
        """Return the names of the float weights in scope, in execution order."""
        found = find_weights(self._model, self.graph, scope, rule)
        return [name for name in found if name not in self.weights]

    def parameter(self, name: str) -> Tensor:
        """Return a parameter in float: a quantized weight as it was before."""
        return self._float_weights[name] if name in self.weights else get_tensor(self.graph, name).detach()

    def bias(self, layer: Layer) -> Tensor | None:
        """Return a layer's bias (O,), or None."""
        name = self._bias_name(layer)
        return None if name is None else get_tensor(self.graph, name).detach()

    def quantize_weights(
        self,
        scope: Scope,
        bits: int,
        granularity: Granularity,
        rule: IdentificationRule = IdentificationRule.GRAPH,
    ) -> None:
        """Quantize every weight in scope, or note that there is none."""
        names = self.find_weights(scope, rule)
        if not names:
            self.notes.append(f"the model has no weight in scope {scope.value!r}: nothing to quantize there")
        for name in names:
            self.quantize_weight(name, bits, granularity)

    def quantize_weight(self, name: str, bits: int, granularity: Granularity) -> None:
        """Round a weight (O, ...) to symmetric codes and record its SQNR."""
        weight = self.parameter(name)
        scale = primitives.choose_scale(weight, bits, granularity)
        quantized = QuantizedWeight(primitives.quantize(weight, scale, bits), scale)
        self._place_weight(name, quantized, bits, granularity.value)

    def set_weight(
        self,
        name: str,
        codes: Tensor,
        scale: Tensor,
        zero_point: Tensor | None = None,
        *,
        bits: int,
        group_size: int | None = None,
    ) -> None:
        """Replace a weight by int8 codes (O, ...) and record its SQNR.

        `scale` has one element, O, or (O, groups) where groups of `group_size` consecutive columns of the weight as
        (O, columns) share one; a convolution's columns are im2col's. `zero_point` has the scale's shape and is
        signed: an unsigned one less 2^(bits-1). A weight may be set again. Raises ValueError.
        """
        weight = self.parameter(name)
        half = 1 << (bits - 1)
        primitives.require_codes(codes, weight.shape, -half, half - 1)
        scale = primitives.require_scales(scale, axis=0).reshape(scale.shape)
        scale = primitives.shape_scale(scale, weight.shape, group_size)
        if zero_point is not None:
            zero_point = primitives.shape_scale(zero_point.detach(), weight.shape, group_size)
            primitives.require_codes(zero_point, scale.shape, -half, half - 1)
        granularity = "per-tensor" if scale.numel() == 1 else "per-channel"
        granularity = granularity if group_size is None else f"groups of {group_size}"
        self._place_weight(name, QuantizedWeight(codes, scale, zero_point, group_size), bits, granularity)

    def set_bias(self, layer: Layer, value: Tensor) -> None:
        """Replace the bias (O,) of a layer, or add one."""
        node = self._node(layer.node)
        name = self._bias_name(layer)
        if name is None:
            owner = layer.weight.rpartition(".")[0]
            taken = hasattr(self.graph.get_submodule(owner), "bias")
            name = ".".join(filter(None, (owner, f"{layer.node}_bias" if taken else "bias")))
            set_tensor(self.graph, name, value.detach())
            use_bias(self.graph, node, name)
        else:
            set_tensor(self.graph, name, value.detach())

    def set_parameter(self, name: str, value: Tensor) -> None:
        """Replace a float parameter, as a reparameterization does.

        Raises RecipeOrderError for a quantized weight, ValueError for another shape.
        """
        if name in self.weights:
            raise RecipeOrderError(f"{name} is already quantized; change it before")
        if value.shape != self.parameter(name).shape:
            raise ValueError(f"{name} has shape {tuple(self.parameter(name).shape)}, not {tuple(value.shape)}")
        set_tensor(self.graph, name, value.detach())

    def reset(self) -> None:
        """Remove every edit: `graph` and manifest become new ones, as captured."""
        self.graph = copy_graph(self._float_graph)
        self.manifest = self._float_manifest.copy()
        self.weights.clear()
        self._float_weights.clear()
        self._sites.clear()

    def quantize_activation(
        self, tap: Tap, bits: int, scale: float | Tensor, zero_point: int | None = None, axis: int | None = None
    ) -> None:
        """Quantize the tensor at a tap.

        Symmetric without a zero-point. A zero-point is signed: an unsigned one less 2^(bits-1). `scale` has one
        element, or one for each index of dimension `axis`. A tap may be quantized again. Raises ValueError.
        """
        scales = primitives.require_scales(scale, axis)
        half = 1 << (bits - 1)
        if not -half <= (zero_point or 0) < half:
            raise ValueError(f"zero-point {zero_point} of {bits} bits; {-half} to {half - 1} are possible")
        name = self._sites.get(tap, f"activation_quantizer_{len(self.manifest.activation_sites)}")
        quantizer: CodeQuantizer = ActivationQuantizer(name, float(scales[0]), bits)
        if zero_point is not None or axis is not None:
            quantizer = AffineQuantizer(name, scales, bits, zero_point or 0, axis)
        readers = self.insert_quantizer(tap, quantizer)
        source = self._node(tap.node)
        entry = ActivationSite(
            node=self._source_of(tap),
            quantizer=name,
            consumers=tuple(sorted({operator_of(n) for n in readers if n.target in (*WEIGHTED, *PRODUCTS)})),
            producer=operator_of(source) if tap.operand is None and source.target in WEIGHTED else "",
            bits=bits,
            scale=float(scales[0]) if axis is None else tuple(scales.tolist()),
            zero_point=zero_point,
            axis=axis,
        )
        sites = self.manifest.activation_sites
        sites[:] = [site for site in sites if site.quantizer != name] + [entry]

    def insert_quantizer(self, tap: Tap, quantizer: CodeQuantizer) -> list[fx.Node]:
        """Insert any quantizer at a tap and return its readers.

        The manifest does not record it. Its `site` names it in the graph: use the same site to replace the quantizer of
        a tap. Raises ValueError for a site that another tap has.
        """
        if self._sites.get(tap) == quantizer.site:
            self.graph.set_submodule(quantizer.site, quantizer)
        elif tap in self._sites or quantizer.site in dict(self.graph.named_children()):
            raise ValueError(f"{quantizer.site!r} is not free, or {tap} has the quantizer {self._sites.get(tap)!r}")
        elif tap.operand is None:
            insert_behind(self.graph, self._node(tap.node), quantizer.site, quantizer)
        else:
            insert_at_operand(self.graph, self._node(tap.node), tap.operand, quantizer.site, quantizer)
        self._sites[tap] = quantizer.site
        return list(self._node(quantizer.site).users)

    def quantize_activations(
        self, scope: Scope, bits: int, output_bits: int | None, rule: RangeRule, *, on: Network | None = None
    ) -> None:
        """Quantize the inputs of everything in scope, and its outputs.

        `output_bits=None` leaves the outputs in float. Calibration finds the ranges, see `observe` for `on`. Raises
        RecipeOrderError.
        """
        names = self.find_weights(scope)
        sites = find_sites(self.graph, scope, names, outputs=output_bits is not None)
        observers = self.observe([Tap(site.source.name) for site in sites], MagnitudeObserver, on=on)
        for site, observer in zip(sites, observers, strict=True):
            chosen = bits if site.consumers or output_bits is None else output_bits
            self._quantize_site(site, chosen, observer.choose_range(rule, chosen))

    def _quantize_site(self, site: Site, bits: int, largest: float) -> None:
        name = f"activation_quantizer_{len(self.manifest.activation_sites)}"
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
        self,
        bits: int,
        form: Log2Form,
        epsilon: float,
        octaves: int,
        emulation: Log2Emulation,
        *,
        on: Network | None = None,
    ) -> None:
        """Put a log2 quantizer behind every softmax.

        Form A is calibrated first, see `observe` for `on`. Raises RecipeOrderError.
        """
        sites = call_nodes(self.graph, *SOFTMAX)
        if not sites:
            self.notes.append("the model has no softmax: the log2 part of the recipe did nothing")
            return
        parameters: list[Log2Parameters] = [DataFreeLog2(bits=bits, octaves=octaves) for _ in sites]
        if form is Log2Form.CALIBRATED:
            observers = self.observe([Tap(site.name) for site in sites], RangeObserver, on=on)
            parameters = [primitives.choose_log2_parameters(o.smallest, o.largest, bits, epsilon) for o in observers]
        for index, (site, codec) in enumerate(zip(sites, parameters, strict=True)):
            name = f"log2_quantizer_{index}"
            if emulation is Log2Emulation.MOVE:
                insert_behind(self.graph, cast(fx.Node, site.args[0]), name, LogitQuantizer(name, codec.step), [site])
            else:
                dropped = emulation is Log2Emulation.DROP
                insert_behind(self.graph, site, name, Log2Quantizer(name, codec, dropped=dropped))
            self.manifest.softmax_sites[index] = dataclasses.replace(
                self.manifest.softmax_sites[index],
                bits=bits,
                form=form.value,
                emulation=emulation.value,
                quantizer=dataclasses.asdict(codec),
                quantizer_name=name,
            )

    def _place_weight(self, name: str, quantized: QuantizedWeight, bits: int, granularity: str) -> None:
        """Replace a weight by a dequantizer and record its SQNR."""
        weight = self.parameter(name)
        dequantizer = WeightDequantizer(quantized.codes, quantized.scale, quantized.zero_point, quantized.group_size)
        if name in self.weights:
            self.graph.set_submodule(f"{name}_dequantizer", dequantizer)
        else:
            replace_parameter(self.graph, name, f"{name}_dequantizer", dequantizer)
        self._float_weights[name] = weight
        self.weights[name] = quantized
        approximation = dequantizer()
        channels = primitives.channel_sqnr_db(weight, approximation)
        worst = min(range(len(channels)), key=channels.__getitem__)
        self._update(
            name,
            bits=bits,
            granularity=granularity,
            is_symmetric=quantized.zero_point is None,
            sqnr_db=primitives.sqnr_db(weight, approximation),
            worst_channel_db=channels[worst],
            worst_channel=worst,
        )

    def _node(self, name: str) -> fx.Node:
        return Tap(name).find(self.graph)

    def _source_of(self, tap: Tap) -> str:
        """Return the name of the node that a tap's quantizer reads."""
        (source,) = self._node(self._sites[tap]).all_input_nodes
        return source.name

    def _bias_name(self, layer: Layer) -> str | None:
        arguments = self._node(layer.node).args
        return parameter_name(arguments[2]) if len(arguments) > 2 else None
