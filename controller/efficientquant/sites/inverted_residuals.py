"""The inverted residuals and the residual streams' norms of a graph."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from torch import fx

from efficientquant.graph.blocks import Layer, Operator, find_layers, find_operators
from efficientquant.graph.capture import aten, get_tensor
from efficientquant.graph.roles import RELUS, SHAPE_ONLY

ACTIVATION_FUNCTIONS = (
    *RELUS,
    aten.silu.default,
    aten.silu_.default,
    aten.gelu.default,
    aten.hardswish.default,
    aten.hardswish_.default,
    aten.hardtanh.default,
    aten.hardtanh_.default,
    aten.leaky_relu.default,
    aten.leaky_relu_.default,
    aten.elu.default,
    aten.elu_.default,
)
SUMS = (aten.add.Tensor, aten.add_.Tensor)
PASSED_ON = (*SHAPE_ONLY, aten.dropout.default)


class InvertedResidual(NamedTuple):
    """The first and the last 1×1 convolution of an inverted residual."""

    expand: Layer
    project: Layer


def find_inverted_residuals(graph: fx.GraphModule) -> list[InvertedResidual]:
    """Return the inverted residuals of a captured float graph, in execution order.

    One is a 1×1 convolution, an activation function, a depthwise convolution, an activation function and a 1×1
    convolution. Nothing else reads the results in between.
    """
    layers = {layer.node: layer for layer in find_layers(graph)}
    nodes = {node.name: node for node in graph.graph.nodes}
    residuals = []
    for layer in layers.values():
        depthwise = _behind_function(nodes[layer.node], layers)
        project = None if depthwise is None else _behind_function(nodes[depthwise.node], layers)
        if depthwise is None or project is None:
            continue
        if _is_pointwise(layer) and _is_depthwise(graph, depthwise) and _is_pointwise(project):
            residuals.append(InvertedResidual(layer, project))
    return residuals


def find_stream_norms(graph: fx.GraphModule) -> list[Operator]:
    """Return the layer norms and group norms on residual streams.

    A group norm has one group. A norm's input is a sum, or a sum reads it too. Shape operators may stand in between.
    """
    nodes = {node.name: node for node in graph.graph.nodes}
    norms = find_operators(graph, (aten.layer_norm.default, aten.group_norm.default))
    return [norm for norm in norms if norm.operands and _is_on_stream(nodes[norm.node])]


def _behind_function(node: fx.Node, layers: dict[str, Layer]) -> Layer | None:
    """Return the layer behind a node and its activation function, or None."""
    function = _only_reader(node)
    if function is None or function.target not in ACTIVATION_FUNCTIONS:
        return None
    reader = _only_reader(function)
    return None if reader is None else layers.get(reader.name)


def _only_reader(node: fx.Node) -> fx.Node | None:
    """Return the only node that reads a result, as its first operand."""
    readers = list(node.users)
    return readers[0] if len(readers) == 1 and readers[0].args[0] is node else None


def _is_pointwise(layer: Layer) -> bool:
    window = layer.window
    if window is None or window.kernel != (1, 1) or window.groups != 1:
        return False
    return window.stride == (1, 1) and window.padding == (0, 0)


def _is_depthwise(graph: fx.GraphModule, layer: Layer) -> bool:
    window = layer.window
    return window is not None and window.groups > 1 and get_tensor(graph, layer.weight).shape[1] == 1


def _is_on_stream(norm: fx.Node) -> bool:
    if norm.target is aten.group_norm.default and norm.args[1] != 1:
        return False
    if norm.target is aten.layer_norm.default and len(_as_sequence(norm.args[1])) != 1:
        return False
    source = norm.args[0]
    while isinstance(source, fx.Node):
        if source.target in SUMS or _reaches_sum(source.users):
            return True
        source = source.args[0] if source.target in PASSED_ON else None
    return False


def _as_sequence(value: object) -> Sequence[object]:
    return value if isinstance(value, (list, tuple)) else (value,)


def _reaches_sum(users: Iterable[fx.Node]) -> bool:
    """Tell whether a sum is among users, or behind shape operators."""
    return any(user.target in SUMS or (user.target in PASSED_ON and _reaches_sum(user.users)) for user in users)
