"""Multiply-accumulates of an ONNX node, for one image.

`graph.macs` counts the same operators in a captured graph.
"""

import math
from collections.abc import Sequence

from onnx import NodeProto

from efficientquant.artifact.view import GraphView, attribute_int

Sizes = Sequence[int]


def count_macs(operator: str, inputs: Sequence[Sizes], output: Sizes, *, is_transposed: bool = False) -> int:
    """Return the MACs of an operator.

    `inputs` and `output` are the shapes of its two factors and its result. Only convolutions and matrix products have
    any. `is_transposed` says that a Gemm's first factor is (K, M).
    """
    if operator == "Conv":
        return math.prod(output) * math.prod(inputs[1][1:])
    if operator == "ConvTranspose":
        return math.prod(inputs[0]) * math.prod(inputs[1][1:])
    if operator == "MatMul":
        return math.prod(output) * inputs[0][-1]
    if operator == "Gemm":
        return math.prod(output) * inputs[0][0 if is_transposed else -1]
    return 0


def macs_of_node(view: GraphView, node: NodeProto) -> int:
    """Return the MACs of a node, with a batch of one.

    0 where a shape is not known.
    """
    names = [*node.input[:2], node.output[0]]
    shapes = [view.shapes.get(name) for name in names]
    if len(shapes) < 3 or any(shape is None or None in shape[1:] for shape in shapes):
        return 0
    first, second, output = ([1 if size is None or size <= 0 else size for size in shape or ()] for shape in shapes)
    if not first or not second:
        return 0
    return count_macs(node.op_type, (first, second), output, is_transposed=bool(attribute_int(node, "transA", 0)))
