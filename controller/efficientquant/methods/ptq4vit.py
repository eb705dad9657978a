"""PTQ4ViT (Yuan et al. 2022): twin-uniform quantizers and steps searched by gradients."""

from __future__ import annotations

import dataclasses
import sys
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal

from efficientquant import search
from efficientquant.options import Network
from efficientquant.recipe import Needs, SearchRecipe, register

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from efficientquant.graph.blocks import Block, Layer, Tap
    from efficientquant.workbench import Workbench
    from efficientquant.workbench.recording import Feed, Sample

SPLITS = 20  # the softmax's splits are 2^0 … 2^-19
NOISE_RATIO = 1e3  # a gradient that is not larger than its rounding noise by this weighs nothing
# Larger layers and products are judged by fewer positions.
LARGE_WORK, LARGE_COLUMNS, FEW_POSITIONS = 1 << 14, 1 << 11, 4096


@dataclasses.dataclass(frozen=True, kw_only=True)
class PTQ4ViT(SearchRecipe):
    """Searched steps for weights, linear inputs and products.

    The softmax in front of a product gets a step on each side of a split, and so does the input of a linear behind SiLU
    or GELU. Each place is searched alone on float inputs, for the smallest error of its output. `gradient=fisher`
    weighs the error by the gradient of a cross-entropy with sampled labels. Convolution inputs stay in float without
    `conv_inputs`. `rows=sampled` looks at 4,096 to 33,000 positions of an output. `as_published` is for the audit: its
    softmax adds the split to every probability.
    """

    method: ClassVar[str] = "ptq4vit"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = {"as_published": {"twin_softmax": True}}

    weight_bits: int = 8
    activation_bits: int = 8
    twin_softmax: bool = True
    twin_activation: bool = True
    gradient: Literal["fisher", "mse"] = "fisher"
    per_head: bool = True
    conv_inputs: bool = False
    as_published: bool = False
    rows: Literal["sampled", "all"] = "sampled"
    seed: int = 0

    @property
    def summary(self) -> str:
        """The bits of weights and activations."""
        where = "" if self.conv_inputs else "linear and product "
        return f"int{self.weight_bits} weights and int{self.activation_bits} {where}inputs, steps searched by gradient"

    @property
    def tensorrt_variant(self) -> str:
        """One step for all heads."""
        return "per_head=false"

    def apply(self, workbench: Workbench) -> None:
        """Search each layer and each product on float inputs."""
        sites = _Sites(workbench, self)
        sites.note_missing(self)
        done, total = 0, len(sites.samples)
        # Few images at once: a layer's inputs and outputs are in memory several times.
        chunks = [part for chunk in workbench.feed().chunks for part in chunk.chunk(4)]
        for block in workbench.blocks:
            feed = search.Feed(block.source, chunks, sum(map(len, chunks)))
            for layer in block.layers:
                _LayerSearch(workbench, layer, feed, sites, self).run()
                done += 1
                workbench.report("search steps", done / total)
            for site in sites.products_of(block):
                _ProductSearch(workbench, site, feed, sites, self).run()
                done += 1
                workbench.report("search steps", done / total)
            chunks = workbench.run_block(block, chunks, on=Network.FLOAT)


