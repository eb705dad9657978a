"""Squares, written as powers."""

import onnx_ir as ir

from efficientquant.lowering.building import NodeBuilder, replace_node


def write_squares_as_powers(graph: ir.Graph) -> int:
    """Write squares as powers, and return their number.

    Only those in front of a mean count: ONNX Runtime finds a layer norm among primitives by this power [onnxruntime,
    layer_norm_fusion.cc].
    """
    squares = [node for node in graph if _is_square(node)]
    for node in squares:
        build = NodeBuilder(graph, node)
        x = node.inputs[0]
        assert x is not None
        replace_node(graph, node, build.op("Pow", x, build.scalar(2.0)))
    return len(squares)


def _is_square(node: ir.Node) -> bool:
    if node.op_type != "Mul" or node.inputs[0] is not node.inputs[1]:
        return False
    return [use.node.op_type for use in node.outputs[0].uses()] == ["ReduceMean"]
