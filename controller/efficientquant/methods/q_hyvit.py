"""Q-HyViT (IEEE IoT-J 2024): granularity and scheme of each input."""

from __future__ import annotations

import dataclasses
import random
import sys
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal

from efficientquant import search
from efficientquant.options import Network
from efficientquant.recipe import SearchRecipe, register

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from efficientquant.graph.blocks import Layer, Operator, Tap
    from efficientquant.search.reconstruction import LayerSearch
    from efficientquant.search.spans import Span
    from efficientquant.sites.bridges import BridgeBlock
    from efficientquant.workbench import Workbench
    from efficientquant.workbench.recording import Feed

# The positions of a layer that are looked at. The gradients of all layers are in memory at once.
POSITIONS = 4096
# The elements of a product's or bridge block's output that are looked at: those of whole images.
ELEMENTS = 1 << 22
# The im2col rows of a bridge block's layer may have this many times more elements.
ROW_ELEMENTS = 8
STEP = "scale search"


@dataclasses.dataclass(frozen=True, kw_only=True)
class QHyViT(SearchRecipe):
    """Inputs per tensor or channel, symmetric or not, by gradient-weighted error.

    The gradient is that of the divergence between the float model and one with min-max quantizers. Layers of a bridge
    block are scored at the block's output, all others at their own, and all on float inputs. A step per channel becomes
    a multiplication before a quantizer with one step. `symmetric` allows neither zero-points nor steps per head, which
    TensorRT cannot hold. `rows=sampled` looks at no more than 4,096 positions of a layer.
    """

    method: ClassVar[str] = "q-hyvit"
    version: ClassVar[int] = 1

    weight_bits: int = 8
    activation_bits: int = 8
    granularity: bool = True
    scheme: bool = True
    bridge: bool = True
    symmetric: bool = False
    rows: Literal["sampled", "all"] = "sampled"
    seed: int = 0

    @property
    def summary(self) -> str:
        """The bits of weights and inputs."""
        return f"int{self.weight_bits} weights and int{self.activation_bits} inputs, their kinds by weighted error"

    @property
    def tensorrt_variant(self) -> str:
        """The option that leaves out zero-points and steps per head."""
        return "symmetric=true"

    def apply(self, workbench: Workbench) -> None:
        """Search the quantizers of all layers and products, then place them."""
        sites = _Sites(workbench, self)
        products, layers = sites.search_products(), sites.search_layers()
        for product in products:
            _place_product(workbench, product)
        folded = _find_folded(workbench, layers)
        for layer in layers:
            _place_layer(workbench, layer, folded, self.weight_bits)
        multiplies = sum(layer.span.is_split for layer in layers) - len(folded)
        workbench.notes.append(
            f"{multiplies} inputs are multiplied by a factor per channel in the network; the factors of {len(folded)} "
            "more are folded into the convolution before"
        )


@dataclasses.dataclass(frozen=True)
class _ProductChoice:
    """The quantizers of a product's operands, and its scores."""

    product: Operator
    spans: Sequence[Span]
    factors: Sequence[float]
    scores: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class _LayerChoice:
    """The quantizers of a layer, and its scores."""

    layer: Layer
    span: Span
    factor: float
    weight_factor: float
    scores: tuple[float, float]
    scored_at: str
    is_shared: bool  # whether other layers have the same weight


