"""Linears as Gemm, the product with a bias."""

from typing import NamedTuple

import onnx_ir as ir

from efficientquant.lowering.building import find_bias, only_reader, required
from efficientquant.lowering.integer_products import source_of
from efficientquant.lowering.passes.flat_linears import find_stacked_linears, flatten


class _Linear(NamedTuple):
    """A product with a transposed weight, and its bias."""

    product: ir.Node
    sum_of: ir.Node
    weight: ir.Value
    bias: ir.Value


def write_gemms(graph: ir.Graph) -> int:
    """Write linears of integers as Gemm, and return their number.

    ONNX Runtime computes a Gemm in integers up to its output, where that is quantized. Behind a MatMul it adds the bias
    in float, which takes more time than the integers save.
    """
    for node in find_stacked_linears(graph):
        if _match(node) is not None:
            flatten(graph, node)
    linears = [linear for node in graph if (linear := _match(node)) is not None]
    for linear in linears:
        _write(graph, linear)
    return len(linears)


def _write(graph: ir.Graph, linear: _Linear) -> None:
    product, sum_of, weight, bias = linear
    inputs = [product.inputs[0], weight, bias]
    gemm = ir.node("Gemm", inputs, attributes={"transB": 1}, name=f"{product.name}_gemm")
    old, new = sum_of.outputs[0], gemm.outputs[0]
    name, new.shape, new.type = old.name, old.shape, old.type
    graph.insert_before(sum_of, gemm)
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    graph.remove([sum_of, product], safe=True)
    new.name = name


def _match(node: ir.Node) -> _Linear | None:
    """Return a product's linear, or None.

    ONNX Runtime computes it in integers up to its output.
    """
    if node.op_type != "MatMul" or not all(map(_is_decoded, node.inputs[:2])):
        return None
    transpose, sum_of = required(node.inputs[1]).producer(), only_reader(node.outputs[0])
    bias = find_bias(sum_of, node.outputs[0]) if sum_of is not None else None
    if transpose is None or transpose.op_type != "Transpose" or sum_of is None or bias is None:
        return None
    readers = {use.node.op_type for use in sum_of.outputs[0].uses()}
    return _Linear(node, sum_of, required(transpose.inputs[0]), bias) if readers == {"QuantizeLinear"} else None


def _is_decoded(value: ir.Value | None) -> bool:
    source = source_of(value)
    return source is not None and source.op_type == "DequantizeLinear"
