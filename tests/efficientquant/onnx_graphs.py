"""Small ONNX graphs for the tests of rules and verdicts."""

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper


class GraphWriter:
    """A writer of one graph, node by node.

    `model` returns it with the input `x`, by default (1, 8, 16, 16), and the last node's output.
    """

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}

    def constant(self, name: str, array: np.ndarray) -> str:
        """Store an array and return its name."""
        self.constants[name] = array
        return name

    def add(self, operator: str, *inputs: str, name: str | None = None, **attributes: object) -> str:
        """Append a node and return its output, which has the node's name."""
        name = name or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], name=name, **attributes))
        return name

    def give_outputs(self, count: int) -> None:
        """Give the last node that many outputs, further ones with numbers."""
        name = self.nodes[-1].output[0]
        self.nodes[-1].output.extend(f"{name}_{index}" for index in range(1, count))

    def quantized(self, x: str, scale: float = 0.05) -> str:
        """Append QuantizeLinear and DequantizeLinear in int8 and return the output."""
        parameters = (self.constant("act_scale", np.float32(scale)), self.constant("act_zero", np.int8(0)))
        return self.add("DequantizeLinear", self.add("QuantizeLinear", x, *parameters), *parameters)

    def stored_weight(self, name: str, shape: tuple[int, ...]) -> str:
        """Store an int8 weight and append its DequantizeLinear.

        It has one scale per output channel. Returns the dequantized weight.
        """
        codes = np.arange(np.prod(shape), dtype=np.int64).reshape(shape) % 255 - 127
        inputs = (
            self.constant(f"{name}_int8", codes.astype(np.int8)),
            self.constant(f"{name}_scale", np.full(shape[0], 0.01, dtype=np.float32)),
            self.constant(f"{name}_zero", np.zeros(shape[0], dtype=np.int8)),
        )
        return self.add("DequantizeLinear", *inputs, name=f"{name}_dequantize", axis=0)

    def model(
        self,
        *,
        opset: int = 13,
        ir_version: int = 8,
        shape: tuple[int | str, ...] = (1, 8, 16, 16),
        element_type: int = TensorProto.FLOAT,
        output: int = TensorProto.FLOAT,
    ) -> ModelProto:
        """Return the model, whose output is the last node's.

        `shape` and `element_type` are the input's.
        """
        graph = helper.make_graph(
            self.nodes,
            "graph",
            [helper.make_tensor_value_info("x", element_type, shape)],
            [helper.make_tensor_value_info(self.nodes[-1].output[0], output, None)],
            [numpy_helper.from_array(np.asarray(array), name) for name, array in self.constants.items()],
        )
        imports = [helper.make_opsetid("", opset)]
        if any(node.domain for node in self.nodes):
            imports.append(helper.make_opsetid("custom", 1))
        return helper.make_model(graph, opset_imports=imports, ir_version=ir_version)


def convolution(
    *, quantize_input: bool, quantize_weight: bool = True, silu: bool = False, group: int = 1
) -> ModelProto:
    """Return a model with one 3×3 convolution of 8 channels.

    With `silu`, SiLU and a quantized result follow it.
    """
    write = GraphWriter()
    x = write.quantized("x") if quantize_input else "x"
    shape = (8, 8 // group, 3, 3)
    plain = np.full(shape, 0.1, dtype=np.float32)
    weight = write.stored_weight("w", shape) if quantize_weight else write.constant("w", plain)
    y = write.add("Conv", x, weight, name="conv", pads=[1, 1, 1, 1], group=group)
    if silu:
        y = write.quantized(write.add("Mul", y, write.add("Sigmoid", y)))
        write.add("Relu", y)
    return write.model()
