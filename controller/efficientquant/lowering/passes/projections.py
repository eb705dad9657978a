"""The joint projections of queries, keys and values."""

import numpy as np
import onnx_ir as ir

from efficientquant.lowering.building import add_initializer, required
from efficientquant.lowering.integer_products import TRANSPARENT, UNIFORM_MARKERS

# FP16 ends at 65504. A network that comes near it in FP16 is broken anyway.
LIMIT = 60000.0
# Operators between a projection and the product of queries and keys.
_BETWEEN = (
    *TRANSPARENT,
    *UNIFORM_MARKERS,
    *("QuantizeLinear", "DequantizeLinear", "Slice", "Split", "Squeeze", "Unsqueeze", "Gather", "Mul", "Div"),
)


def clip_projections(graph: ir.Graph) -> int:
    """Clip the output of each joint projection, and return their number.

    The output never leaves the limits. Without the clip, TensorRT-RTX computes queries, keys and values in a kernel
    each.
    """
    projections = find_joint_projections(graph)
    limits = [add_initializer(graph, f"scalar_{limit!r}", np.array(limit, np.float32)) for limit in (-LIMIT, LIMIT)]
    for node in projections:
        output = node.outputs[0]
        clip = ir.node("Clip", [output, *limits], name=f"{node.name}_clip")
        clip.outputs[0].name, clip.outputs[0].shape, clip.outputs[0].type = (
            f"{node.name}_clipped",
            output.shape,
            output.type,
        )
        ir.convenience.replace_all_uses_with(output, clip.outputs[0])
        clip.replace_input_with(0, output)
        graph.insert_after(node, clip)
    return len(projections)


def find_joint_projections(graph: ir.Graph) -> list[ir.Node]:
    """Return the biases of linears that compute queries and keys together.

    These are the nodes that add them.
    """
    projections: dict[ir.Node, None] = {}
    for product in graph:
        if product.op_type == "MatMul":
            origins = {_origin(value) for value in product.inputs[:2]}
            projections |= {origin: None for origin in origins if origin is not None and len(origins) == 1}
    return list(projections)


def _origin(value: ir.Value | None) -> ir.Node | None:
    """Return the node that adds a value's bias, or None.

    The value was picked from the result of a linear.
    """
    node = required(value).producer()
    while node is not None and node.op_type in _BETWEEN:
        node = required(node.inputs[0]).producer()
    if node is None or node.op_type != "Add":
        return None
    products = [value.producer() for value in node.inputs if value is not None and not value.is_initializer()]
    is_linear = len(products) == 1 and products[0] is not None and products[0].op_type == "MatMul"
    return node if is_linear else None
