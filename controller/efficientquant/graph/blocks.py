"""The layers, blocks and tensors of a captured graph, in execution order."""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import fx

from efficientquant.graph.capture import CONVOLUTION, call_nodes, get_tensor, parameter_name
from efficientquant.graph.roles import PICTURE_NORMS, WEIGHTED


@dataclasses.dataclass(frozen=True)
class Tap:
    """A tensor of a network: a node's result or an operand.

    An operand is read behind its quantizers. `channel` is the dimension that is kept whole when positions are sampled:
    1 for pictures (N, C, H, W), -1 for tokens.
    """

    node: str
    operand: int | None = None
    channel: int = -1

    def find(self, module: fx.GraphModule) -> fx.Node:
        """Return the node whose result this is.

        Raises ValueError for an unknown node, and for an operand that is no tensor.
        """
        node: fx.Node | None = next((n for n in module.graph.nodes if n.name == self.node), None)
        if node is None:
            raise ValueError(f"the network has no node {self.node!r}")
        if self.operand is None:
            return node
        source = node.args[self.operand] if -len(node.args) <= self.operand < len(node.args) else None
        if not isinstance(source, fx.Node):
            raise ValueError(f"operand {self.operand} of {self.node!r} is no tensor")
        return source

    def find_data(self, module: fx.GraphModule) -> fx.Node:
        """Return the node as `find` does.

        Raises ValueError for a weight and for anything else that is the same for all images.
        """
        node = self.find(module)
        if node not in _data_nodes(module):
            where = f"{self.node!r}" if self.operand is None else f"operand {self.operand} of {self.node!r}"
            raise ValueError(
                f"{where} does not depend on the images; read a weight with `parameter`, "
                "change it with `set_parameter` or `set_weight`"
            )
        return node


@dataclasses.dataclass(frozen=True)
class Window:
    """The window of a convolution, each field as (rows, columns)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int


@dataclasses.dataclass(frozen=True)
class Layer:
    """A convolution or linear whose weight is a parameter.

    `weight` is the parameter's name, `node` the operator's name in the graph, `window` is None for a linear. A weight
    that two operators share belongs to two layers.
    """

    weight: str
    node: str
    window: Window | None

    @property
    def input(self) -> Tap:
        """The layer's input, behind its quantizers."""
        return Tap(self.node, 0, self._channel)

    @property
    def output(self) -> Tap:
        """The layer's output, with bias and before any activation function."""
        return Tap(self.node, None, self._channel)

    @property
    def _channel(self) -> int:
        return -1 if self.window is None else 1


@dataclasses.dataclass(frozen=True)
class Operator:
    """A product, softmax or normalization, with its tensors.

    `operands` are the tensors that depend on the images, behind their quantizers.
    """

    node: str
    operands: tuple[Tap, ...]
    output: Tap


@dataclasses.dataclass(frozen=True)
class Block:
    """A part of the network with one input and one output tensor.

    `source` and `output` name the nodes of these tensors. The output of a block is the source of the next one.
    """

    name: str
    source: str
    output: str
    layers: tuple[Layer, ...]


def find_layers(graph: fx.GraphModule) -> list[Layer]:
    """Return every layer of a captured float graph."""
    return _layers_of(graph, call_nodes(graph, *WEIGHTED))


def find_operators(graph: fx.GraphModule, targets: Sequence[object]) -> list[Operator]:
    """Return the calls of some operators in a captured float graph."""
    data = set(_data_nodes(graph))
    operators = []
    for node in call_nodes(graph, *targets):
        channel = 1 if node.target in PICTURE_NORMS else -1
        places = [place for place, operand in enumerate(node.args) if operand in data]
        operands = tuple(Tap(node.name, place, channel) for place in places)
        operators.append(Operator(node.name, operands, Tap(node.name, None, channel)))
    return operators


def find_blocks(graph: fx.GraphModule) -> list[Block]:
    """Return a float graph as a chain of blocks.

    A block is a largest module that is no container. A container only calls its children. It has one child, or splits
    into parts of which at least two have two or more layers. The model itself is always split. Operators outside of the
    blocks, and modules without layers, join the previous block. Neighbours are merged until only one tensor passes from
    each to the next, so a shortcut never crosses a boundary. A layer that reads constants only is in no block.
    """
    nodes = _data_nodes(graph)
    source, inner = nodes[0], nodes[1:]
    ends, modules = _narrow_places(inner), _block_modules(inner)
    parts: list[list[fx.Node]] = []
    open_part: list[fx.Node] = []
    for run in _runs(inner, modules):
        open_part += run
        if run[-1] not in ends:
            continue
        if _has_layer(open_part) or not parts:
            parts.append(open_part)
        else:
            parts[-1] += open_part
        open_part = []
    return _chain(graph, source, _without_empty_start(parts), modules)


