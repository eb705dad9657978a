"""Conversion of FP32 types to FP16, for typed targets.

Their builders take a file's types as they are. Inputs and outputs stay FP32. So do normalizations, whose sums of
squares overflow FP16, and everything that quantizers compute. Casts are inserted where the types meet.
"""

import numpy as np
import onnx_ir as ir

from efficientquant.lowering.building import KEEP_FLOAT32, add_initializer

FLOAT32_OPERATORS = frozenset({"LayerNormalization", "InstanceNormalization", "GroupNormalization"})
# (operator, input) that ONNX wants in FP32 whatever the data's type.
FLOAT32_INPUTS = frozenset({("Resize", 1), ("Resize", 2)})
HALF_MAX = float(np.finfo(np.float16).max)


def to_half(graph: ir.Graph) -> None:
    """Retype a graph in place, in execution order."""
    _Retyping(graph).run()


class _Retyping:
    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._halves: set[ir.Value] = set()
        self._casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def run(self) -> None:
        for node in list(self._graph):
            if node.op_type in FLOAT32_OPERATORS or KEEP_FLOAT32 in node.meta:
                self._give_inputs(node, ir.DataType.FLOAT)
            else:
                self._give_inputs(node, ir.DataType.FLOAT16)
                self._retype_outputs(node)
        for index, output in enumerate(self._graph.outputs):
            if output in self._halves:
                self._end_in_float(index, output)

    def _give_inputs(self, node: ir.Node, wanted: ir.DataType) -> None:
        for index, value in enumerate(node.inputs):
            if value is None or (node.op_type, index) in FLOAT32_INPUTS:
                continue
            is_half = value in self._halves
            if is_half is (wanted is ir.DataType.FLOAT16) or not (is_half or _is_float(value)):
                continue
            node.replace_input_with(index, self._converted(node, value, wanted))

    def _converted(self, node: ir.Node, value: ir.Value, wanted: ir.DataType) -> ir.Value:
        if (value, wanted) not in self._casts:
            constant = value.const_value if value.is_initializer() else None
            self._casts[value, wanted] = (
                self._cast(node, value, wanted) if constant is None else self._half_constant(value, constant.numpy())
            )
        return self._casts[value, wanted]

    def _cast(self, node: ir.Node, value: ir.Value, wanted: ir.DataType) -> ir.Value:
        name = f"{value.name}_to_{wanted.name.lower()}"
        cast = ir.node("Cast", [value], attributes={"to": int(wanted)}, name=name)
        cast.outputs[0].name = f"{name}_output"
        self._graph.insert_before(node, cast)
        return cast.outputs[0]

    def _half_constant(self, value: ir.Value, array: np.ndarray) -> ir.Value:
        # Masks and paddings use -inf or 1e9 as a very large number, so FP16's largest number serves as well.
        half = np.clip(array, -HALF_MAX, HALF_MAX).astype(np.float16)
        return add_initializer(self._graph, f"{value.name}_half", half)

    def _retype_outputs(self, node: ir.Node) -> None:
        target = node.attributes.get("to") if node.op_type == "Cast" else None
        if target is not None and target.value == ir.DataType.FLOAT:
            node.attributes["to"] = ir.AttrInt64("to", int(ir.DataType.FLOAT16))
        for output in node.outputs:
            if _is_float(output):
                output.type = ir.TensorType(ir.DataType.FLOAT16)
                self._halves.add(output)

    def _end_in_float(self, index: int, output: ir.Value) -> None:
        """Cast a graph output back to FP32 under its own name."""
        producer = output.producer()
        assert producer is not None
        name = output.name
        output.name = f"{name}_half"
        cast = ir.node("Cast", [output], attributes={"to": int(ir.DataType.FLOAT)}, name=f"{name}_to_float")
        cast.outputs[0].name, cast.outputs[0].shape = name, output.shape
        cast.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        self._graph.append(cast)
        self._graph.outputs[index] = cast.outputs[0]


def _is_float(value: ir.Value) -> bool:
    return value.dtype == ir.DataType.FLOAT
