"""The role of each operator of a captured graph.

The time is linear in the graph's size.
"""

import dataclasses
import enum
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import cast

from torch import fx

from efficientquant.graph.capture import BATCH_NORM, CONVOLUTION, aten, get_tensor, parameter_name

LINEAR = aten.linear.default
SOFTMAX = (aten.softmax.int, aten._softmax.default)
WEIGHTED = (CONVOLUTION, LINEAR)
PRODUCTS = (aten.matmul.default, aten.bmm.default, aten.baddbmm.default)
RESHAPES = (
    aten.reshape.default,
    aten.view.default,
    aten.flatten.using_ints,
    aten.unflatten.int,
    aten._unsafe_view.default,
)
TRANSPOSES = (aten.transpose.int, aten.permute.default)
SHAPE_ONLY = (*RESHAPES, *TRANSPOSES, aten.contiguous.default, aten.clone.default)
PICTURE_NORMS = (BATCH_NORM, aten.group_norm.default)  # their channels are dimension 1
NORMS = (*PICTURE_NORMS, aten.layer_norm.default)
SILUS = (aten.silu.default, aten.silu_.default)
RELUS = (aten.relu.default, aten.relu_.default)
# The elementwise or normalizing operators that may stand between a bridge convolution and the reshape chain.
POINTWISE = (
    *NORMS,
    aten.dropout.default,
    *SILUS,
    *RELUS,
    aten.gelu.default,
    aten.hardswish.default,
    aten.hardswish_.default,
)

Step = Callable[[fx.Node], Iterable[fx.Node]]


class Role(enum.StrEnum):
    """The role of a parameter in the network."""

    STEM = "stem"
    CONV = "conv"
    DEPTHWISE = "depthwise"
    BRIDGE = "bridge"
    ATTENTION_QKV = "attention-qkv"
    ATTENTION_PROJ = "attention-proj"
    MLP = "mlp"
    NORM = "norm"
    HEAD = "head"
    OTHER = "other"
    UNUSED = "unused"


@dataclasses.dataclass(frozen=True)
class Roles:
    """The role of every operator, and the operators inside transformer blocks."""

    by_node: dict[fx.Node, Role]
    inside: set[fx.Node]

    def of(self, node: fx.Node | None) -> Role:
        """Return a node's role.

        None is the node of an unused parameter.
        """
        return Role.UNUSED if node is None else self.by_node.get(node, Role.OTHER)

    def in_transformer(self, node: fx.Node | None) -> bool:
        """Tell whether a node is part of a transformer block.

        It is in the block's attention, in its MLP, or between its bridges.
        """
        return node in self.inside or self.of(node) in (Role.ATTENTION_QKV, Role.ATTENTION_PROJ, Role.MLP)


def assign_roles(graph: fx.GraphModule) -> Roles:
    """Return the role of every operator.

    The first rule that fits decides.
    """
    nodes = list(graph.graph.nodes)
    weighted = [node for node in nodes if node.target in WEIGHTED]
    convolutions = [node for node in weighted if node.target is CONVOLUTION]
    softmaxes = [node for node in nodes if node.target in SOFTMAX]
    unfolding = _crossing(convolutions, nodes[::-1], _users)
    folding = _crossing(convolutions, nodes, _data_input)
    rules: list[tuple[Role, set[fx.Node]]] = [
        (Role.STEM, set(weighted) - _beyond_weighted(nodes, _inputs)),
        (Role.HEAD, set(weighted) - _beyond_weighted(nodes[::-1], _users)),
        (Role.ATTENTION_QKV, _attention_inputs(nodes, softmaxes)),
        (Role.ATTENTION_PROJ, _reach(softmaxes, _users)),
        (Role.BRIDGE, unfolding | folding),
        (Role.DEPTHWISE, {node for node in convolutions if _is_depthwise(graph, node)}),
    ]
    inside = _between_bridges(nodes, unfolding, folding)
    roles = {
        node: next((role for role, members in rules if node in members), _default_role(node, inside))
        for node in nodes
        if node.op == "call_function"
    }
    return Roles(roles, inside)


def _default_role(node: fx.Node, inside: set[fx.Node]) -> Role:
    if node.target is LINEAR or (node.target is CONVOLUTION and node in inside):
        return Role.MLP
    if node.target is CONVOLUTION:
        return Role.CONV
    return Role.NORM if node.target in NORMS else Role.OTHER


def _inputs(node: fx.Node) -> Iterable[fx.Node]:
    return node.all_input_nodes


def _users(node: fx.Node) -> Iterable[fx.Node]:
    return node.users


def _data_input(node: fx.Node) -> Iterable[fx.Node]:
    """Return an operator's data operand, without weights and computed sizes."""
    first = node.args[0] if node.args else None
    return (first,) if isinstance(first, fx.Node) else ()