class _Sites:
    """A network's layers and products, with their gradients and candidates."""

    def __init__(self, workbench: Workbench, recipe: QHyViT) -> None:
        self._workbench, self._recipe = workbench, recipe
        self._layers = [layer for block in workbench.blocks for layer in block.layers]
        self._uses = Counter(layer.weight for layer in self._layers)
        bridges = search.find_bridges(workbench.graph) if recipe.bridge else []
        self._bridges = {layer.node: block for block in bridges for layer in block.layers}
        self._behind: dict[str, Feed] = {}  # the quantized layers' outputs in a bridge block, by the block's output
        self._spans = self._find_spans()
        pictures = [image[None] for chunk in workbench.feed().chunks for image in chunk]
        # One image at a time, since a chunk's results take most of the memory.
        self._all = search.Feed(workbench.feed().source, pictures, len(pictures))
        self._pictures = random.Random(recipe.seed).sample(  # noqa: S311 (for an order, not a secret)
            pictures, len(pictures)
        )
        self._sample = search.Sample(POSITIONS if recipe.rows == "sampled" else sys.maxsize, recipe.seed)
        whole = [product.output for product in workbench.products] + [block.output for block in bridges]
        self._counts = dict(zip((tap.node for tap in whole), self._count_images(whole), strict=True))
        self._gradients = self._find_gradients(whole)
        if recipe.bridge and not bridges:
            workbench.note_no_site("bridge", "bridge block")
        if not workbench.products:
            workbench.note_no_site("product search", "product of two activations")

    def search_products(self) -> list[_ProductChoice]:
        """Search the quantizers of each product's operands."""
        choices = []
        for done, product in enumerate(self._workbench.products):
            feed = self._feed(self._counts[product.output.node])
            operands = self._workbench.record(product.operands, on=Network.FLOAT, feed=feed)
            gradient = self._gradients[product.output.node]
            problem = search.ProductSearch([self._spans[tap] for tap in product.operands], operands, gradient)
            scores = problem.run(self._recipe.rounds)
            choices.append(_ProductChoice(product, problem.spans, problem.factors, scores))
            self._workbench.report("search products", (done + 1) / len(self._workbench.products))
        return choices

    def search_layers(self) -> list[_LayerChoice]:
        """Search the quantizers of each layer's weight and input."""
        choices: list[_LayerChoice] = []
        chunks = list(self._all.chunks)
        for part in self._workbench.blocks:
            feed = search.Feed(part.source, chunks, sum(map(len, chunks)))
            for layer in part.layers:
                block = self._bridges.get(layer.node)
                problem = self._at_own_output(layer, feed) if block is None else self._at_block_output(layer, block)
                scores = problem.run(self._recipe.rounds, weight=self._uses[layer.weight] == 1)
                if block is not None:
                    self._keep_outputs(layer, block, problem)
                choices.append(
                    _LayerChoice(
                        layer,
                        problem.span,
                        problem.input_factor,
                        problem.weight_factor,
                        scores,
                        layer.node if block is None else block.output.node,
                        self._uses[layer.weight] > 1,
                    )
                )
                self._workbench.report("search layers", len(choices) / len(self._layers))
            chunks = self._workbench.run_block(part, chunks, on=Network.FLOAT)
        return choices

    def _at_own_output(self, layer: Layer, feed: Feed) -> LayerSearch:
        rows = self._workbench.record_layer(layer, on=Network.FLOAT, sample=self._sample, feed=feed)
        bias = self._workbench.bias(layer)
        targets = rows.outputs if bias is None else rows.outputs - bias
        goal = search.Goal(targets, self._gradients[layer.node])
        return search.LayerSearch(self._weight(layer), self._spans[layer.input], rows.inputs, goal)

    def _at_block_output(self, layer: Layer, block: BridgeBlock) -> LayerSearch:
        workbench, count = self._workbench, self._counts[block.output.node]
        images = self._feed(count)
        feed = self._behind.get(block.output.node, images)
        rows = workbench.record_layer(layer, on=Network.FLOAT, sample=search.Sample(sys.maxsize), feed=feed).inputs
        [targets] = workbench.record([block.output], on=Network.FLOAT, feed=images)
        region = search.Region(workbench.graph, layer.node, [block.output.node])

        def rest(outputs: Tensor) -> Tensor:
            picture = self._picture(layer, outputs)
            return _rows(picture if layer.node == block.output.node else region.run(picture)[0])

        goal = search.Goal(_rows(targets), _rows(self._gradients[block.output.node]), rest, len(rows) // count)
        return search.LayerSearch(self._weight(layer), self._spans[layer.input], rows, goal)

    def _keep_outputs(self, layer: Layer, block: BridgeBlock, problem: LayerSearch) -> None:
        """Keep a quantized layer's outputs for the next layer of its block."""
        pictures = [self._picture(layer, rows) for rows in problem.outputs()]
        self._behind[block.output.node] = search.Feed(layer.node, pictures, self._counts[block.output.node])

    def _picture(self, layer: Layer, rows: Tensor) -> Tensor:
        """Return a convolution's outputs (N, O, H, W), with bias."""
        bias = self._workbench.bias(layer)
        size = layer.output.find(self._workbench.graph).meta["val"].shape[2:]
        return (rows if bias is None else rows + bias).reshape(-1, *size, rows.shape[1]).movedim(-1, 1)

    def _weight(self, layer: Layer) -> search.SplitWeight:
        groups = 1 if layer.window is None else layer.window.groups
        return search.SplitWeight(self._workbench.parameter(layer.weight), groups, self._recipe.weight_bits)

    def _feed(self, count: int) -> Feed:
        """Return the first images of a random order, one at a time."""
        return search.Feed(self._workbench.feed().source, self._pictures[:count], count)

    def _count_images(self, taps: Sequence[Tap]) -> list[int]:
        """Return how many images to look at for each whole tensor."""
        if not taps or self._recipe.rows == "all":
            return [len(self._pictures)] * len(taps)
        values = self._workbench.record(taps, on=Network.FLOAT, feed=self._feed(1))
        sizes = {tap.node: value.numel() for tap, value in zip(taps, values, strict=True)}
        for layer in self._layers:
            if (block := self._bridges.get(layer.node)) is not None:
                height, width = layer.output.find(self._workbench.graph).meta["val"].shape[2:]
                weight = self._weight(layer)
                rows = height * width * weight.value[0].numel() * weight.groups
                sizes[block.output.node] = max(sizes[block.output.node], rows // ROW_ELEMENTS)
        return [max(1, min(len(self._pictures), ELEMENTS // sizes[tap.node])) for tap in taps]

    def _find_spans(self) -> dict[Tap, list[Span]]:
        """Return the candidates of every input from its channels' ranges."""
        recipe, workbench = self._recipe, self._workbench
        heads = [tap for product in workbench.products for tap in product.operands]
        axes = [_head_axis(workbench, tap) for tap in heads]
        may_split = [recipe.granularity and self._uses[layer.weight] == 1 for layer in self._layers]
        may_split += [recipe.granularity and not recipe.symmetric and axis is not None for axis in axes]
        taps = [layer.input for layer in self._layers] + heads
        channels = iter([*(layer.input.channel for layer in self._layers), *(-1 if a is None else a for a in axes)])
        observers = workbench.observe(taps, lambda: search.ChannelRange(next(channels)), on=Network.FLOAT)
        asymmetric = recipe.scheme and not recipe.symmetric
        return {
            tap: search.find_spans(
                observer.lowest, observer.highest, recipe.activation_bits, split=split, asymmetric=asymmetric
            )
            for tap, observer, split in zip(taps, observers, may_split, strict=True)
        }

    def _find_gradients(self, whole: Sequence[Tap]) -> dict[str, Tensor]:
        """Return the gradient at each output in the network with default quantizers."""
        workbench = self._workbench
        for layer in self._layers:
            codes, scale = self._weight(layer).quantize(self._spans[layer.input][0], 1.0)
            workbench.set_weight(layer.weight, codes, scale.flatten(), bits=self._recipe.weight_bits)
        for tap, (default, *_) in self._spans.items():
            workbench.quantize_activation(tap, default.bits, default.steps, zero_point=0)
        gradients = partial(workbench.gradients, loss=search.divergence, on=Network.QUANTIZED)
        sampled = [layer.output for layer in self._layers if layer.node not in self._bridges]
        recorded = gradients(sampled, sample=self._sample, feed=self._all)
        values = dict(zip((tap.node for tap in sampled), recorded, strict=True))
        if whole:
            most = max(self._counts.values())
            for tap, value in zip(whole, gradients(whole, feed=self._feed(most)), strict=True):
                values[tap.node] = value[: len(value) // most * self._counts[tap.node]].clone()
        workbench.reset()
        return values


def _rows(picture: Tensor) -> Tensor:
    return picture.movedim(1, -1).flatten(0, -2)


def _head_axis(workbench: Workbench, tap: Tap) -> int | None:
    """Return the dimension of an operand's heads, from the end, or None."""
    shape = tap.find(workbench.graph).meta["val"].shape
    return -3 if len(shape) > 3 and isinstance(shape[-3], int) else None


def _place_product(workbench: Workbench, choice: _ProductChoice) -> None:
    for tap, span, factor in zip(choice.product.operands, choice.spans, choice.factors, strict=True):
        axis = len(tap.find(workbench.graph).meta["val"].shape) - 3 if span.is_split else None
        workbench.quantize_activation(tap, span.bits, span.steps * factor, span.zero_point, axis)
    default, best = choice.scores
    facts = {
        "granularity": ["head" if span.is_split else "tensor" for span in choice.spans],
        "scheme": [span.scheme for span in choice.spans],
        "input_factors": list(choice.factors),
    }
    workbench.record_step(STEP, choice.product.node, default=default, best=best, **facts)


def _find_folded(workbench: Workbench, choices: Sequence[_LayerChoice]) -> dict[str, _LayerChoice]:
    """Return the layers whose input factors the convolution before can take.

    They are named by that convolution. It has no activation function behind it and no other reader.
    """
    by_node = {choice.layer.node: choice for choice in choices}
    folded = {}
    for choice in choices:
        source = choice.layer.input.find(workbench.graph)
        producer = by_node.get(source.name)
        if producer is None or producer.layer.window is None or choice.layer.window is None:
            continue
        if choice.span.is_split and not producer.is_shared and len(source.users) == 1:
            folded[source.name] = choice
    return folded


def _place_layer(workbench: Workbench, choice: _LayerChoice, folded: dict[str, _LayerChoice], bits: int) -> None:
    """Place a layer's quantizers, and the factors of its input channels."""
    layer, span = choice.layer, choice.span
    groups = 1 if layer.window is None else layer.window.groups
    value, bias = workbench.parameter(layer.weight), workbench.bias(layer)
    weight = search.SplitWeight(value, groups, bits)
    codes, scale = weight.quantize(span, choice.weight_factor)
    value = value * weight.ratios(span)
    if (reader := folded.get(layer.node)) is not None:
        outer = 1 / reader.span.ratios
        scale, value = (x * outer.reshape(scale.shape) for x in (scale, value))
        if bias is not None:
            workbench.set_bias(layer, bias * outer)
    if layer.weight not in workbench.weights:
        if span.is_split or reader is not None:
            workbench.set_parameter(layer.weight, value)
        workbench.set_weight(layer.weight, codes, scale.flatten(), bits=bits)
    is_folded = any(other.layer is layer for other in folded.values())
    if span.is_split and not is_folded:
        channel = -1 if layer.window is None else -3
        factors = search.ChannelMultiply(1 / span.ratios, channel)
        workbench.insert_module(layer.input, f"input_factors_{layer.node}", factors)
        workbench.record_step("input multiply", layer.node, channels=len(span.steps))
    workbench.quantize_activation(layer.input, span.bits, span.mean * choice.factor, zero_point=span.zero_point)
    default, best = choice.scores
    workbench.record_step(
        STEP,
        layer.node,
        default=default,
        best=best,
        scored_at=choice.scored_at,
        granularity="channel" if span.is_split else "tensor",
        scheme=span.scheme,
        weight_factor=choice.weight_factor,
        input_factor=choice.factor,
        factors="none" if not span.is_split else "folded" if is_folded else "multiply",
    )


register(QHyViT(name="q-hyvit"))