class _Sites:
    """The places with searched steps, and the weights of their errors."""

    def __init__(self, workbench: Workbench, recipe: PTQ4ViT) -> None:
        graph = workbench.graph
        self._workbench = workbench
        self._order = {node.name: place for place, node in enumerate(graph.graph.nodes)}
        self._products = search.find_product_sites(graph, workbench.products)
        self.tails = search.find_negative_tails(graph, workbench.layers)
        self.row_groups = search.find_row_groups(graph)
        layers = [layer for block in workbench.blocks for layer in block.layers]
        self.samples: dict[Tap, Sample] = {layer.output: self._sample_layer(layer, recipe) for layer in layers}
        for site in self._products:
            self.samples[site.operator.output] = self._sample_product(site, recipe)
        self._gradients: dict[Tap, search.SiteGradient] = {}
        if recipe.gradient == "fisher":
            workbench.report("gradients", 0.0)
            self._gradients = search.fisher_gradients(workbench, self.samples, recipe.seed)
            workbench.report("gradients", 1.0)

    def note_missing(self, recipe: PTQ4ViT) -> None:
        """Note steps without a site, and sites without a gradient."""
        if not self._products:
            self._workbench.note_no_site("products", "product of two activations")
        self._note_softmaxes(recipe)
        if recipe.twin_activation and not self.tails:
            self._workbench.note_no_site("twin_activation", "linear behind SiLU or GELU")
        silent = [tap.node for tap in self._gradients if self.weights(tap) is None]
        if silent:
            self._workbench.notes.append(
                f"gradient=fisher: {len(silent)} of {len(self._gradients)} places have no gradient above its noise and "
                f"are searched by the mean squared error: {', '.join(silent)}"
            )

    def _note_softmaxes(self, recipe: PTQ4ViT) -> None:
        twins, total = sum(site.softmax is not None for site in self._products), len(self._workbench.softmaxes)
        if recipe.twin_softmax and not twins:
            self._workbench.note_no_site("twin_softmax", "softmax in front of a product")
        elif recipe.twin_softmax and twins < total:
            self._workbench.notes.append(
                f"twin_softmax: {total - twins} of {total} softmaxes have no product behind them and stay in float"
            )

    def products_of(self, block: Block) -> list[search.ProductSite]:
        """Return the products of a block."""
        begin, end = self._order[block.source], self._order[block.output]
        return [site for site in self._products if begin < self._order[site.operator.node] <= end]

    def weights(self, tap: Tap) -> Tensor | None:
        """Return the weights of an output's error, None for equal ones."""
        gradient = self._gradients.get(tap)
        return gradient.weights if gradient is not None and gradient.exceeds_noise(NOISE_RATIO) else None

    def facts(self, tap: Tap) -> dict[str, object]:
        """Return what a step's record says about the gradient."""
        gradient = self._gradients.get(tap)
        if gradient is None:
            return {"gradient": "mse"}
        name = "fisher" if gradient.exceeds_noise(NOISE_RATIO) else "mse"
        return {"gradient": name, "gradient_rms": gradient.rms, "noise_rms": gradient.noise}

    def _sample_layer(self, layer: Layer, recipe: PTQ4ViT) -> Sample:
        weight = self._workbench.parameter(layer.weight)
        groups = 1 if layer.window is None else layer.window.groups
        sample = search.sample_rows(weight, groups, recipe.seed, whole=recipe.rows == "all")
        return self._limit(sample, recipe, weight.numel(), weight[0].numel() * groups)

    def _sample_product(self, site: search.ProductSite, recipe: PTQ4ViT) -> Sample:
        first, second = (tap.find(self._workbench.graph).meta["val"].shape for tap in site.operator.operands)
        sample = search.Sample(sys.maxsize if recipe.rows == "all" else search.DEFAULT_POSITIONS, recipe.seed)
        return self._limit(sample, recipe, int(first[-1]) * int(second[-1]), int(first[-1]))

    def _limit(self, sample: Sample, recipe: PTQ4ViT, work: int, columns: int) -> Sample:
        is_large = work > LARGE_WORK or columns > LARGE_COLUMNS
        return search.Sample(FEW_POSITIONS, recipe.seed) if is_large and recipe.rows == "sampled" else sample


class _Searched:
    """A quantizer's parameter (G,) and its candidates.

    There is a value for each of G groups. `rounded` returns the quantized tensor for a value of the parameter.
    """

    def __init__(self, start: Tensor, factors: Sequence[float], rounded: Callable[[Tensor], Tensor]) -> None:
        self.start = self.value = start
        self.rounded = rounded
        self._candidates = [start * factor for factor in factors]

    def improve(self, errors: Callable[[Tensor], Tensor]) -> bool:
        """Take the candidate of each group with the smallest error.

        `errors` maps a quantized tensor to the errors (G,). Returns whether any group changed.
        """
        scores = (-errors(self.rounded(candidate)) for candidate in self._candidates)
        index = search.choose(-errors(self.quantized), scores)
        for place, candidate in enumerate(self._candidates):
            self.value = candidate.where(index == place, self.value)
        return bool((index >= 0).any())

    @property
    def quantized(self) -> Tensor:
        """The tensor, quantized with the value in use."""
        return self.rounded(self.value)


def _first_step(largest: Tensor, bits: int, what: str) -> Tensor:
    """Return max / (2^(bits-1) - 0.5), or 1 for max 0.

    Raises NonFiniteError.
    """
    search.require_finite(largest, what)
    # The smallest candidate is a hundredth of it, and not 0 either.
    step = (largest / ((1 << (bits - 1)) - 0.5)).clamp(min=1e-35)
    return step.where(largest > 0, 1.0)


def _round_evenly(x: Tensor, step: Tensor, bits: int) -> Tensor:
    """Round to codes -2^(bits-1) … 2^(bits-1) - 1, and back."""
    return _codes(x, step, bits).mul_(step)