def _reach(starts: Iterable[fx.Node], step: Step) -> set[fx.Node]:
    """Return the first convolutions and linears on each path from the starts."""
    reached: set[fx.Node] = set()
    seen: set[fx.Node] = set()
    pending = [neighbour for start in starts for neighbour in step(start)]
    while pending:
        node = pending.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.target in WEIGHTED:
            reached.add(node)
        else:
            pending.extend(step(node))
    return reached


def _beyond_weighted(ordered: Sequence[fx.Node], step: Step) -> set[fx.Node]:
    """Return the nodes with a convolution or linear somewhere along `step`.

    `ordered` has a node's neighbours before it.
    """
    beyond: set[fx.Node] = set()
    for node in ordered:
        if any(neighbour.target in WEIGHTED or neighbour in beyond for neighbour in step(node)):
            beyond.add(node)
    return beyond


def _attention_inputs(nodes: Sequence[fx.Node], softmaxes: list[fx.Node]) -> set[fx.Node]:
    """Return the convolutions and linears that compute queries, keys and values.

    Queries and keys come before a softmax, values are the other operand of its product.
    """
    others = _other_operands(nodes, set(softmaxes))
    return _reach(softmaxes, _inputs) | {n for n in others if n.target in WEIGHTED} | _reach(others, _inputs)


def _other_operands(nodes: Sequence[fx.Node], softmaxes: set[fx.Node]) -> list[fx.Node]:
    """Return the nodes that the probabilities are multiplied with.

    The product is a matmul, or the broadcast product of a context score. A softmax's probabilities pass through any
    operator but a product, a convolution or a linear.
    """
    carrying = set(softmaxes)
    reshaped = set(softmaxes)  # a softmax after shape operators and dropout only
    others: list[fx.Node] = []
    for node in nodes:
        inputs = node.all_input_nodes
        if not any(source in carrying for source in inputs):
            continue
        if node.target in (*PRODUCTS, aten.mul.Tensor):
            others += [source for source in inputs if source not in reshaped]
        elif node.target not in WEIGHTED:
            carrying.add(node)
            if len(inputs) == 1 and inputs[0] in reshaped:
                reshaped.add(node)
    return others


def _is_depthwise(graph: fx.GraphModule, node: fx.Node) -> bool:
    weight = parameter_name(node.args[1])
    grouped = len(node.args) > 6 and cast(int, node.args[6]) > 1
    return grouped and weight is not None and bool(get_tensor(graph, weight).shape[1] == 1)


def _crossing(convolutions: list[fx.Node], ordered: Sequence[fx.Node], step: Step) -> set[fx.Node]:
    """Return the convolutions that lead to a permuting reshape chain along `step`.

    Unfold, fold and patch embedding reshape and permute to turn a picture into tokens or back. The head split of an
    attention looks similar, but ends in a product and does not count. `ordered` has a node's neighbours before it.
    """
    # Whether a path from a node crosses. The indices say whether it has reshaped (first) and permuted (second) so far.
    crosses: dict[fx.Node, list[list[bool]]] = {}
    for node in ordered:
        crosses[node] = [[_crosses_from(node, r, p, crosses, step) for p in (0, 1)] for r in (0, 1)]
    return {node for node in convolutions if any(crosses[neighbour][0][0] for neighbour in step(node))}


def _crosses_from(
    node: fx.Node, reshaped: int, permuted: int, crosses: dict[fx.Node, list[list[bool]]], step: Step
) -> bool:
    if node.target in SHAPE_ONLY:
        reshaped |= node.target in RESHAPES
        permuted |= node.target in TRANSPOSES
    elif reshaped and permuted:
        return node.target not in PRODUCTS
    elif reshaped or permuted or node.target not in POINTWISE:
        return False
    return any(crosses[neighbour][reshaped][permuted] for neighbour in step(node))


def _between_bridges(nodes: Sequence[fx.Node], unfolding: set[fx.Node], folding: set[fx.Node]) -> set[fx.Node]:
    """Return the nodes between each unfolding bridge and its folding convolution.

    The folding convolution is the last one before the next unfolding bridge. The first convolution behind the unfolding
    may look like a folding convolution too: both are ends of the same chain.
    """
    starts = [index for index, node in enumerate(nodes) if node in unfolding]
    inside: set[fx.Node] = set()
    # The stretches do not overlap, so that all of them together are one walk through the graph.
    for start, end in itertools.pairwise([*starts, len(nodes) - 1]):
        last = next((index for index in range(end, start, -1) if nodes[index] in folding), None)
        if last is not None:
            inside |= _between(nodes[start : last + 1])
    return inside


def _between(stretch: Sequence[fx.Node]) -> set[fx.Node]:
    """Return the nodes on paths between the ends of a stretch.

    They depend on its first node, and its last node needs them. The two ends are not included.
    """
    dependent = {stretch[0]}
    for node in stretch[1:]:
        if any(source in dependent for source in node.all_input_nodes):
            dependent.add(node)
    needed = {stretch[-1]}
    for node in reversed(stretch[:-1]):
        if any(user in needed for user in node.users):
            needed.add(node)
    return (dependent & needed) - {stretch[0], stretch[-1]}
