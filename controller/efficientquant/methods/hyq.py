"""HyQ (IJCAI 2024): learned channel factors, and a softmax for integer units."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from efficientquant import search
from efficientquant.errors import RecipeFormatError
from efficientquant.options import Granularity, Network
from efficientquant.recipe import Needs, Recipe, register

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from efficientquant.graph.blocks import Layer, Tap
    from efficientquant.images.calibration import CalibrationImages
    from efficientquant.observers import ChannelRange
    from efficientquant.search.channel_factors import FactorSearch, LearnedFactors
    from efficientquant.search.input_grids import InputGrid
    from efficientquant.workbench import Workbench

ALPHA_ROWS = 4096
LOGIT_BITS = 8  # of the integer softmax, whatever the width of the inputs
MAP_BITS = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class HyQ(Recipe):
    """Symmetric weights and affine inputs, by smallest and largest value.

    Weights have a scale per output channel, inputs one per tensor. `qads` learns a factor α for each input channel
    of an inverted residual's 1×1 convolutions. Weights are multiplied by α, inputs by 1/α. `alpha_steps` and
    `alpha_rate` are Adam's. Unlike in the authors' code, α is positive and the gradient passes through roundings.
    `ptf` quantizes the inputs of norms on residual streams, each channel with 1, 2, 4 or 8 eighths of the step.
    Without it they stay in float. `linear_softmax` quantizes logits and computes the softmax's exponential from
    lines. `log2_map` rounds attention maps to 4-bit powers of two. Without it a product quantizes them like any
    other input. `as_published` keeps 2^-15 as a 17th value, for the audit. `symmetric` gives all activations
    zero-point 0. Half of the images are for ranges, the others for α.
    """

    method: ClassVar[str] = "hyq"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = {
        "as_published": {"log2_map": True},
        "alpha_steps": {"qads": True},
        "alpha_rate": {"qads": True},
    }

    weight_bits: int = 8
    activation_bits: int = 8
    qads: bool = True
    ptf: bool = True
    linear_softmax: bool = True
    log2_map: bool = True
    symmetric: bool = False
    as_published: bool = False
    alpha_steps: int = 1000
    alpha_rate: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.alpha_steps <= 100_000:
            raise RecipeFormatError("alpha_steps", f"{self.alpha_steps}; 0 to 100000 are possible")
        if not 0 < self.alpha_rate <= 1:
            raise RecipeFormatError("alpha_rate", f"{self.alpha_rate}; it must lie above 0 and up to 1")

    @property
    def summary(self) -> str:
        """The bits of weights, inputs and attention maps."""
        maps = f", {MAP_BITS}-bit log2 attention maps" if self.log2_map else ""
        factors = ", learned channel factors" if self.qads else ""
        return f"int{self.weight_bits} weights and int{self.activation_bits} inputs{maps}{factors}"

    @property
    def needs_calibration(self) -> bool:
        """True, since inputs need ranges."""
        return True

    @property
    def calibration_images(self) -> int:
        """Two draws of the paper's 100 images."""
        return 200

    @property
    def tensorrt_variant(self) -> str:
        """No zero-points, and no norm inputs with a scale per channel."""
        return "symmetric=true:ptf=false"

    def apply(self, workbench: Workbench) -> None:
        """Quantize by ranges, factors and maps that come from the float network."""
        _Quantization(workbench, self).run()


