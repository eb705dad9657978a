"""The float and the quantized network of a model, and their calibration."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn

from efficientquant.errors import RecipeOrderError
from efficientquant.graph.blocks import Block, Layer, Operator, Tap, find_blocks, find_layers, find_operators
from efficientquant.graph.capture import capture, fold_batch_norm
from efficientquant.graph.edits import copy_graph, observing
from efficientquant.graph.manifest import build_manifest
from efficientquant.graph.regions import Region
from efficientquant.graph.roles import NORMS, PRODUCTS, SOFTMAX
from efficientquant.images.calibration import CalibrationData, CalibrationImages, Progress, load_images, run_calibration
from efficientquant.models import checkpoint_notes, input_spec
from efficientquant.options import Network
from efficientquant.workbench.recording import (
    Feed,
    LayerRows,
    Loss,
    Sample,
    record,
    record_block_gradients,
    record_gradients,
    record_layer,
)

Observer = TypeVar("Observer", bound=nn.Module)


@dataclasses.dataclass(frozen=True)
class BlockStep:
    """A block with its inputs on both networks and its float outputs."""

    block: Block
    inputs: Mapping[Network, Feed]
    float_outputs: list[Tensor]


class Networks:
    """A captured model as two networks with the same node names.

    `graph` is the network with everything that was quantized so far. The other is the float network, as captured and
    with batch norm folded. It shares its tensors with `graph`.
    """

    def __init__(self, model: nn.Module, images: CalibrationData | None, progress: Progress | None) -> None:
        self.spec = input_spec(model)
        self.progress = progress
        self.notes: list[str] = checkpoint_notes(model)
        self.provenance: dict[str, Any] = {}
        self._float_weights: dict[str, Tensor] = {}  # the quantized weights, as they were before
        self._is_edited = False  # whether `graph` may differ from the float network
        self._calibration_data = images
        self._model = model
        self.report("capture", 0.0)
        self.graph = capture(model, self.spec.shape)
        self.manifest = build_manifest(model, self.graph)
        for name, weight in fold_batch_norm(self.graph).items():
            self._update(name, folded_into=weight)
        self._float_graph = copy_graph(self.graph)
        self.report("capture", 1.0)

    def report(self, phase: str, fraction: float) -> None:
        """Report a phase's progress to the caller."""
        if self.progress is not None:
            self.progress(phase, fraction)

    @cached_property
    def images(self) -> CalibrationImages:
        """The calibration images, synthetic ones by default."""
        images, provenance, notes = load_images(self._calibration_data, self.spec)
        self.notes += notes
        self.provenance["calibration"] = provenance
        return images

    @cached_property
    def layers(self) -> list[Layer]:
        """Every convolution and linear, in execution order."""
        return find_layers(self._float_graph)

    @cached_property
    def blocks(self) -> list[Block]:
        """The network as a chain of blocks, as find_blocks defines them."""
        return find_blocks(self._float_graph)

    @cached_property
    def products(self) -> list[Operator]:
        """Every product of two activations, such as attention's, in execution order."""
        products = [product for product in find_operators(self._float_graph, PRODUCTS) if len(product.operands) > 1]
        return [dataclasses.replace(product, operands=product.operands[-2:]) for product in products]

    @cached_property
    def softmaxes(self) -> list[Operator]:
        """Every softmax, in execution order."""
        return find_operators(self._float_graph, SOFTMAX)

    @cached_property
    def norms(self) -> list[Operator]:
        """Every normalization that is not folded, in execution order."""
        return find_operators(self._float_graph, NORMS)

    def observe(
        self, taps: Sequence[Tap], make_observer: Callable[[], Observer], *, on: Network | None = None
    ) -> list[Observer]:
        """Return observers at the taps after a run of the images.

        `on` names the network. It may be left out before the first edit, while both networks compute the same. Raises
        RecipeOrderError when it is left out later.
        """
        graph = self._network(self._require_network(on))
        with observing(graph, [tap.find(graph) for tap in taps], make_observer) as observers:
            run_calibration(graph, self.images, self.progress)
        return observers

    def record(
        self, taps: Sequence[Tap], *, on: Network, sample: Sample | None = None, feed: Feed | None = None
    ) -> list[Tensor]:
        """Return the tensors at the taps as recording.record does."""
        return record(self._network(on), taps, feed or self.feed(), sample)

    def record_layer(self, layer: Layer, *, on: Network, sample: Sample, feed: Feed | None = None) -> LayerRows:
        """Return a layer's sampled inputs and outputs as recording.record_layer does."""
        return record_layer(self._network(on), layer, feed or self.feed(), sample)

    def gradients(self, taps: Sequence[Tap], loss: Loss, *, on: Network, sample: Sample | None = None) -> list[Tensor]:
        """Return a loss's gradient at the taps as recording.record_gradients does."""
        return record_gradients(self._network(on), self._float_graph, taps, loss, self.feed(), sample)

    def block_gradients(
        self, step: BlockStep, taps: Sequence[Tap], loss: Loss, *, on: Network, sample: Sample | None = None
    ) -> list[Tensor]:
        """Return the gradient of a block's loss at taps of the block.

        `loss` gets the block's output for a chunk of its inputs on that network, and the float output.
        """
        feed = step.inputs[Network(on)]
        module = self._network(on)
        return record_block_gradients(module, step.block.output, taps, loss, feed, step.float_outputs, sample)

    def feed(self) -> Feed:
        """Return the images as the feed of the whole network."""
        (entry,) = self.graph.graph.find_nodes(op="placeholder")
        return Feed(entry.name, self.images, len(self.images))

    def walk(self) -> Iterator[BlockStep]:
        """Yield each block with its inputs, in execution order.

        The quantized inputs of a block come from the network as it is when the block is reached, so quantize a block
        before taking the next one. Each block runs once on each network. A block's inputs on both networks and its
        float outputs are in memory for all images.
        """
        start = list(self.feed().chunks)
        inputs = dict.fromkeys(Network, start)
        for block in self.blocks:
            feeds = {on: Feed(block.source, x, sum(map(len, x))) for on, x in inputs.items()}
            outputs = self.run_block(block, feeds[Network.FLOAT].chunks, on=Network.FLOAT)
            yield BlockStep(block, feeds, outputs)
            quantized = self.run_block(block, feeds[Network.QUANTIZED].chunks, on=Network.QUANTIZED)
            inputs = {Network.FLOAT: outputs, Network.QUANTIZED: quantized}

    def run_block(self, block: Block, chunks: Iterable[Tensor], *, on: Network) -> list[Tensor]:
        """Return a block's outputs for chunks of its input."""
        region = Region(self._network(on), block.source, [block.output])
        with torch.no_grad():
            return [region.run(chunk)[0] for chunk in chunks]

    def _network(self, on: Network) -> fx.GraphModule:
        return self._float_graph if Network(on) is Network.FLOAT else self.graph

    def _require_network(self, on: Network | None) -> Network:
        """Return the network that calibration runs on.

        Raises RecipeOrderError when the network was edited and `on` is None.
        """
        if on is None and self._is_edited:
            raise RecipeOrderError(
                "activations are calibrated after the network was edited; do it before, or say which network is meant: "
                "on=Network.FLOAT or on=Network.QUANTIZED"
            )
        return Network.FLOAT if on is None else Network(on)

    def _update(self, name: str, **changes: Any) -> None:
        self.manifest.entries[name] = dataclasses.replace(self.manifest.entries[name], **changes)
