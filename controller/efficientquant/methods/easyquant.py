"""EasyQuant (Wu et al. 2020): scales searched by cosine similarity."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal

from efficientquant import search
from efficientquant.options import Granularity, Network
from efficientquant.recipe import Needs, SearchRecipe, register

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from efficientquant.graph.blocks import Layer
    from efficientquant.workbench import Workbench
    from efficientquant.workbench.networks import BlockStep
    from efficientquant.workbench.recording import Feed


@dataclasses.dataclass(frozen=True, kw_only=True)
class EasyQuant(SearchRecipe):
    """Symmetric weights per output channel and inputs per tensor, with searched scales.

    Convolutions and linears are quantized in execution order, each behind quantized ones. A layer's target is its float
    output. `rounds` times, the weight's scales are searched and then the input's. `grid` is the paper's, or that of the
    authors' code, which has one round and its own scores. `rows=sampled` looks at no more than 33,000 positions of a
    layer.
    """

    method: ClassVar[str] = "easyquant"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = {"rounds": {"grid": "paper"}, "seed": {"rows": "sampled"}}

    weight_bits: int = 8
    activation_bits: int = 8
    search_weights: bool = True
    search_activations: bool = True
    rounds: int = 2
    grid: Literal["paper", "code"] = "paper"
    rows: Literal["sampled", "all"] = "sampled"
    seed: int = 0

    @property
    def summary(self) -> str:
        """The bits of weights and inputs."""
        return f"int{self.weight_bits} weights and int{self.activation_bits} inputs, scales searched by cosine"

    @property
    def calibration_images(self) -> int:
        """The paper's number of images."""
        return 50

    def apply(self, workbench: Workbench) -> None:
        """Search each layer's scales, behind the layers that are quantized already."""
        if self.grid == "paper":
            for layer, step in _layers(workbench, 0.0, 1.0):
                _Search(workbench, layer, step, self).alternate()
            return
        blind = []
        for layer, step in _layers(workbench, 0.0, 0.5):
            search_of_layer = _Search(workbench, layer, step, self)
            search_of_layer.search_weight_as_code()
            if search_of_layer.has_single_positions:
                blind.append(layer.node)
        if blind and self.search_weights:
            workbench.notes.append(
                "grid=code: the scores of weights compare an output channel's positions in an image; they see no more "
                f"than a sign in layers with a single position: {', '.join(blind)}"
            )
        for layer, step in _layers(workbench, 0.5, 1.0):
            _Search(workbench, layer, step, self).search_input_as_code()


def _layers(workbench: Workbench, begin: float, end: float) -> Iterator[tuple[Layer, BlockStep]]:
    """Yield every layer with its block, and report the progress."""
    total = sum(len(block.layers) for block in workbench.blocks)
    done = 0
    for step in workbench.walk():
        for layer in step.block.layers:
            yield layer, step
            done += 1
            workbench.report("search scales", begin + (end - begin) * done / total)


