"""Linears on matrices instead of stacks of matrices."""

import math
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from efficientquant.lowering.building import add_initializer, find_bias, insert_behind, only_reader, required
from efficientquant.lowering.integer_products import TRANSPARENT

# Functions of one tensor that treat each element alone.
_FUNCTIONS = ("Sigmoid", "Relu", "Gelu", "HardSwish", "Tanh", "Mish")
_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")


def flatten_linears(graph: ir.Graph) -> int:
    """Compute linears, their biases and functions on matrices, and return their number.

    TensorRT-RTX fuses bias and function into a product of two matrices, but not into that of a stack with a matrix.
    """
    linears = find_stacked_linears(graph)
    for node in linears:
        flatten(graph, node)
    return len(linears)


def find_stacked_linears(graph: ir.Graph) -> list[ir.Node]:
    """Return the products of a stack of matrices with a weight."""
    return [node for node in graph if _is_stacked_linear(node)]


def _is_stacked_linear(node: ir.Node) -> bool:
    if node.op_type != "MatMul":
        return False
    x, weight = (required(value) for value in node.inputs[:2])
    sizes = x.shape or ()
    return (
        len(sizes) > 2
        and all(isinstance(size, int) for size in sizes)
        and weight.shape is not None
        and len(weight.shape) == 2
        and _is_weight(weight)
    )


def _is_weight(value: ir.Value) -> bool:
    """Tell whether a value is constant, or a quantized weight."""
    producer = value.producer()
    while producer is not None and producer.op_type in (*TRANSPARENT, *_QUANTIZERS, "Slice", "Cast"):
        value = required(producer.inputs[0])
        producer = value.producer()
    return value.is_initializer()


def flatten(graph: ir.Graph, node: ir.Node) -> None:
    """Compute one linear, its bias and its function on a matrix.

    The quantizers around it move along.
    """
    *stack, columns = _sizes(required(node.inputs[0]))
    rows = math.prod(stack)
    first = _first_quantizer(node)
    first.replace_input_with(0, _as_matrix(graph, first, required(first.inputs[0]), [rows, columns]))
    for member in _quantizers(first, node):
        member.outputs[0].shape = ir.Shape([rows, columns])
    results = _sizes(node.outputs[0])[-1]
    last = node
    for member in (node, *_followers(node)):
        member.outputs[0].shape, last = ir.Shape([rows, results]), member
    insert_behind(graph, last, _reshape(graph, last.outputs[0], [*stack, results], str(node.name), "stack"))


def _as_matrix(graph: ir.Graph, reader: ir.Node, x: ir.Value, sizes: list[int]) -> ir.Value:
    """Return a stack of matrices as one matrix.

    What was one matrix before is returned itself.
    """
    source = x.producer()
    if source is not None and source.op_type == "Reshape" and required(source.inputs[0]).shape == ir.Shape(sizes):
        matrix = required(source.inputs[0])
        if only_reader(x) is reader:
            reader.replace_input_with(0, matrix)
            graph.remove(source, safe=True)
        return matrix
    reshape = _reshape(graph, x, sizes, str(reader.name), "matrix")
    graph.insert_before(reader, reshape)
    return reshape.outputs[0]


def _first_quantizer(node: ir.Node) -> ir.Node:
    """Return the first quantizer of a product's input, or the product.

    Quantizers that something else reads stay where they are.
    """
    producer = required(node.inputs[0]).producer()
    while producer is not None and _is_scalar_quantizer(producer) and only_reader(producer.outputs[0]) is node:
        node = producer
        producer = required(node.inputs[0]).producer()
    return node


def _quantizers(first: ir.Node, node: ir.Node) -> Iterator[ir.Node]:
    """Yield the quantizers in front of a product, the last first."""
    while node is not first:
        producer = required(node.inputs[0]).producer()
        assert producer is not None
        yield (node := producer)


def _is_scalar_quantizer(node: ir.Node) -> bool:
    scale = node.inputs[1] if node.op_type in _QUANTIZERS else None
    return scale is not None and scale.shape is not None and len(scale.shape) == 0


def _followers(node: ir.Node) -> Iterator[ir.Node]:
    """Yield the bias, the quantizers and the function behind a product.

    It ends where something else reads a result.
    """
    output = node.outputs[0]
    while not output.is_graph_output():
        reader = only_reader(output)
        silu = _silu(output) if reader is None else None
        if reader is not None and _is_flat(reader, output):
            yield reader
            output = reader.outputs[0]
        elif silu is not None:
            yield from silu
            output = silu[-1].outputs[0]
        else:
            return


def _is_flat(node: ir.Node, x: ir.Value) -> bool:
    return node.op_type in _FUNCTIONS or _is_scalar_quantizer(node) or find_bias(node, x) is not None


def _silu(x: ir.Value) -> list[ir.Node] | None:
    """Return the nodes of a SiLU of x, or None.

    They are the sigmoid, its quantizers and the product with x.
    """
    sigmoid = next((use.node for use in x.uses() if use.node.op_type == "Sigmoid"), None)
    if sigmoid is None:
        return None
    nodes = [sigmoid]
    while (reader := only_reader(nodes[-1].outputs[0])) is not None and _is_scalar_quantizer(reader):
        nodes.append(reader)
    is_silu = reader is not None and reader.op_type == "Mul" and {use.node for use in x.uses()} == {sigmoid, reader}
    return [*nodes, reader] if is_silu and reader is not None else None


def _reshape(graph: ir.Graph, x: ir.Value, sizes: list[int], name: str, kind: str) -> ir.Node:
    shape = add_initializer(graph, "_".join(["shape", *map(str, sizes)]), np.array(sizes, dtype=np.int64))
    node = ir.node("Reshape", [x, shape], name=f"{name}_{kind}")
    node.outputs[0].name = f"{name}_{kind}_output"
    node.outputs[0].shape, node.outputs[0].type = ir.Shape(sizes), x.type
    return node


def _sizes(value: ir.Value) -> list[int]:
    assert value.shape is not None
    return [int(size) for size in value.shape]  # type: ignore[arg-type]
