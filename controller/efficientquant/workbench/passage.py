"""Images on their way through the float and the quantized network."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from efficientquant.graph.blocks import Tap
from efficientquant.graph.regions import size_hint
from efficientquant.images.calibration import CHUNK, CalibrationImages
from efficientquant.options import Network


class Passage:
    """The values of some images at one place of both networks.

    `advance` moves the place on, so each image runs through each operator once. The quantized network may be edited
    behind the place. Where tensors are too large for `memory_bytes`, some random images stop at the start. They follow
    as soon as they fit.
    """

    def __init__(
        self, networks: dict[Network, fx.GraphModule], images: CalibrationImages, order: Tensor, memory_bytes: int
    ) -> None:
        self._streams = {on: _Stream(module) for on, module in networks.items()}
        self._images, self._order = images, order
        self._fitting = _count_fitting(networks[Network.FLOAT], memory_bytes)
        self.count = 0

    def advance(self, tap: Tap, on: Network) -> Iterator[tuple[Tensor, int]]:
        """Yield the tensor of each chunk of images, and their number.

        Everything up to the tap runs first. Networks that are at the same place have the same images.
        """
        stream = self._streams[on]
        name = tap.find(stream.module).name
        stream.advance(name)
        return stream.values(name)

    def join(self, node: str) -> None:
        """Let as many images follow as fit from a node on."""
        count = min(len(self._order), max(CHUNK, self._fitting[node]))
        if count > self.count:
            images = self._images.part(self._order[self.count : count].sort().values)
            for stream in self._streams.values():
                stream.follow(images)
            self.count = count


class _Stream:
    """The values of images that the rest of a network needs."""

    def __init__(self, module: fx.GraphModule) -> None:
        self.module = module
        (entry,) = module.graph.find_nodes(op="placeholder")
        self._entry = entry.name
        self._done = {entry.name}
        self._chunks: list[dict[str, Any]] = []
        self._sizes: list[int] = []

    def follow(self, images: Iterable[Tensor]) -> None:
        """Run further images to where the others are."""
        live = {name for chunk in self._chunks[:1] for name in chunk} or {self._entry}
        done, self._done = self._done, {self._entry}
        run = self._runner(done, live)
        for chunk in images:
            self._chunks.append(run({self._entry: chunk.clone()}))
            self._sizes.append(len(chunk))

    def advance(self, name: str) -> None:
        """Run everything up to a node."""
        names = [node.name for node in self.module.graph.nodes]
        before = set(names[: names.index(name) + 1])
        if not before <= self._done:
            run = self._runner(before, {name})
            for place, chunk in enumerate(self._chunks):
                self._chunks[place] = run(chunk)

    def values(self, name: str) -> Iterator[tuple[Tensor, int]]:
        """Yield a node's tensor and the number of images of each chunk."""
        return ((chunk[name], size) for chunk, size in zip(self._chunks, self._sizes, strict=True))

    def _runner(self, until: set[str], wanted: set[str]) -> Callable[[dict[str, Any]], dict[str, Any]]:
        """Return a function that runs a chunk through further nodes.

        It takes the values that are needed there, and returns those that are needed after it.
        """
        data = _image_nodes(self.module)
        todo = [node for node in data if node.name in until and node.name not in self._done]
        self._done |= until
        live = [node for node in data if node.name in self._done and self._is_live(node, wanted)]
        graph, inputs = _cut(self.module, todo, [node for node in live if node in set(todo)])
        interpreter = fx.Interpreter(self.module, graph=graph)
        kept = [node.name for node in live]
        computed = [node.name for node in live if node in set(todo)]

        def run(chunk: dict[str, Any]) -> dict[str, Any]:
            with torch.no_grad():
                outputs = interpreter.run(*(chunk[name] for name in inputs)) if todo else ()
            values = chunk | dict(zip(computed, outputs, strict=True))
            return {name: values[name] for name in kept}

        return run

    def _is_live(self, node: fx.Node, wanted: set[str]) -> bool:
        return node.name in wanted or any(user.name not in self._done for user in node.users)


def _cut(module: fx.GraphModule, nodes: Sequence[fx.Node], wanted: Sequence[fx.Node]) -> tuple[fx.Graph, list[str]]:
    """Return the graph of some nodes, and the names of its inputs.

    What does not depend on the images is computed in it again, since an edit may have changed it.
    """
    inside, data = set(nodes), set(_image_nodes(module))
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    inputs = dict.fromkeys(source for node in nodes for source in node.all_input_nodes if source in data - inside)
    for source in inputs:
        copies[source] = graph.placeholder(source.name)
    needed = _constants(nodes, data)
    for node in module.graph.nodes:
        if node in inside or node in needed:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(tuple(copies[node] for node in wanted))
    return graph, [source.name for source in inputs]


def _constants(nodes: Sequence[fx.Node], data: set[fx.Node]) -> set[fx.Node]:
    """Return what the nodes read that does not depend on the images."""
    constants: set[fx.Node] = set()
    pending = [source for node in nodes for source in node.all_input_nodes if source not in data]
    while pending:
        node = pending.pop()
        if node not in constants:
            constants.add(node)
            pending += node.all_input_nodes
    return constants


def _image_nodes(module: fx.GraphModule) -> list[fx.Node]:
    """Return the nodes that depend on the images or their number."""
    depending: dict[fx.Node, None] = {}
    for node in module.graph.nodes:
        reads_images = any(source in depending for source in node.all_input_nodes)
        if node.op == "placeholder" or (reads_images and node.op != "output"):
            depending[node] = None
    return list(depending)


def _count_fitting(module: fx.GraphModule, memory_bytes: int) -> dict[str, int]:
    """Return how many images fit into memory from before each node on.

    What is needed of an image later is in memory, in float32 for each network.
    """
    nodes = list(module.graph.nodes)
    place = {node: index for index, node in enumerate(nodes)}
    data = _image_nodes(module)
    batch = size_hint(data[0].meta["val"].shape[0])
    elements = [0] * (len(nodes) + 1)  # alive before each node
    for node in data:
        if isinstance(value := node.meta.get("val"), torch.Tensor):
            last = max((place[user] for user in node.users), default=place[node])
            for index in range(place[node] + 1, last + 1):
                elements[index] += math.prod(map(size_hint, value.shape)) // batch
    largest = list(itertools.accumulate(reversed(elements), max))[::-1]
    bytes_each = 4 * len(Network)
    return {node.name: memory_bytes // max(1, bytes_each * largest[index]) for node, index in place.items()}
