"""Parts of a network, which run alone and show their values."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, fx

from efficientquant.graph.capture import aten

# Takes the value of a node and returns the value for its readers.
Visit = Callable[[Tensor], Tensor]
BATCH = "images_in_batch"


class Region:
    """The part of a network from node `source` to the nodes `wanted`.

    The region holds no tensors: it reads those of the network each time it runs. It does not include nodes that are
    inserted later. Raises ValueError when a wanted node needs more of the network than `source`.
    """

    def __init__(self, module: fx.GraphModule, source: str, wanted: Sequence[str]) -> None:
        nodes = {node.name: node for node in module.graph.nodes}
        self._module = module
        self._source = nodes[source]
        self._graph = _cut_out(module, self._source, [nodes[name] for name in wanted])

    def run(self, x: Tensor, visits: Mapping[str, Visit] | None = None) -> tuple[Tensor, ...]:
        """Return the wanted tensors, calling `visits` by node name on the way."""
        interpreter = _Visiting(self._module, self._graph, visits or {})
        inputs: list[Any] = [x.clone()]  # the first operator may work in place
        if any(node.target == BATCH for node in self._graph.find_nodes(op="placeholder")):
            inputs.append(_count_images(self._source, x))
        return cast(tuple[Tensor, ...], interpreter.run(*inputs))


class _Visiting(fx.Interpreter):
    def __init__(self, module: fx.GraphModule, graph: fx.Graph, visits: Mapping[str, Visit]) -> None:
        super().__init__(module, graph=graph)
        self._visits = visits

    def run_node(self, n: fx.Node) -> Any:
        """Run one node and pass its result through its visitor."""
        result = super().run_node(n)
        visit = self._visits.get(n.name)
        return result if visit is None else visit(result)


def _cut_out(module: fx.GraphModule, source: fx.Node, wanted: Sequence[fx.Node]) -> fx.Graph:
    """Copy the needed nodes into another graph, under the same names.

    Its inputs are the source and, where a node reads it, the number of images.
    """
    needed = _needed(source, wanted)
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {source: graph.placeholder(source.name)}
    sizes = [node for node in module.graph.nodes if node in needed and _is_batch_size(node)]
    if sizes and source.op != "placeholder":
        copies |= dict.fromkeys(sizes, graph.placeholder(BATCH))
    for node in module.graph.nodes:
        if node in needed and node not in copies:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(tuple(copies[node] for node in wanted))
    return graph


def _needed(source: fx.Node, wanted: Sequence[fx.Node]) -> set[fx.Node]:
    needed: set[fx.Node] = set()
    pending = list(wanted)
    while pending:
        node = pending.pop()
        if node is source or node in needed:
            continue
        if node.op == "placeholder":
            raise ValueError(f"node {wanted[-1].name!r} needs more of the network than {source.name!r}")
        needed.add(node)
        if source.op == "placeholder" or not _is_batch_size(node):
            pending.extend(node.all_input_nodes)
    return needed


def _is_batch_size(node: fx.Node) -> bool:
    """Tell whether a node reads the batch size of the model's input."""
    if node.target is not aten.sym_size.int:
        return False
    x, dimension = node.args
    return isinstance(x, fx.Node) and x.op == "placeholder" and isinstance(dimension, int) and dimension == 0


def _count_images(source: fx.Node, x: Tensor) -> int:
    """Return the number of images in a tensor, from its symbolic shape.

    Raises ValueError when no dimension depends on the number of images.
    """
    model_input = next(iter(source.graph.find_nodes(op="placeholder")))
    images = size_hint(model_input.meta["val"].shape[0])
    for size, length in zip(source.meta["val"].shape, x.shape, strict=True):
        if isinstance(size, torch.SymInt):
            return length * images // size_hint(size)
    raise ValueError(f"no dimension of {source.name!r} depends on the number of images")


def size_hint(size: int | torch.SymInt) -> int:
    """Return a size, for a symbolic one its value at capture."""
    return cast(int, size.node.hint) if isinstance(size, torch.SymInt) else size