def _codes(x: Tensor, step: Tensor, bits: int) -> Tensor:
    half = 1 << (bits - 1)
    return (x / step).round_().clamp_(-half, half - 1)


class _LayerSearch:
    """The search of the steps of a layer's weight and input."""

    def __init__(self, workbench: Workbench, layer: Layer, feed: Feed, sites: _Sites, recipe: PTQ4ViT) -> None:
        self._workbench, self._layer, self._sites, self._recipe = workbench, layer, sites, recipe
        weight, bias = workbench.parameter(layer.weight), workbench.bias(layer)
        rows = workbench.record_layer(layer, on=Network.FLOAT, sample=sites.samples[layer.output], feed=feed)
        self._targets = rows.outputs if bias is None else rows.outputs - bias
        self._error_weights = sites.weights(layer.output)
        self._convolution_groups = 1 if layer.window is None else layer.window.groups
        self._float_inputs = rows.inputs
        self._rank = weight.ndim
        self._row_groups = self._find_row_groups(weight)
        self._weight = self._search_weight(weight)
        self._input = self._search_input(rows.highest.maximum(-rows.lowest).amax().reshape(1))

    def run(self) -> None:
        """Search in turns, and place the quantizers."""
        default = self._total()
        is_shared = self._layer.weight in self._workbench.weights
        for _ in range(self._recipe.rounds):
            changed = not is_shared and self._weight.improve(partial(self._group_errors, self._inputs))
            if self._input is not None:
                changed |= self._input.improve(partial(self._input_error, self._weight.quantized))
            if not changed:
                break
        if not is_shared:
            self._place_weight()
        if self._input is not None:
            self._place_input(float(self._input.value))
        facts = self._sites.facts(self._layer.output)
        if self._input is not None:
            facts["input_factor"] = float(self._input.value / self._input.start)
        self._workbench.record_step("step search", self._layer.node, default=default, best=self._total(), **facts)

    @property
    def _inputs(self) -> Tensor:
        return self._float_inputs if self._input is None else self._input.quantized

    def _find_row_groups(self, weight: Tensor) -> Tensor:
        """Return the group (O,) of each of the weight's rows."""
        first = weight.flatten(1)[:, 0]
        if self._layer.window is not None:
            return first.new_ones(len(weight)).cumsum(0).long() - 1
        return self._sites.row_groups.get(self._layer.node, first.new_zeros(len(weight)).long())

    def _search_weight(self, weight: Tensor) -> _Searched:
        bits = self._recipe.weight_bits
        placed = self._workbench.weights.get(self._layer.weight)
        largest = weight.flatten(1).abs().amax(1)
        largest = largest.new_zeros(int(self._row_groups.max()) + 1).scatter_reduce(
            0, self._row_groups, largest, "amax"
        )
        return _Searched(
            _first_step(largest, bits, "a weight"),
            search.grid(0.01, 1.2, 100),
            lambda step: _round_evenly(weight, self._spread(step), bits) if placed is None else placed.dequantize(),
        )

    def _search_input(self, largest: Tensor) -> _Searched | None:
        if self._layer.window is not None and not self._recipe.conv_inputs:
            return None
        bits, minimum = self._recipe.activation_bits, self._tail
        start = _first_step(largest, bits, "a layer's input")

        def rounded(step: Tensor) -> Tensor:
            if minimum is None:
                return _round_evenly(self._float_inputs, step, bits)
            return search.TwinUniformActivation("", bits, float(step), minimum).forward(self._float_inputs)

        return _Searched(start, search.grid(0.01, 1.2, 100), rounded)

    @property
    def _tail(self) -> float | None:
        """The minimum of the activation function before the layer, if used."""
        return self._sites.tails.get(self._layer.node) if self._recipe.twin_activation else None

    def _spread(self, step: Tensor) -> Tensor:
        """Return each row's step, to broadcast against the weight."""
        return step[self._row_groups].reshape(-1, *[1] * (self._rank - 1))

    def _errors(self, inputs: Tensor, weight: Tensor) -> Tensor:
        """Return the error of each output channel."""
        outputs = search.layer_output(inputs, weight, None, self._convolution_groups)
        return search.column_errors(outputs, self._targets, self._error_weights)

    def _group_errors(self, inputs: Tensor, weight: Tensor) -> Tensor:
        errors = self._errors(inputs, weight)
        return errors.new_zeros(len(self._weight.value)).index_add(0, self._row_groups, errors)

    def _input_error(self, weight: Tensor, inputs: Tensor) -> Tensor:
        return self._errors(inputs, weight).sum().reshape(1)

    def _total(self) -> float:
        return float(self._errors(self._inputs, self._weight.quantized).sum())

    def _place_weight(self) -> None:
        weight, bits = self._workbench.parameter(self._layer.weight), self._recipe.weight_bits
        step = self._weight.value
        codes = _codes(weight, self._spread(step), bits).char()
        scale = step if len(step) == 1 else step[self._row_groups]
        self._workbench.set_weight(self._layer.weight, codes, scale, bits=bits)

    def _place_input(self, step: float) -> None:
        bits = self._recipe.activation_bits
        if self._tail is None:
            self._workbench.quantize_activation(self._layer.input, bits, step, zero_point=0)
            return
        quantizer = search.TwinUniformActivation(f"twin_activation_{self._layer.node}", bits, step, self._tail)
        self._workbench.insert_quantizer(self._layer.input, quantizer)


