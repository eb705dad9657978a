"""Linears as Gemm, the product with a bias."""

import onnx_ir as ir

from efficientquant.lowering.building import find_bias, only_reader, required
from efficientquant.lowering.integer_products import source_of
from efficientquant.lowering.passes.flat_linears import find_stacked_linears, flatten


def write_gemms(graph: ir.Graph) -> int:
    """Write linears of integers as Gemm, and return their number.

    ONNX Runtime computes a Gemm in integers up to its output. Behind a MatMul it adds the bias in float, which takes
    more time than the integers save.
    """
    for node in find_stacked_linears(graph):
        if _has_integers(node):
            flatten(graph, node)
    products = [node for node in graph if _is_linear(node) and _has_integers(node)]
    for node in products:
        x, transposed = (required(value) for value in node.inputs[:2])
        sum_of, transpose = only_reader(node.outputs[0]), transposed.producer()
        assert sum_of is not None
        assert transpose is not None
        weight = required(transpose.inputs[0])
        bias = find_bias(sum_of, node.outputs[0])
        gemm = ir.node("Gemm", [x, weight, bias], attributes={"transB": 1}, name=f"{node.name}_gemm")
        old, new = sum_of.outputs[0], gemm.outputs[0]
        name, new.shape, new.type = old.name, old.shape, old.type
        graph.insert_before(sum_of, gemm)
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        graph.remove([sum_of, node], safe=True)
        new.name = name
    return len(products)


def _has_integers(node: ir.Node) -> bool:
    """Tell whether both factors of a product are decoded from integers."""
    sources = [source_of(value) for value in node.inputs[:2]]
    return all(source is not None and source.op_type == "DequantizeLinear" for source in sources)


def _is_linear(node: ir.Node) -> bool:
    if node.op_type != "MatMul" or len(node.outputs[0].shape or ()) != 2:
        return False
    transpose, reader = required(node.inputs[1]).producer(), only_reader(node.outputs[0])
    is_transposed = transpose is not None and transpose.op_type == "Transpose"
    return is_transposed and reader is not None and find_bias(reader, node.outputs[0]) is not None
