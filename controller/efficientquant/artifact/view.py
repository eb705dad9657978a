"""A read-only view of an ONNX file.

It gives what the rules need: types, shapes, constants, producers and readers.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, numpy_helper

STANDARD_DOMAINS = ("", "ai.onnx")
CONVOLUTIONS = ("Conv", "ConvTranspose")
PRODUCTS = (*CONVOLUTIONS, "MatMul", "Gemm")
# Operators that may stand between a quantizer and its operator, since they only move or retype values.
TRANSPARENT = ("Transpose", "Reshape", "Slice", "Cast", "Identity")
FOUR_BIT_TYPES = (TensorProto.INT4, TensorProto.UINT4)

# The attributes of a Constant that hold plain numbers.
_NUMBERS = {"value_int": np.int64, "value_ints": np.int64, "value_float": np.float32, "value_floats": np.float32}
# The sizes of a value, None where a size is not known.
Shape = tuple[int | None, ...]


class GraphView:
    """Nodes in order, constants by name, producers, readers, types and shapes."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.nodes = list(model.graph.node)
        self.names = {id(node): node.name or f"#{index}" for index, node in enumerate(self.nodes)}
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self.producers: dict[str, NodeProto] = {}
        self.readers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in self.nodes:
            if node.op_type == "Constant":
                self._add_constant(node)
            for name in node.output:
                self.producers[name] = node
            for name in node.input:
                self.readers[name].append(node)
        self.types: dict[str, int] = {}
        self.shapes: dict[str, Shape] = {}
        self._infer_types_and_shapes()

    @property
    def opset(self) -> int:
        """The version of the standard operators, 0 where none is imported."""
        return next((opset.version for opset in self.model.opset_import if opset.domain in STANDARD_DOMAINS), 0)

    def branches(self) -> Iterator["GraphView"]:
        """Yield a view of every graph inside an operator.

        These are the branches of an If and the bodies of loops. A branch also reads the constants of the graph around
        it.
        """
        for node in self.nodes:
            for attribute in node.attribute:
                for graph in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                    opsets = self.model.opset_import
                    branch = GraphView(onnx.ModelProto(graph=graph, opset_import=opsets, ir_version=8))
                    branch.names = {key: f"{self.name(node)}/{name}" for key, name in branch.names.items()}
                    branch.constants = {**self.constants, **branch.constants}
                    branch.producers = {**self.producers, **branch.producers}
                    branch.types = {**self.types, **branch.types}
                    branch.shapes = {**self.shapes, **branch.shapes}
                    yield branch
                    yield from branch.branches()

    def name(self, node: NodeProto) -> str:
        """Return a node's name, or its place in the file as `#17`."""
        return self.names[id(node)]

    def array(self, name: str) -> np.ndarray | None:
        """Return the value of a constant, or None for a computed value."""
        tensor = self.constants.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def consumers(self, node: NodeProto) -> Iterator[NodeProto]:
        """Yield the nodes that read a node's outputs.

        Looks through nodes that only move or retype values.
        """
        outputs, passed = list(node.output), set()
        while outputs:
            for reader in self.readers[outputs.pop(0)]:
                if reader.op_type not in TRANSPARENT:
                    yield reader
                elif id(reader) not in passed:
                    passed.add(id(reader))
                    outputs += reader.output

    def source(self, name: str) -> NodeProto | None:
        """Return the node that a value comes from.

        Looks through nodes that only move or retype values. Returns None for initializers and inputs.
        """
        return self.producers.get(self.behind(name, TRANSPARENT))

    def is_dequantized(self, name: str) -> bool:
        """Tell whether a value is decoded from integers.

        A DequantizeLinear decodes it, or a multiplication of a cast constant.
        """
        node = self.source(name)
        return node is not None and (node.op_type == "DequantizeLinear" or self._codes_in(node) is not None)

    def is_four_bit(self, name: str) -> bool:
        """Tell whether a value is decoded from a constant of 4-bit integers."""
        node = self.source(name)
        if node is None:
            return False
        is_decoder = node.op_type == "DequantizeLinear"
        codes = self.behind(node.input[0], TRANSPARENT) if is_decoder else self._codes_in(node)
        return self.types.get(codes or "") in FOUR_BIT_TYPES

    def decodes_constant(self, node: NodeProto) -> bool:
        """Tell whether a multiplication decodes a constant of integers."""
        return self._codes_in(node) is not None

    def _codes_in(self, node: NodeProto) -> str | None:
        """Return the constant of integers that a multiplication decodes, or None."""
        if node.op_type != "Mul" or node.input[1] not in self.constants:
            return None
        codes = self.behind(node.input[0], (*TRANSPARENT, "Sub"))
        is_integer = self.types.get(codes) in (TensorProto.INT8, TensorProto.UINT8, *FOUR_BIT_TYPES)
        return codes if is_integer and codes in self.constants else None

    def behind(self, name: str, operators: Sequence[str]) -> str:
        """Return the value before a chain of operators, by their first inputs.

        A file may hold a cycle, whose first value is returned.
        """
        passed: set[str] = set()
        while name not in passed and (node := self.producers.get(name)) is not None and node.op_type in operators:
            passed.add(name)
            name = node.input[0]
        return name

    def is_weight(self, dequantize: NodeProto) -> bool:
        """Tell whether a DequantizeLinear decodes a constant.

        The constant is stored as integers, or quantized by a QuantizeLinear.
        """
        codes = self.behind(dequantize.input[0], TRANSPARENT)
        quantize = self.producers.get(codes)
        if quantize is not None and quantize.op_type == "QuantizeLinear":
            return quantize.input[0] in self.constants
        return codes in self.constants

    def is_constant(self, name: str) -> bool:
        """Tell whether a value is a constant, such as a weight.

        Dequantized, moved and retyped constants count too.
        """
        name = self.behind(name, TRANSPARENT)
        node = self.producers.get(name)
        if node is not None and node.op_type == "DequantizeLinear":
            return self.is_weight(node)
        return name in self.constants or (node is not None and self._codes_in(node) is not None)

    def weight_shape(self, name: str) -> tuple[int, ...] | None:
        """Return the shape of a weight as it is stored.

        The weight may be quantized. Returns None for a value that is no weight.
        """
        node = self.producers.get(name := self.behind(name, (*TRANSPARENT, "QuantizeLinear", "DequantizeLinear")))
        name = (self._codes_in(node) if node is not None else None) or name
        return tuple(self.constants[name].dims) if name in self.constants else None

    def _add_constant(self, node: NodeProto) -> None:
        for attribute in node.attribute:
            value = onnx.helper.get_attribute_value(attribute)
            if attribute.name == "value":
                tensor = TensorProto()
                tensor.CopyFrom(value)
            elif attribute.name in _NUMBERS:
                tensor = numpy_helper.from_array(np.asarray(value, _NUMBERS[attribute.name]))
            else:
                continue  # a string or a sparse tensor
            tensor.name = node.output[0]
            self.constants[tensor.name] = tensor

    def _infer_types_and_shapes(self) -> None:
        for tensor in self.model.graph.initializer:
            self.types[tensor.name] = tensor.data_type
            self.shapes[tensor.name] = tuple(tensor.dims)
        try:
            graph = onnx.shape_inference.infer_shapes(_with_known_shapes(self.model)).graph
        except (onnx.shape_inference.InferenceError, ValueError):
            graph = self.model.graph  # mixed or unknown types: what the file declares still counts
        for info in (*graph.input, *graph.value_info, *graph.output):
            tensor_type = info.type.tensor_type
            self.types[info.name] = tensor_type.elem_type
            if tensor_type.HasField("shape"):
                sizes = tensor_type.shape.dim
                self.shapes[info.name] = tuple(size.dim_value if size.HasField("dim_value") else None for size in sizes)


def _with_known_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model whose shapes ONNX can infer.

    ONNX infers none behind a GroupNormalization, whose result has the shape and the type of its input.
    """
    if not any(node.op_type == "GroupNormalization" for node in model.graph.node):
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for node in copy.graph.node:
        if node.op_type == "GroupNormalization":
            node.op_type = "Identity"
            del node.input[1:], node.attribute[:]
    return copy


def attribute_int(node: NodeProto, name: str, default: int) -> int:
    """Return a node's integer attribute, or `default` without one."""
    return next((attribute.i for attribute in node.attribute if attribute.name == name), default)


def type_name(element_type: int) -> str:
    """Return ONNX's name of an element type, such as FLOAT16 for 10."""
    return TensorProto.DataType.Name(element_type) if element_type in TensorProto.DataType.values() else "?"
