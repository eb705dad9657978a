"""The products that a target computes in integers."""

from collections.abc import Iterable

import onnx_ir as ir

from efficientquant.quantizers import ACTIVATION_MARKER, AFFINE_MARKER, DOMAIN, WEIGHT_MARKER
from efficientquant.targets import Runtime, Target

UNIFORM_MARKERS = (ACTIVATION_MARKER, AFFINE_MARKER)
PRODUCTS = ("Conv", "MatMul", "Gemm")
# Operators that may stand between a quantizer and its operator.
TRANSPARENT = ("Transpose", "Reshape")
# Operators that reduce a tensor or pick a part of it.
_PICKING = ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum", "Slice", "Gather", "Split")
FUNCTIONS = ("Sigmoid", "Relu", "LeakyRelu", "Elu", "Clip", "HardSigmoid", "HardSwish", "Erf", "Gelu", "Mish")


def product_users(marker: ir.Node) -> Iterable[ir.Node]:
    """Yield the nodes that read a quantizer, behind any shape operator."""
    for use in marker.outputs[0].uses():
        if use.node.op_type in TRANSPARENT:
            yield from product_users(use.node)
        else:
            yield use.node


def is_integer(user: ir.Node, target: Target) -> bool:
    """Tell whether a target computes a node as a product of integers.

    Both of its inputs are quantized.
    """
    if user.op_type not in PRODUCTS or not all(_comes_from_marker(value) for value in user.inputs[:2]):
        return False
    if target.runtime is Runtime.OPENVINO:
        return not _reads_softmax(user) and not _is_miscomputed(user)
    return not (target.is_tensorrt_8 and is_depthwise(user) and _ends_in_silu_and_marker(user))


def is_unread(marker: ir.Node, target: Target) -> bool:
    """Tell whether no product of integers reads an activation.

    OpenVINO computes such a product with its bias and what follows in one kernel, whose result needs no quantizer.
    """
    return marker.op_type in UNIFORM_MARKERS and not any(is_integer(user, target) for user in product_users(marker))


def multiplies_activations(marker: ir.Node) -> bool:
    """Tell whether all readers of an activation multiply it by another one."""
    users = list(product_users(marker))
    return bool(users) and all(
        user.op_type == "MatMul" and all(_is_activation(value) for value in user.inputs) for user in users
    )


def _is_activation(value: ir.Value | None) -> bool:
    producer = source_of(value)
    return producer is None or producer.op_type != WEIGHT_MARKER


def _reads_softmax(node: ir.Node) -> bool:
    """Tell whether the first operand is a softmax.

    OpenVINO computes attention in one kernel. Its first product is in integers, the second one in float.
    """
    marker = source_of(node.inputs[0])
    softmax = source_of(marker.inputs[0]) if marker is not None else None
    return softmax is not None and softmax.op_type == "Softmax"


def _is_miscomputed(node: ir.Node) -> bool:
    """Tell whether OpenVINO 2026.4 computes a product of integers wrongly.

    It forgets the correction for the input's zero-point where a linear without a bias is reduced or sliced, and where
    the input is a maximum or a minimum. Our comparison of its logits found both.
    """
    if node.op_type == "Conv" or all(_is_activation(value) for value in node.inputs[:2]):
        return False
    marker = source_of(node.inputs[0])
    source = source_of(marker.inputs[0]) if marker is not None else None
    if source is not None and source.op_type in ("ReduceMax", "ReduceMin"):
        return True
    return any(reader.op_type in _PICKING for reader in _readers_of(node))


def _readers_of(node: ir.Node) -> Iterable[ir.Node]:
    """Yield a result's readers, behind quantizers and shape operators."""
    for use in node.outputs[0].uses():
        if use.node.op_type in (*TRANSPARENT, *UNIFORM_MARKERS):
            yield from _readers_of(use.node)
        else:
            yield use.node


def is_depthwise(node: ir.Node) -> bool:
    """Tell whether a convolution has one input channel per group."""
    weight = node.inputs[1]
    return (
        node.attributes.get_int("group", 1) > 1
        and weight is not None
        and weight.shape is not None
        and weight.shape[1] == 1
    )


def _ends_in_silu_and_marker(node: ir.Node) -> bool:
    """Tell whether a SiLU and a quantizer follow.

    Behind a depthwise convolution, TensorRT 8.5.2 has no INT8 kernel for that [NVIDIA/TensorRT issue 3385].
    """
    readers = [use.node for use in node.outputs[0].uses()]
    if {reader.op_type for reader in readers} != {"Sigmoid", "Mul"}:
        return False
    product = next(reader for reader in readers if reader.op_type == "Mul")
    return any(use.node.op_type in UNIFORM_MARKERS for use in product.outputs[0].uses())


def is_lonely(marker: ir.Node, target: Target) -> bool:
    """Tell whether an activation belongs to no product of integers.

    It is neither read nor computed by one, maybe with its bias.
    """
    if marker.op_type not in UNIFORM_MARKERS:
        return False
    producer = source_of(marker.inputs[0])
    if producer is not None and producer.op_type == "Add":
        sources = [source_of(value) for value in producer.inputs]
        producer = next((source for source in sources if source is not None and source.op_type in PRODUCTS), None)
    if producer is not None and is_integer(producer, target):
        return False
    return not any(is_integer(user, target) for user in product_users(marker))


def splits_fusion(marker: ir.Node, target: Target) -> bool:
    """Tell whether a quantizer stands between a convolution and its activation function.

    TensorRT computes both in one kernel, which takes the float result of the integer product. A quantizer between them
    would only add an error. In front of a depthwise convolution's SiLU, TensorRT 8 needs it: see
    `_ends_in_silu_and_marker`.
    """
    producer = marker.inputs[0].producer() if marker.inputs[0] is not None else None
    if (
        not target.is_tensorrt
        or marker.op_type not in UNIFORM_MARKERS
        or producer is None
        or producer.op_type != "Conv"
    ):
        return False
    if target.is_tensorrt_8 and is_depthwise(producer):
        return False
    readers = [use.node for use in marker.outputs[0].uses()]
    functions = [reader for reader in readers if _begins_function(reader)]
    return bool(functions) and all(reader in functions or reader.op_type == "Mul" for reader in readers)


def _begins_function(node: ir.Node) -> bool:
    """Tell whether a node is an activation function, or begins a GELU."""
    if node.op_type in FUNCTIONS:
        return True
    return node.op_type in ("Mul", "Div") and {use.node.op_type for use in node.outputs[0].uses()} == {"Erf"}


def source_of(value: ir.Value | None) -> ir.Node | None:
    """Return the node that computes a value, before any shape operator."""
    producer = value.producer() if value is not None else None
    while producer is not None and producer.op_type in TRANSPARENT:
        value = producer.inputs[0]
        producer = value.producer() if value is not None else None
    return producer


def _comes_from_marker(value: ir.Value | None) -> bool:
    producer = source_of(value)
    return producer is not None and producer.domain == DOMAIN and producer.op_type in (WEIGHT_MARKER, *UNIFORM_MARKERS)