class _Quantization:
    """One model's quantization.

    Everything is calibrated on the float network before the first edit.
    """

    def __init__(self, workbench: Workbench, recipe: HyQ) -> None:
        self._workbench, self._recipe = workbench, recipe
        self._layers = [layer for block in workbench.blocks for layer in block.layers]
        self._scaled = self._find_scaled() if recipe.qads else []
        maps = workbench.attention_maps if recipe.log2_map else []
        self._operands = [tap for product in workbench.products for tap in product.operands if tap not in maps]
        self._norms = [norm.operands[0] for norm in workbench.stream_norms] if recipe.ptf else []
        softmaxes = workbench.softmaxes if recipe.linear_softmax or recipe.log2_map else []
        self._softmaxes = [softmax for softmax in softmaxes if softmax.operands]
        self._logits = [softmax.operands[0] for softmax in self._softmaxes] if recipe.linear_softmax else []
        self._note_missing_sites()

    def run(self) -> None:
        """Calibrate everything, then edit the network."""
        range_images, factor_images = self._halve_images()
        inputs = [layer.input for layer in self._layers]
        ranges = self._observe_ranges([*inputs, *self._operands, *self._norms, *self._logits], range_images)
        norm_scales = self._choose_norm_scales(ranges, range_images)
        factors = self._learn_factors(ranges, factor_images)
        for layer in self._layers:
            if layer not in factors:
                self._quantize_tensor(layer.input, self._grid(ranges[layer.input]))
            self._quantize_weight(layer.weight)
        for tap in self._operands:
            self._quantize_tensor(tap, self._grid(ranges[tap]))
        for tap in self._logits:
            self._quantize_tensor(tap, self._grid(ranges[tap], LOGIT_BITS), bits=LOGIT_BITS)
        for tap, scales in norm_scales.items():
            self._quantize_tensor(tap, self._grid(ranges[tap]), scales)
        self._replace_softmaxes()

    def _find_scaled(self) -> list[Layer]:
        """Return the convolutions that get factors.

        A weight that several layers share gets none.
        """
        weights = [layer.weight for layer in self._layers]
        layers = dict.fromkeys(layer for residual in self._workbench.inverted_residuals for layer in residual)
        return [layer for layer in layers if weights.count(layer.weight) == 1]

    def _note_missing_sites(self) -> None:
        recipe, note = self._recipe, self._workbench.note_no_site
        if recipe.qads and not self._scaled:
            note("QADS", "1×1 convolutions around a depthwise one (inverted residual)")
        if recipe.ptf and not self._norms:
            note("PTF", "layer norm or group norm on a residual stream")
        if recipe.linear_softmax and not self._softmaxes:
            note("integer softmax", "softmax")
        if recipe.log2_map and not self._softmaxes:
            note("log2 map", "softmax")

    def _halve_images(self) -> tuple[CalibrationImages, CalibrationImages]:
        """Return the images for ranges and those for factors."""
        images = self._workbench.halve_images(self._recipe.seed)
        count = len(self._workbench.images)
        if count < self._recipe.calibration_images:
            first, second = (len(half) for half in images)
            self._workbench.notes.append(
                f"{count} images were halved: {first} for ranges and {second} for α, where HyQ takes 100 for each"
            )
        return images

    def _observe_ranges(self, taps: list[Tap], images: CalibrationImages) -> dict[Tap, ChannelRange]:
        observers = iter([search.ChannelRange(tap.channel) for tap in taps])
        observed = self._workbench.observe(taps, lambda: next(observers), on=Network.FLOAT, images=images)
        return dict(zip(taps, observed, strict=True))

    def _choose_norm_scales(self, ranges: dict[Tap, ChannelRange], images: CalibrationImages) -> dict[Tap, Tensor]:
        """Return the scale of each channel at the norms' inputs."""
        grids = [self._grid(ranges[tap]) for tap in self._norms]
        sums = [search.PowerOfTwoErrors(grid, tap.channel) for grid, tap in zip(grids, self._norms, strict=True)]
        observers = iter(sums)
        if sums:
            self._workbench.observe(self._norms, lambda: next(observers), on=Network.FLOAT, images=images)
        scales = {}
        for tap, grid, observer in zip(self._norms, grids, sums, strict=True):
            factors, default, best = observer.choose()
            scales[tap] = grid.scale * (factors / 8)
            counts = {str(factor): int((factors == factor).sum()) for factor in observer.FACTORS}
            self._workbench.record_step("PTF", tap.node, default=default, best=best, channels=counts)
        return scales

    def _learn_factors(self, ranges: dict[Tap, ChannelRange], images: CalibrationImages) -> set[Layer]:
        """Learn the factors of inverted residuals' convolutions, and use them."""
        multiplications = 0
        for index, (layer, inputs, outputs) in enumerate(self._record_rows(images)):
            factor_search = self._search_of(layer, ranges[layer.input], inputs, outputs)
            learned = factor_search.learn(self._recipe.alpha_steps, self._recipe.alpha_rate)
            multiplications += self._use_factors(layer, index, factor_search, learned)
            self._workbench.report("learn factors", (index + 1) / len(self._scaled))
        if self._scaled:
            self._workbench.notes.append(
                f"QADS: the network has {multiplications} multiplications by 1/α, one for each convolution with factors"
            )
        return set(self._scaled)

    def _record_rows(self, images: CalibrationImages) -> Iterator[tuple[Layer, Tensor, Tensor]]:
        """Yield each convolution with sampled inputs and outputs.

        A run of the images serves the two convolutions of a residual: all at once would take too much memory.
        """
        sample = search.Sample(ALPHA_ROWS, self._recipe.seed)
        feed = self._workbench.feed(images)
        for start in range(0, len(self._scaled), 2):
            layers = self._scaled[start : start + 2]
            taps = [tap for layer in layers for tap in (layer.input, layer.output)]
            rows = self._workbench.record(taps, on=Network.FLOAT, sample=sample, feed=feed)
            yield from zip(layers, rows[::2], rows[1::2], strict=True)

    def _search_of(self, layer: Layer, input_range: ChannelRange, inputs: Tensor, outputs: Tensor) -> FactorSearch:
        return search.FactorSearch(
            weight=self._workbench.parameter(layer.weight),
            bias=self._workbench.bias(layer),
            inputs=inputs,
            outputs=outputs,
            lowest=input_range.lowest,
            highest=input_range.highest,
            weight_bits=self._recipe.weight_bits,
            activation_bits=self._recipe.activation_bits,
            symmetric=self._recipe.symmetric,
        )

    def _use_factors(self, layer: Layer, index: int, factor_search: FactorSearch, learned: LearnedFactors) -> bool:
        """Multiply a layer's weight by factors, and divide its inputs.

        Returns whether the inputs need a multiplication. They need none for factors 1.
        """
        factors = learned.factors
        is_needed = bool((factors != 1).any())
        if is_needed:
            weight = self._workbench.parameter(layer.weight)
            self._workbench.set_parameter(layer.weight, weight * factors.reshape(1, -1, 1, 1))
            multiplication = search.ChannelMultiply(1 / factors)
            self._workbench.insert_module(layer.input, f"inverse_alpha_{index}", multiplication)
        self._quantize_tensor(layer.input, factor_search.input_grid(factors))
        self._workbench.record_step(
            "QADS",
            layer.node,
            default=learned.default,
            best=learned.best,
            multiplications=int(is_needed),
            smallest_factor=float(factors.min()),
            largest_factor=float(factors.max()),
        )
        return is_needed

    def _grid(self, tensor_range: ChannelRange, bits: int | None = None) -> InputGrid:
        return search.InputGrid.fit(
            tensor_range.lowest,
            tensor_range.highest,
            bits or self._recipe.activation_bits,
            symmetric=self._recipe.symmetric,
        )

    def _quantize_tensor(
        self, tap: Tap, grid: InputGrid, scales: Tensor | None = None, bits: int | None = None
    ) -> None:
        """Insert a grid's quantizer at a tap, or one with channel scales."""
        zero_point = None if self._recipe.symmetric else int(grid.zero_point)
        axis = None if scales is None else tap.channel
        self._workbench.quantize_activation(
            tap, bits or self._recipe.activation_bits, grid.scale if scales is None else scales, zero_point, axis
        )

    def _quantize_weight(self, name: str) -> None:
        if name not in self._workbench.weights:
            self._workbench.quantize_weight(name, self._recipe.weight_bits, Granularity.PER_CHANNEL)

    def _replace_softmaxes(self) -> None:
        """Put the linear exponential before each softmax, the map behind."""
        for index, softmax in enumerate(self._softmaxes):
            if self._recipe.linear_softmax:
                dim = softmax.output.find(self._workbench.graph).args[1]
                assert isinstance(dim, int)
                exponential = search.LinearExponential(dim)
                self._workbench.insert_module(softmax.operands[0], f"linear_exponential_{index}", exponential)
                self._workbench.record_step("integer softmax", softmax.node, bits=LOGIT_BITS)
            if self._recipe.log2_map:
                quantizer = search.Log2Map(f"log2_map_{index}", MAP_BITS, as_published=self._recipe.as_published)
                self._workbench.insert_quantizer(softmax.output, quantizer)
                self._workbench.record_step("log2 map", softmax.node, values=quantizer.zero_code + 1)


register(HyQ(name="hyq"))
