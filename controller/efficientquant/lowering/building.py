"""Insertion of nodes and initializers into an ONNX graph."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from efficientquant.quantizers import EMULATED, EMULATED_AT

# Set in the `meta` of nodes that compute in FP32 in a file of FP16 types.
KEEP_FLOAT32 = "keep_float32"


class NodeBuilder:
    """A builder that inserts nodes before a given node.

    They are named after that node, so that names are the same in every process, and emulate what it does. With
    `float32` they stay in FP32, whatever the rest of the graph becomes.
    """

    def __init__(self, graph: ir.Graph, anchor: ir.Node, name: str | None = None, *, float32: bool = False) -> None:
        self._graph = graph
        self._anchor = anchor
        self._prefix = name or str(anchor.name)
        self._float32 = float32
        self._count = 0
        marks = anchor.metadata_props
        # What the nodes emulate, and where.
        self.emulated = (marks[EMULATED], marks[EMULATED_AT]) if EMULATED in marks else None

    def op(self, op_type: str, *inputs: ir.Value, **attributes: int | float | str | Sequence[int]) -> ir.Value:
        """Insert one operator and return its first output."""
        name = self._name(op_type)
        values: dict[str, int | float | str | Sequence[int]] = {
            key: list(value) if isinstance(value, range) else value for key, value in attributes.items()
        }
        node = ir.node(op_type, list(inputs), attributes=values, name=name)
        node.outputs[0].name = f"{name}_output"
        if self._float32:
            node.meta[KEEP_FLOAT32] = True
        if self.emulated is not None:
            node.metadata_props[EMULATED], node.metadata_props[EMULATED_AT] = self.emulated
        self._graph.insert_before(self._anchor, node)
        return node.outputs[0]

    def scalar(self, value: float) -> ir.Value:
        """Return the initializer of this value, which all nodes share."""
        return add_initializer(self._graph, f"scalar_{value!r}", np.array(value, dtype=np.float32))

    def constant(self, array: np.ndarray) -> ir.Value:
        """Register an initializer and return it."""
        return add_initializer(self._graph, self._name("constant"), array)

    def _name(self, suffix: str) -> str:
        self._count += 1
        return f"{self._prefix}_{suffix}_{self._count}"


def add_initializer(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    """Return the initializer of that name, registering the array if needed."""
    if name in graph.initializers:
        return graph.initializers[name]
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def replace_node(graph: ir.Graph, node: ir.Node, value: ir.Value) -> None:
    """Replace a node's first output by a value, and remove the node.

    The value gets the output's name.
    """
    old = node.outputs[0]
    name, value.shape, value.type = old.name, old.shape, old.type
    ir.convenience.replace_all_uses_with(old, value, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    value.name = name


def insert_behind(graph: ir.Graph, node: ir.Node, new: ir.Node) -> None:
    """Insert a node that reads another's first output, before all other readers."""
    output, result = node.outputs[0], new.outputs[0]
    is_result = output.is_graph_output()
    ir.convenience.replace_all_uses_with(output, result, replace_graph_outputs=True)
    new.replace_input_with(0, output)
    graph.insert_after(node, new)
    if is_result:
        output.name, result.name = result.name, output.name


def only_reader(value: ir.Value) -> ir.Node | None:
    """Return the node that alone reads a value, or None."""
    readers = [use.node for use in value.uses()]
    return readers[0] if len(readers) == 1 and not value.is_graph_output() else None


def find_bias(node: ir.Node, x: ir.Value) -> ir.Value | None:
    """Return the vector that a node adds to x, or None.

    It is as long as the last dimension of x.
    """
    others = [value for value in node.inputs if value is not x and value is not None]
    is_constant = node.op_type == "Add" and len(others) == 1 and others[0].is_initializer()
    if not is_constant or x.shape is None or others[0].shape != ir.Shape(x.shape[-1:]):
        return None
    return others[0]


def array_of(value: ir.Value | None) -> np.ndarray:
    """Return the array of a constant."""
    tensor = ir.convenience.get_const_tensor(required(value))
    assert tensor is not None
    return tensor.numpy()


def required(value: ir.Value | None) -> ir.Value:
    """Return an input that its operator always has."""
    assert value is not None
    return value


def zero_point_name(codes: np.dtype, shape: tuple[int, ...]) -> str:
    """Name the zero-points that all symmetric quantizers of a shape share."""
    return "_".join(["zero_point", codes.name, *map(str, shape)])
