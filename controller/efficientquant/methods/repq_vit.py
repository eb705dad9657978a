"""RepQ-ViT (Li et al. 2023): channels' scales moved into norms and weights."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal

from efficientquant import search
from efficientquant.options import Network
from efficientquant.recipe import Needs, Recipe, register

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from efficientquant.graph.blocks import Layer, Operator, Tap
    from efficientquant.search.percentiles import Form
    from efficientquant.sites.norms import NormSite
    from efficientquant.workbench import Workbench
    from efficientquant.workbench.recording import Feed

CONVOLUTION_INPUT_BITS = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class RepQViT(Recipe):
    """Affine weights per output channel and inputs per tensor, reparameterized behind norms.

    Ranges are set in execution order, each behind quantized operators, by the percentile with the smallest squared
    error. Behind a norm that layers alone read, `reparameterize` gives each channel its own scale, and moves the scales
    into norm and layers. `zero_point` is the common zero-point there: signed 0, or the mean of the channels'.
    `log_sqrt2` quantizes softmaxes with √2 between neighbouring values. `as_published` keeps one value more than its
    bits hold. `symmetric` leaves out all zero-points.
    """

    method: ClassVar[str] = "repq-vit"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = {
        "zero_point": {"reparameterize": True, "symmetric": False},
        "as_published": {"log_sqrt2": True},
    }

    weight_bits: int = 8
    activation_bits: int = 8
    reparameterize: bool = True
    log_sqrt2: bool = True
    percentiles: bool = True
    zero_point: Literal["signed-zero", "mean"] = "signed-zero"
    symmetric: bool = False
    as_published: bool = False
    seed: int = 0

    @property
    def summary(self) -> str:
        """The bits of weights and inputs."""
        return f"int{self.weight_bits} weights and int{self.activation_bits} inputs, channel scales moved into norms"

    @property
    def needs_calibration(self) -> bool:
        """True, since inputs get their ranges from images."""
        return True

    @property
    def tensorrt_variant(self) -> str:
        """The options without zero-points."""
        return "symmetric=true" if self.zero_point == "signed-zero" else "symmetric=true:zero_point=signed-zero"

    def apply(self, workbench: Workbench) -> None:
        """Set all ranges in one pass, in execution order."""
        calibration = _Calibration(workbench, self)
        actions = calibration.actions()
        places = {node.name: index for index, node in enumerate(workbench.graph.graph.nodes)}
        pending = sorted(actions, key=places.__getitem__, reverse=True)
        for step in workbench.walk():
            while pending and places[pending[-1]] <= places[step.block.output]:
                actions[pending.pop()](step.inputs[Network.QUANTIZED])
                workbench.report("set ranges", 1 - len(pending) / len(actions))


class _Calibration:
    """The quantization of operators, in the order in which they run."""

    def __init__(self, workbench: Workbench, recipe: RepQViT) -> None:
        self._workbench, self._recipe = workbench, recipe
        self._form: Form = "symmetric" if recipe.symmetric else "affine"
        self._folded: set[str] = set()  # the layers whose inputs are quantized with their norm
        # Known before the first edit, as are the sites.
        self._probabilities = set(workbench.attention_maps)
        softmaxes = {softmax.output.node for softmax in workbench.softmaxes} if recipe.log_sqrt2 else set()
        layers = [layer for block in workbench.blocks for layer in block.layers]
        self._behind_softmaxes = {layer.node for layer in layers if layer.input.find(workbench.graph).name in softmaxes}

    def actions(self) -> dict[str, Callable[[Feed], None]]:
        """Return each operator's action by its node, and note missing sites."""
        workbench, recipe = self._workbench, self._recipe
        actions: dict[str, Callable[[Feed], None]] = {}
        sites = search.find_norm_sites(workbench.graph) if recipe.reparameterize else []
        softmaxes = [softmax for softmax in workbench.softmaxes if softmax.operands]
        for site in sites:
            actions[site.norm.node] = partial(self._reparameterize, site)
        for layer in (layer for block in workbench.blocks for layer in block.layers):
            actions[layer.node] = partial(self._quantize_layer, layer)
        for product in workbench.products:
            actions[product.node] = partial(self._quantize_product, product)
        for index, softmax in enumerate(softmaxes):
            actions[softmax.node] = partial(self._quantize_softmax, softmax, f"log_sqrt2_{index}")
        if recipe.reparameterize and not sites:
            workbench.note_no_site("reparameterization", "norm that layers alone read")
        if not workbench.products:
            workbench.note_no_site("product ranges", "product of two activations")
        if not softmaxes:
            workbench.note_no_site("log-√2 quantization", "softmax")
        return actions

    def _reparameterize(self, site: NormSite, feed: Feed) -> None:
        """Turn a norm's scales per channel into one scale."""
        workbench, recipe = self._workbench, self._recipe
        bits = self._input_bits(site.layers[0])
        channels = search.choose_uniform(
            self._record([site.norm.output], feed)[0].T.contiguous(), bits, "free", percentiles=recipe.percentiles
        )
        scales = search.ChannelScales.of(channels.scale, channels.low, bits, mean=recipe.zero_point == "mean")
        scales.apply(workbench, site)
        zero_point = scales.common_zero_point - (1 << (bits - 1))
        for layer in site.layers:
            workbench.quantize_activation(layer.input, bits, scales.common_scale, zero_point)
            self._folded.add(layer.node)
        workbench.record_step(
            "reparameterization",
            site.norm.node,
            default=channels.default_error,
            best=channels.error,
            layers=[layer.node for layer in site.layers],
            scale=scales.common_scale,
            zero_point=zero_point,
            smallest_ratio=float(scales.ratio.min()),
            largest_ratio=float(scales.ratio.max()),
        )

    def _quantize_layer(self, layer: Layer, feed: Feed) -> None:
        if layer.node not in self._folded | self._behind_softmaxes:
            self._quantize_inputs([layer.input], self._input_bits(layer), feed)
        if layer.weight not in self._workbench.weights:
            self._quantize_weight(layer.weight)

    def _quantize_weight(self, name: str) -> None:
        """Quantize a weight with a range for each output channel."""
        weight, bits = self._workbench.parameter(name), self._recipe.weight_bits
        rows = weight.flatten(1)
        uniform = search.choose_uniform(rows, bits, self._form, percentiles=self._recipe.percentiles)
        zero_points = None if self._recipe.symmetric else uniform.zero_point.char()
        codes = uniform.codes(rows).reshape(weight.shape).char()
        self._workbench.set_weight(name, codes, uniform.scale, zero_points, bits=bits)

    def _quantize_product(self, product: Operator, feed: Feed) -> None:
        """Quantize a product's operands, except a quantized softmax."""
        taps = [tap for tap in product.operands if tap not in self._probabilities]
        if taps:
            self._quantize_inputs(taps, self._recipe.activation_bits, feed)

    def _quantize_softmax(self, softmax: Operator, name: str, feed: Feed) -> None:
        workbench, recipe, bits = self._workbench, self._recipe, self._recipe.activation_bits
        if not recipe.log_sqrt2:
            self._quantize_inputs([softmax.output], bits, feed)
            return
        [probabilities] = self._record([softmax.output], feed)
        quantizer, error, default = search.choose_log_sqrt2(
            name, probabilities, bits, percentiles=recipe.percentiles, as_published=recipe.as_published
        )
        workbench.insert_quantizer(softmax.output, quantizer)
        workbench.record_step("log-√2 quantization", softmax.node, default=default, best=error, scale=quantizer.scale)

    def _quantize_inputs(self, taps: Sequence[Tap], bits: int, feed: Feed) -> None:
        """Quantize the tensors at some taps of an operator."""
        for tap, values in zip(taps, self._record(taps, feed), strict=True):
            uniform = search.choose_uniform(
                values.reshape(1, -1), bits, self._form, percentiles=self._recipe.percentiles
            )
            zero_point = None if self._recipe.symmetric else int(uniform.zero_point)
            self._workbench.quantize_activation(tap, bits, uniform.scale, zero_point)
            self._workbench.record_step(
                "input range",
                tap.node,
                default=uniform.default_error,
                best=uniform.error,
                operand=tap.operand,
                percentile=uniform.percentile,
            )

    def _record(self, taps: Sequence[Tap], feed: Feed) -> list[Tensor]:
        """Return sampled rows of some tensors, as quantized so far."""
        return self._workbench.record(
            taps, on=Network.QUANTIZED, sample=search.Sample(seed=self._recipe.seed), feed=feed
        )

    def _input_bits(self, layer: Layer) -> int:
        return self._recipe.activation_bits if layer.window is None else CONVOLUTION_INPUT_BITS


register(RepQViT(name="repq-vit"))
