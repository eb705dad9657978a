"""The layers that a verdict covers.

They are convolutions, linears, and products of two activations.
"""

import enum
from collections.abc import Iterator

from onnx import NodeProto

from efficientquant.artifact.view import CONVOLUTIONS, PRODUCTS, GraphView
from efficientquant.verdicts.build_verdict import LayerPrecision, Precision, count_int8


class Kind(enum.StrEnum):
    """The kind of a layer, by what it multiplies."""

    CONV = "conv"
    LINEAR = "linear"  # an activation with a weight
    PRODUCT = "product"  # two activations, as in attention


def find_products(view: GraphView) -> Iterator[tuple[NodeProto, Kind]]:
    """Yield every node that multiplies, in the order of the file."""
    for node in view.nodes:
        if node.op_type in CONVOLUTIONS:
            yield node, Kind.CONV
        elif node.op_type in PRODUCTS:
            weighted = any(view.is_constant(name) for name in node.input[:2])
            yield node, Kind.LINEAR if weighted else Kind.PRODUCT


def has_quantized_weight(view: GraphView, node: NodeProto) -> bool:
    """Tell whether the weight of a layer is decoded from integers."""
    return any(view.is_constant(name) and view.is_dequantized(name) for name in node.input[:2])


def describe_gain(layers: list[LayerPrecision], quantized_weights: int, decoded: str) -> str:
    """Return what the quantization gains, in one sentence.

    `quantized_weights` counts the layers whose weights are stored as integers. `decoded` says when they are decoded
    where the arithmetic is float, such as "dequantized on every inference".
    """
    integer, count = count_int8(layers), len(layers)
    floats = "FP16" if any(layer.precision is Precision.FP16 for layer in layers) else "FP32"
    if integer:
        rest = f", the rest in {floats}" if integer < count else ""
        return f"integer arithmetic in {integer} of {count} convolutions and matrix products{rest}"
    if quantized_weights:
        return (
            f"storage only: {quantized_weights} weights are int8 in the file and {decoded}; "
            f"no layer computes in integers, all arithmetic is {floats}"
        )
    if floats == "FP16":
        return "FP16 only: no weight is stored as an integer, no layer computes in integers"
    return "nothing: no weight is stored as an integer, all arithmetic is FP32"