class _ProductSearch:
    """The search of a product's steps and of its softmax's split."""

    def __init__(
        self, workbench: Workbench, site: search.ProductSite, feed: Feed, sites: _Sites, recipe: PTQ4ViT
    ) -> None:
        self._workbench, self._site, self._sites, self._recipe = workbench, site, sites, recipe
        output = site.operator.output
        first, second = workbench.record(site.operator.operands, on=Network.FLOAT, feed=feed)
        self._rows = search.ProductRows.of(first, second, sites.samples[output], sites.weights(output))
        self._searched = [self._search_operand(place, x) for place, x in enumerate((first, second))]

    def run(self) -> None:
        """Search the operands in turns, and place their quantizers."""
        default = self._total()
        for _ in range(self._recipe.rounds):
            changed = self._searched[0].improve(lambda x: self._errors(0, x, self._searched[1].quantized))
            changed |= self._searched[1].improve(lambda x: self._errors(1, self._searched[0].quantized, x))
            if not changed:
                break
        facts = self._sites.facts(self._site.operator.output)
        for place, searched in enumerate(self._searched):
            self._place(place, searched.value)
            if self._is_twin(place):
                facts["split"] = float(searched.value)
        node = self._site.operator.node
        self._workbench.record_step("step search", node, default=default, best=self._total(), **facts)

    def _is_twin(self, place: int) -> bool:
        return self._recipe.twin_softmax and place == self._site.probabilities

    def _axis(self, place: int) -> int | None:
        """Return the dimension of an operand's steps."""
        is_split = self._recipe.per_head and place != self._site.probabilities
        return self._site.axes[place] if is_split else None

    def _search_operand(self, place: int, x: Tensor) -> _Searched:
        bits, axis, values = self._recipe.activation_bits, self._axis(place), self._rows.operands[place]
        if self._is_twin(place):
            return _Searched(
                x.new_ones(1),
                [2.0**-exponent for exponent in range(SPLITS)],
                lambda split: self._twin("", float(split)).forward(values),
            )
        largest = x.abs().amax().reshape(1) if axis is None else x.abs().movedim(axis, 0).flatten(1).amax(1)

        def rounded(step: Tensor) -> Tensor:
            of_matrix = step if axis is None else step[self._rows.heads].reshape(-1, 1, 1)
            return _round_evenly(values, of_matrix, bits)

        return _Searched(_first_step(largest, bits, "a product's operand"), search.grid(0.01, 1.2, 100), rounded)

    def _twin(self, name: str, split: float) -> search.TwinUniformSoftmax:
        recipe = self._recipe
        return search.TwinUniformSoftmax(name, recipe.activation_bits, split, as_published=recipe.as_published)

    def _errors(self, place: int, first: Tensor, second: Tensor) -> Tensor:
        """Return the errors of the groups of an operand."""
        errors = self._rows.errors(first, second)
        return errors.sum().reshape(1) if self._axis(place) is None else errors

    def _total(self) -> float:
        return float(self._rows.errors(*(searched.quantized for searched in self._searched)).sum())

    def _place(self, place: int, value: Tensor) -> None:
        bits, axis = self._recipe.activation_bits, self._axis(place)
        tap = self._site.find_tap(place)
        if self._is_twin(place):
            self._workbench.insert_quantizer(tap, self._twin(f"twin_softmax_{tap.node}", float(value)))
        else:
            self._workbench.quantize_activation(tap, bits, value, zero_point=0, axis=axis)


register(PTQ4ViT(name="ptq4vit"))