class _Search:
    """The search of one layer's scales.

    A candidate is a multiple of a scale's start. The scale in use stays where no candidate is better. Raises
    NonFiniteError.
    """

    def __init__(self, workbench: Workbench, layer: Layer, step: BlockStep, recipe: EasyQuant) -> None:
        self._workbench, self._layer, self._recipe = workbench, layer, recipe
        self._weight, self._bias = workbench.parameter(layer.weight), workbench.bias(layer)
        self._groups = 1 if layer.window is None else layer.window.groups
        sample = search.sample_rows(self._weight, self._groups, recipe.seed, whole=recipe.rows == "all")
        feeds = step.inputs
        [self._targets] = workbench.record([layer.output], on=Network.FLOAT, sample=sample, feed=feeds[Network.FLOAT])
        inputs = workbench.record_layer(layer, on=Network.QUANTIZED, sample=sample, feed=feeds[Network.QUANTIZED])
        self._inputs, self._images = inputs.inputs, inputs.images
        for bound in (inputs.lowest, inputs.highest):  # of all positions, not only of the sampled ones
            search.require_finite(bound, f"the input of {layer.node!r}")
        search.require_finite(self._targets, f"the output of {layer.node!r}")
        self._weight_start = search.choose_scale(self._weight, recipe.weight_bits, Granularity.PER_CHANNEL)
        largest = max(-float(inputs.lowest.min()), float(inputs.highest.max()))
        if recipe.grid == "code":
            largest = self._entropy_range(feeds[Network.QUANTIZED])
        self._input_start = largest / search.top_code(recipe.activation_bits) if largest > 0 else 1.0
        self._weight_scale, self._input_scale = self._weight_start, self._input_start

    @property
    def has_single_positions(self) -> bool:
        """Whether each image gives the layer's output one position."""
        return int(self._images.bincount().max()) == 1

    def alternate(self) -> None:
        """Search both scales in turns, as the paper does."""
        factors = search.grid(0.5, 1.2, 100)
        default = self._total_cosine(self._quantized_weight(), self._input_scale)
        for _ in range(self._recipe.rounds):
            if self._may_search_weight:
                moments = search.Moments.of(self._quantized_inputs(self._input_scale), self._targets, self._groups)
                self._improve_weight(partial(moments.cosine, bias=self._bias), factors)
            if self._recipe.search_activations:
                self._improve_input(self._total_cosine, factors)
        self._place_weight()
        self._place_input(default, self._total_cosine(self._quantized_weight(), self._input_scale))

    def search_weight_as_code(self) -> None:
        """Search the weight's scales between their start and one, with float inputs."""

        def score(weight: Tensor) -> Tensor:
            outputs = search.layer_output(self._inputs, weight, self._bias, self._groups)
            return search.cosine_per_image(self._active(outputs), self._active(self._targets), self._images, 0)

        if self._may_search_weight:
            # The code's grid is even in 1/s, from 1 to the start. For s above 1 it is empty.
            inverse = 1 / self._weight_start
            shares = search.grid(0, 1, 100)[1:-1]
            scales = [1 / (1 + (inverse - 1).clamp_min(0) * share) for share in shares]
            self._improve_weight(score, [scale / self._weight_start for scale in scales])
        self._place_weight()

    def search_input_as_code(self) -> None:
        """Search the input's scale from its start to 1.25 times that."""

        def score(weight: Tensor, scale: float) -> Tensor:
            outputs = search.layer_output(self._quantized_inputs(scale), weight, self._bias, self._groups)
            return search.cosine_per_image(self._active(outputs), self._active(self._targets), self._images, None)

        default = score(self._quantized_weight(), self._input_scale)
        if self._recipe.search_activations:
            self._improve_input(score, [1 / factor for factor in search.grid(0.8, 1, 200)[1:-1]])
        self._place_input(default, score(self._quantized_weight(), self._input_scale))

    @property
    def _may_search_weight(self) -> bool:
        """Whether the weight's scale is still open."""
        return self._recipe.search_weights and self._layer.weight not in self._workbench.weights

    def _improve_weight(self, score: Callable[[Tensor], Tensor], factors: Sequence[float | Tensor]) -> None:
        """Choose a factor for each output channel by its own score."""
        scales = [self._weight_start * factor for factor in factors]
        scores = (score(self._rounded_weight(scale)) for scale in scales)
        index = search.choose(score(self._rounded_weight(self._weight_scale)), scores)
        for place, scale in enumerate(scales):
            is_chosen = (index == place).reshape(scale.shape)
            self._weight_scale = scale.where(is_chosen, self._weight_scale)

    def _improve_input(self, score: Callable[[Tensor, float], Tensor], factors: Sequence[float]) -> None:
        """Choose the factor of the input's scale."""
        weight = self._quantized_weight()
        scales = [self._input_start * factor for factor in factors]
        index = search.choose(score(weight, self._input_scale), (score(weight, scale) for scale in scales))
        if (place := int(index)) >= 0:
            self._input_scale = scales[place]

    def _total_cosine(self, weight: Tensor, scale: float) -> Tensor:
        outputs = search.layer_output(self._quantized_inputs(scale), weight, self._bias, self._groups)
        return search.cosine(outputs, self._targets)

    def _entropy_range(self, feed: Feed) -> float:
        observer = search.MagnitudeObserver()
        [inputs] = self._workbench.record([self._layer.input], on=Network.QUANTIZED, feed=feed)
        observer(inputs)
        return observer.entropy_range(self._recipe.activation_bits)

    def _active(self, outputs: Tensor) -> Tensor:
        """Apply the ReLU that follows the layer, if one does."""
        return outputs.relu() if self._workbench.is_rectified(self._layer) else outputs

    def _quantized_inputs(self, scale: float) -> Tensor:
        quantizer = search.ActivationQuantizer("", scale, self._recipe.activation_bits)
        # In place: rows of large kernels take 256 MiB.
        return (self._inputs / scale).round_().clamp_(quantizer.bottom, quantizer.top).mul_(scale)

    def _rounded_weight(self, scale: Tensor) -> Tensor:
        return search.dequantize(search.quantize(self._weight, scale, self._recipe.weight_bits), scale)

    def _quantized_weight(self) -> Tensor:
        """Return the quantized weight, from the network if it is there."""
        placed = self._workbench.weights.get(self._layer.weight)
        return self._rounded_weight(self._weight_scale) if placed is None else placed.dequantize()

    def _place_weight(self) -> None:
        if self._layer.weight not in self._workbench.weights:
            codes = search.quantize(self._weight, self._weight_scale, self._recipe.weight_bits)
            self._workbench.set_weight(
                self._layer.weight, codes, self._weight_scale.flatten(), bits=self._recipe.weight_bits
            )

    def _place_input(self, default: Tensor, best: Tensor) -> None:
        self._workbench.quantize_activation(self._layer.input, self._recipe.activation_bits, self._input_scale)
        factor = self._input_scale / self._input_start
        self._workbench.record_step(
            "scale search", self._layer.node, default=float(default), best=float(best), input_factor=factor
        )


register(EasyQuant(name="easyquant"))
