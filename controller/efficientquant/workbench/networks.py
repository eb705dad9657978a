"""The float and the quantized network of a model, and their calibration."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn

from efficientquant.errors import RecipeOrderError
from efficientquant.graph.attention import find_paths
from efficientquant.graph.blocks import Block, Layer, Operator, Tap, find_blocks, find_layers, find_operators
from efficientquant.graph.capture import capture, fold_batch_norm
from efficientquant.graph.edits import copy_graph, observing
from efficientquant.graph.manifest import Step, build_manifest
from efficientquant.graph.regions import Region
from efficientquant.graph.roles import NORMS, PRODUCTS, RELUS, SOFTMAX
from efficientquant.images.calibration import (
    DEFAULT_IMAGES,
    CalibrationData,
    CalibrationImages,
    Progress,
    load_images,
    run_calibration,
)
from efficientquant.models import checkpoint_notes, input_spec
from efficientquant.options import Network
from efficientquant.sites.inverted_residuals import InvertedResidual, find_inverted_residuals, find_stream_norms
from efficientquant.workbench.passage import Passage
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
    """A block with its inputs on both networks.

    Its tensors are gone when the walk goes on. `known_outputs` are those of `float_outputs`, empty until it was called.
    """

    block: Block
    inputs: Mapping[Network, Feed]
    run_float: Callable[[], list[Tensor]]
    known_outputs: list[Tensor] = dataclasses.field(default_factory=list)

    @property
    def float_outputs(self) -> list[Tensor]:
        """The block's outputs on the float network, computed once."""
        if not self.known_outputs:
            self.known_outputs.extend(self.run_float())
        return self.known_outputs