def _layers_of(graph: fx.GraphModule, nodes: Iterable[fx.Node]) -> list[Layer]:
    named = [(parameter_name(node.args[1]), node) for node in nodes if node.target in WEIGHTED]
    return [Layer(name, node.name, _window(graph, name, node)) for name, node in named if name is not None]


def _window(graph: fx.GraphModule, weight: str, node: fx.Node) -> Window | None:
    if node.target is not CONVOLUTION:
        return None
    options: list[object] = list(node.args[3:])
    stride, padding, dilation, groups = options + [1, 0, 1, 1][len(options) :]
    height, width = get_tensor(graph, weight).shape[2:]
    return Window((height, width), _pair(stride), _pair(padding), _pair(dilation), cast(int, groups))


def _pair(value: object) -> tuple[int, int]:
    rows, columns = value if isinstance(value, (list, tuple)) and len(value) == 2 else (value, value)
    return cast(tuple[int, int], (rows, columns))


def _data_nodes(graph: fx.GraphModule) -> list[fx.Node]:
    """Return the nodes that carry an image's data, the model's input first."""
    carrying: dict[fx.Node, None] = {}
    for node in graph.graph.nodes:
        is_size = isinstance(node.meta.get("val"), (int, torch.SymInt))
        reads_data = any(source in carrying for source in node.all_input_nodes)
        if node.op == "placeholder" or (reads_data and not is_size and node.op != "output"):
            carrying[node] = None
    return list(carrying)


def _narrow_places(nodes: Sequence[fx.Node]) -> set[fx.Node]:
    """Return the nodes whose result is all that later nodes need."""
    place = {node: index for index, node in enumerate(nodes)}
    last_use = {node: max((place.get(user, len(nodes)) for user in node.users), default=0) for node in nodes}
    narrow: set[fx.Node] = set()
    alive: list[fx.Node] = []
    for index, node in enumerate(nodes):
        alive = [other for other in (*alive, node) if last_use[other] > index]
        if alive == [node]:
            narrow.add(node)
    return narrow


def _runs(nodes: Sequence[fx.Node], modules: set[str]) -> list[list[fx.Node]]:
    """Return the stretches of nodes that run in the same block module.

    A node outside of the block modules continues the previous stretch.
    """
    owner = ""
    owners: list[str] = []
    for node in nodes:
        owner = next((name for name in _stack(node) if name in modules), owner)
        owners.append(owner)
    pairs = zip(owners, nodes, strict=True)
    return [[node for _, node in run] for _, run in itertools.groupby(pairs, key=lambda pair: pair[0])]


def _block_modules(nodes: Sequence[fx.Node]) -> set[str]:
    """Return the names of the largest modules that are no containers."""
    children: dict[str, dict[str, None]] = {}
    layers: dict[str, int] = {}
    working: set[str] = set()
    for node in nodes:
        stack = _stack(node)
        for outer, inner in itertools.pairwise(["", *stack]):
            children.setdefault(outer, {})[inner] = None
        for name in stack:
            layers[name] = layers.get(name, 0) + (node.target in WEIGHTED)
        working.update(stack[-1:])

    def split(module: str) -> list[str]:
        if module in working:
            return [module]
        parts = [part for child in children[module] for part in split(child)]
        large = sum(layers[part] > 1 for part in parts)
        return parts if large > 1 or len(parts) == 1 else [module]

    return {part for child in children.get("", {}) for part in split(child)}


def _stack(node: fx.Node) -> list[str]:
    """Return the names of the modules around a node, the outermost first."""
    return [name for name, _ in (node.meta.get("nn_module_stack") or {}).values() if name]


def _has_layer(nodes: Iterable[fx.Node]) -> bool:
    return any(node.target in WEIGHTED for node in nodes)


def _without_empty_start(parts: list[list[fx.Node]]) -> list[list[fx.Node]]:
    """Join a first part without layers to the next one."""
    if len(parts) > 1 and not _has_layer(parts[0]):
        return [parts[0] + parts[1], *parts[2:]]
    return parts


def _chain(graph: fx.GraphModule, source: fx.Node, parts: list[list[fx.Node]], modules: set[str]) -> list[Block]:
    blocks = []
    for part in parts:
        layers = _layers_of(graph, part)
        blocks.append(Block(_name_of(part, modules), source.name, part[-1].name, tuple(layers)))
        source = part[-1]
    return blocks


def _name_of(part: Sequence[fx.Node], modules: set[str]) -> str:
    """Return the name of the module around all layers.

    A block module is preferred to the innermost one.
    """
    stacks = [_stack(node) for node in part if node.target in WEIGHTED] or [_stack(part[0])]
    shared = [level[0] for level in zip(*stacks, strict=False) if len(set(level)) == 1]
    return next((name for name in shared if name in modules), (shared or stacks[0] or [""])[-1])
