"""The convolutions that lead from a picture to a transformer's tokens."""

import dataclasses
from collections.abc import Iterable

import torch
from torch import fx

from efficientquant.graph.blocks import Layer, Tap, find_layers
from efficientquant.graph.roles import POINTWISE, SHAPE_ONLY, TRANSPOSES, Role, assign_roles


@dataclasses.dataclass(frozen=True)
class BridgeBlock:
    """The convolutions before an unfolding, in the unfolding's own module.

    `layers` are in execution order. `output` is the last one's output, which the unfolding turns into tokens.
    """

    module: str
    layers: tuple[Layer, ...]
    output: Tap


def find_bridges(graph: fx.GraphModule) -> list[BridgeBlock]:
    """Return the bridge blocks of a captured float graph, in execution order.

    The unfolding's module is the innermost one around its first operator, and has to hold the convolution before. Other
    convolutions in it count if the unfolding needs nothing else that depends on the images.
    """
    roles = assign_roles(graph)
    layers = {layer.node: layer for layer in find_layers(graph)}
    order = {node: index for index, node in enumerate(graph.graph.nodes)}
    blocks = []
    for node in graph.graph.nodes:
        unfolding = _unfolding_behind(node) if roles.of(node) is Role.BRIDGE and node.name in layers else None
        module = _stack(unfolding)[-1:] if unfolding is not None else []
        if not module or module[0] not in _stack(node):
            continue
        before = [other for other in order if order[other] <= order[node] and module[0] in _stack(other)]
        members = [
            layers[other.name]
            for other in before
            if other.name in layers and layers[other.name].window is not None and _is_all_of(other, node)
        ]
        blocks.append(BridgeBlock(module[0], tuple(members), layers[node.name].output))
    return blocks


def _unfolding_behind(node: fx.Node) -> fx.Node | None:
    """Return the first operator of the unfolding behind a convolution.

    An unfolding reshapes and permutes, in any order.
    """
    pending = list(node.users)
    while pending:
        reader = pending.pop(0)
        if reader.target in POINTWISE:
            pending += reader.users
        elif reader.target in SHAPE_ONLY and _permutes(reader):
            return reader
    return None


def _permutes(node: fx.Node) -> bool:
    """Tell whether a chain of shape operators permutes dimensions."""
    pending = [node]
    while pending:
        reader = pending.pop()
        if reader.target in TRANSPOSES:
            return True
        if reader.target in SHAPE_ONLY:
            pending += reader.users
    return False


def _is_all_of(node: fx.Node, end: fx.Node) -> bool:
    """Tell whether all data that reach `end` pass through a node."""
    pending, seen = [end], {node}
    while pending:
        current = pending.pop()
        if current in seen:
            continue
        seen.add(current)
        if current.op == "placeholder":
            return False
        pending += _data_inputs(current)
    return True


def _data_inputs(node: fx.Node) -> Iterable[fx.Node]:
    """Return a node's operands without computed sizes."""
    return [source for source in node.all_input_nodes if not isinstance(source.meta.get("val"), (int, torch.SymInt))]


def _stack(node: fx.Node) -> list[str]:
    """Return the names of the modules around a node, the outermost first."""
    return [name for name, _ in (node.meta.get("nn_module_stack") or {}).values() if name]
