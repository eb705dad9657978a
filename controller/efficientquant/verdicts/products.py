"""The layers that a verdict covers.

They are convolutions, linears, and products of two activations.
"""

import enum
from collections.abc import Iterator, Mapping

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


def stored_weights(view: GraphView) -> dict[str, str]:
    """Return the type of each layer's stored weight by the layer's name.

    The type is "int8" or "int4". A layer whose weight is float is left out.
    """
    types = {}
    for node, _ in find_products(view):
        weights = [name for name in node.input[:2] if view.is_constant(name) and view.is_dequantized(name)]
        if weights:
            types[view.name(node)] = "int4" if any(map(view.is_four_bit, weights)) else "int8"
    return types


def describe_gain(layers: list[LayerPrecision], stored: Mapping[str, str], decoded: str) -> str:
    """Return what the quantization gains, in one sentence.

    `stored` is that of `stored_weights`. `decoded` says when weights are decoded where the arithmetic is float, such as
    "dequantized on every inference".
    """
    integer, count = count_int8(layers), len(layers)
    floats = "FP16" if any(layer.precision is Precision.FP16 for layer in layers) else "FP32"
    if integer:
        rest = f", the rest in {floats}" if integer < count else ""
        return f"integer arithmetic in {integer} of {count} convolutions and matrix products{rest}"
    if stored:
        types = " or ".join(sorted(set(stored.values())))
        return (
            f"storage only: {len(stored)} weights are {types} in the file and {decoded}; "
            f"no layer computes in integers, all arithmetic is {floats}"
        )
    if floats == "FP16":
        return "FP16 only: no weight is stored as an integer, no layer computes in integers"
    return "nothing: no weight is stored as an integer, all arithmetic is FP32"