class Networks:
    """A captured model as two networks with the same node names.

    `graph` is the network with everything that was quantized so far. The other is the float network, as captured and
    with batch norm folded. It shares its tensors with `graph`.
    """

    def __init__(self, model: nn.Module, images: CalibrationData | None, progress: Progress | None) -> None:
        self.spec = input_spec(model)
        self.progress = progress
        self.image_count = DEFAULT_IMAGES  # how many images to draw, where the data leave it open
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

    def record_step(
        self, name: str, node: str, *, default: float | None = None, best: float | None = None, **facts: Any
    ) -> None:
        """Record in the manifest what a step did at a node."""
        self.manifest.steps.append(Step(name, node, default, best, facts))

    def note_no_site(self, step: str, missing: str) -> None:
        """Record that the model has no place for a step."""
        self.notes.append(f"{step} did nothing: the model has no {missing}")
        self.manifest.steps.append(Step(step, "", facts={"sites": 0}))

    @property
    def has_images(self) -> bool:
        """Whether images were given."""
        return self._calibration_data is not None

    @cached_property
    def images(self) -> CalibrationImages:
        """The calibration images, synthetic ones by default."""
        images, provenance, notes = load_images(self._calibration_data, self.spec, self.image_count)
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

    @cached_property
    def stream_norms(self) -> list[Operator]:
        """Every norm on a residual stream, as find_stream_norms defines it."""
        return find_stream_norms(self._float_graph)

    @cached_property
    def inverted_residuals(self) -> list[InvertedResidual]:
        """Every inverted residual, as find_inverted_residuals defines it."""
        return find_inverted_residuals(self._float_graph)

    @cached_property
    def attention_maps(self) -> list[Tap]:
        """Every operand of a product that a softmax computes."""
        paths = find_paths(self._float_graph).items()
        readers = [(path[-1], path[-2] if len(path) > 1 else softmax) for softmax, path in paths if path]
        sources = {(node.name, operand.name) for node, operand in readers}
        operands = [operand for product in self.products for operand in product.operands]
        return [tap for tap in operands if (tap.node, tap.find(self._float_graph).name) in sources]

    def halve_images(self, seed: int) -> tuple[CalibrationImages, CalibrationImages]:
        """Return two random halves of the images.

        The first one has the odd image. A single image is in both.
        """
        order = self._shuffle(seed)
        middle = (len(order) + 1) // 2
        first, second = order[:middle], order[middle:] if len(order) > 1 else order
        return self.images.part(first.sort().values), self.images.part(second.sort().values)

    def is_rectified(self, layer: Layer) -> bool:
        """Tell whether a ReLU alone reads a layer's output."""
        users = list(Tap(layer.node).find(self._float_graph).users)
        return len(users) == 1 and users[0].target in RELUS

    def observe(
        self,
        taps: Sequence[Tap],
        make_observer: Callable[[], Observer],
        *,
        on: Network | None = None,
        images: CalibrationImages | None = None,
    ) -> list[Observer]:
        """Return observers at the taps after a run of the images.

        `images` are all calibration images by default. `on` names the network. It may be left out before the first
        edit, while both networks compute the same. Raises RecipeOrderError when it is left out later.
        """
        graph = self._network(self._require_network(on))
        with observing(graph, [tap.find(graph) for tap in taps], make_observer) as observers:
            run_calibration(graph, images or self.images, self.progress)
        return observers

    def record(
        self, taps: Sequence[Tap], *, on: Network, sample: Sample | None = None, feed: Feed | None = None
    ) -> list[Tensor]:
        """Return the tensors at the taps as recording.record does."""
        return record(self._network(on), taps, feed or self.feed(), sample)

    def record_layer(self, layer: Layer, *, on: Network, sample: Sample, feed: Feed | None = None) -> LayerRows:
        """Return a layer's sampled inputs and outputs as recording.record_layer does."""
        return record_layer(self._network(on), layer, feed or self.feed(), sample)

    def gradients(
        self,
        taps: Sequence[Tap],
        loss: Loss,
        *,
        on: Network,
        sample: Sample | None = None,
        feed: Feed | None = None,
    ) -> list[Tensor]:
        """Return a loss's gradient at the taps as recording.record_gradients does."""
        return record_gradients(self._network(on), self._float_graph, taps, loss, feed or self.feed(), sample)

    def block_gradients(
        self, step: BlockStep, taps: Sequence[Tap], loss: Loss, *, on: Network, sample: Sample | None = None
    ) -> list[Tensor]:
        """Return the gradient of a block's loss at taps of the block.

        `loss` gets the block's output for a chunk of its inputs on that network, and the float output.
        """
        feed = step.inputs[Network(on)]
        module = self._network(on)
        return record_block_gradients(module, step.block.output, taps, loss, feed, step.float_outputs, sample)

    def feed(self, images: CalibrationImages | None = None) -> Feed:
        """Return images, by default all, as the feed of the network."""
        (entry,) = self.graph.graph.find_nodes(op="placeholder")
        images = images or self.images
        return Feed(entry.name, images, len(images))

    def walk(self) -> Iterator[BlockStep]:
        """Yield each block with its inputs, in execution order.

        The quantized inputs of a block come from the network as it is when the block is reached, so quantize a block
        before taking the next one. Each block runs once on each network. A block's inputs on both networks are in
        memory for all images, and its float outputs where somebody asks for them.
        """
        start = list(self.feed().chunks)
        inputs = {on: list(start) for on in Network}
        del start
        for block in self.blocks:
            feeds = {on: Feed(block.source, x, sum(map(len, x))) for on, x in inputs.items()}
            step = BlockStep(block, feeds, partial(self.run_block, block, inputs[Network.FLOAT], on=Network.FLOAT))
            yield step
            if block is self.blocks[-1]:
                return
            if step.known_outputs:
                inputs[Network.FLOAT][:] = step.known_outputs
            else:
                self._advance(block, inputs[Network.FLOAT], Network.FLOAT)
            self._advance(block, inputs[Network.QUANTIZED], Network.QUANTIZED)

    def passage(self, seed: int, memory_bytes: int) -> Passage:
        """Return the images on their way through both networks, in random order."""
        networks = {on: self._network(on) for on in Network}
        return Passage(networks, self.images, self._shuffle(seed), memory_bytes)

    def _advance(self, block: Block, chunks: list[Tensor], on: Network) -> None:
        """Replace the chunks of a block's input by those of its output."""
        region = Region(self._network(on), block.source, [block.output])
        with torch.no_grad():
            for place, chunk in enumerate(chunks):
                chunks[place] = region.run(chunk)[0]

    def run_block(self, block: Block, chunks: Iterable[Tensor], *, on: Network) -> list[Tensor]:
        """Return a block's outputs for chunks of its input."""
        region = Region(self._network(on), block.source, [block.output])
        with torch.no_grad():
            return [region.run(chunk)[0] for chunk in chunks]

    def _shuffle(self, seed: int) -> Tensor:
        return torch.randperm(len(self.images), generator=torch.Generator().manual_seed(seed))

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
