"""The quantizers with which a target would be slower."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import onnx_ir as ir

from efficientquant.lowering.integer_products import (
    PRODUCTS,
    UNIFORM_MARKERS,
    is_depthwise,
    is_integer,
    is_lonely,
    is_unread,
    product_users,
    source_of,
    splits_fusion,
)
from efficientquant.quantizers import WEIGHT_MARKER
from efficientquant.targets import Int8, Runtime, Target


class PlacementRule(NamedTuple):
    """A kind of product that a target computes faster in float.

    `applies` gets the product and the target.
    """

    name: str
    applies: Callable[[ir.Node, Target], bool]


def _is_attention(node: ir.Node, target: Target) -> bool:
    if target.runtime is Runtime.OPENVINO:
        return False
    return node.op_type == "MatMul" and not any(map(_is_weight, node.inputs))


def _is_depthwise(node: ir.Node, target: Target) -> bool:
    return target.is_tensorrt and node.op_type == "Conv" and is_depthwise(node)


def _is_stem(node: ir.Node, target: Target) -> bool:
    source = source_of(node.inputs[0]) if target.is_tensorrt and node.op_type == "Conv" else node
    while source is not None and source.op_type in UNIFORM_MARKERS:
        source = source_of(source.inputs[0])
    return source is None


RULES = (
    # TensorRT fuses attention in float. ONNX Runtime needs more time for its codes than they save.
    PlacementRule("float-attention", _is_attention),
    # For its integer kernels, TensorRT widens a depthwise convolution fourfold and pads the image's three channels.
    PlacementRule("float-depthwise", _is_depthwise),
    PlacementRule("float-stem", _is_stem),
)


def find_float_products(graph: ir.Graph, target: Target, rules: Iterable[PlacementRule]) -> dict[ir.Node, str]:
    """Return the products that a rule computes in float.

    The result is {product: name of the rule}.
    """
    products = [node for node in graph if node.op_type in PRODUCTS and is_integer(node, target)]
    return {node: rule.name for rule in reversed(tuple(rules)) for node in products if rule.applies(node, target)}


def find_markers_of(products: Iterable[ir.Node], target: Target) -> list[ir.Node]:
    """Return the quantizers of activations that only these products read."""
    floats = set(products)
    markers = {marker: None for product in floats for value in product.inputs[:2] for marker in _markers_before(value)}
    return [
        marker
        for marker in markers
        if marker.op_type != WEIGHT_MARKER
        and not any(is_integer(user, target) and user not in floats for user in product_users(marker))
    ]


def is_superfluous(marker: ir.Node, target: Target, *, was_lonely: bool) -> bool:
    """Tell whether a quantizer lost its use when products became float.

    TensorRT needs quantizers for the inputs of products only. ONNX Runtime needs those of outputs too.
    """
    if target.is_tensorrt:
        return not any(is_integer(user, target) for user in product_users(marker))
    return not was_lonely and is_lonely(marker, target)


def find_useless(graph: ir.Graph, target: Target) -> list[ir.Node]:
    """Return the quantizers of activations that help no recipe on a target."""
    return [
        marker
        for marker in _activation_markers(graph)
        if splits_fusion(marker, target)
        or (target.int8 is Int8.BOTH_INPUTS and is_lonely(marker, target))
        or (target.runtime is Runtime.OPENVINO and is_unread(marker, target))
    ]


def find_function_markers(graph: ir.Graph, target: Target) -> list[ir.Node]:
    """Return the quantizers in SiLUs that only ONNX Runtime needs."""
    if target.runtime is Runtime.ONNX_RUNTIME:
        return []
    return [marker for marker in _activation_markers(graph) if _ends_function(marker) and is_lonely(marker, target)]


def _activation_markers(graph: ir.Graph) -> list[ir.Node]:
    return [node for node in graph if node.op_type in UNIFORM_MARKERS]


def _ends_function(marker: ir.Node) -> bool:
    """Tell whether a quantizer belongs to a SiLU in codes.

    It follows the sigmoid, or the product behind the sigmoid's quantizer.
    """
    producer = source_of(marker.inputs[0])
    if producer is None or producer.op_type != "Mul":
        return producer is not None and producer.op_type == "Sigmoid"
    factors = [value.producer() for value in producer.inputs if value is not None]
    return any(
        factor is not None and factor.op_type in UNIFORM_MARKERS and _ends_function(factor) for factor in factors
    )


def _markers_before(value: ir.Value | None) -> list[ir.Node]:
    producer = source_of(value)
    return [producer] if producer is not None and producer.op_type in (WEIGHT_MARKER, *UNIFORM_MARKERS) else []


def _is_weight(value: ir.Value | None) -> bool:
    producer = source_of(value)
    if producer is None:
        return value is not None and value.is_initializer()
    return producer.op_type == WEIGHT_MARKER
