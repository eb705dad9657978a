"""Replacement of quantizers' markers by operators that a target can run.

A marker becomes Q/DQ nodes, float operators, or nothing.
"""

import dataclasses
import enum
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx_ir as ir

from efficientquant.errors import LoweringError
from efficientquant.lowering.building import NodeBuilder, add_initializer, replace_node
from efficientquant.primitives import LN2, CalibratedLog2, DataFreeLog2, top_code
from efficientquant.quantizers import (
    ACTIVATION_MARKER,
    AFFINE_MARKER,
    DOMAIN,
    LOG2_MARKER,
    LOGIT_MARKER,
    WEIGHT_MARKER,
)
from efficientquant.targets import Int8, Target

UNSIGNED_ZERO = 128
PRODUCTS = ("Conv", "MatMul", "Gemm")
MARKERS = (WEIGHT_MARKER, ACTIVATION_MARKER, LOG2_MARKER, LOGIT_MARKER)
_ZERO = {np.int8: 0, np.uint8: UNSIGNED_ZERO}
# Operators that may stand between a quantizer and its operator.
TRANSPARENT = ("Transpose", "Reshape")


@dataclasses.dataclass
class Placement:
    """The outcome of replacing the markers.

    `rounded` has the tensor with the rounded values of each site that the graph still computes. `dropped` are the other
    sites. `dequantizers` counts the tensors in int8, `folded` the weights turned back to float.
    """

    rounded: dict[str, ir.Value] = dataclasses.field(default_factory=dict)
    dropped: set[str] = dataclasses.field(default_factory=set)
    dequantizers: int = 0
    folded: int = 0


class _WeightForm(enum.Enum):
    """The form in which a file holds a quantized weight."""

    FLOAT = enum.auto()  # turned back to float
    SIGNED = enum.auto()  # int8 codes
    UNSIGNED = enum.auto()  # uint8 codes, larger by 128
    FAKE = enum.auto()  # float, quantized to the same codes by the builder


def place_quantizers(graph: ir.Graph, target: Target, path: Path) -> Placement:
    """Replace every marker in place.

    The replacement depends on the target's INT8 support and the recipe's emulation. Raises LoweringError for a
    quantizer that the target does not support.
    """
    placement = Placement()
    markers = [node for node in graph if node.domain == DOMAIN]
    # The form of a weight depends on the markers around it, so it is decided before any marker is replaced.
    forms = {node: _weight_form(node, target) for node in markers if node.op_type == WEIGHT_MARKER}
    for node in markers:
        _require_form(node, forms.get(node), target, path)
    for node in markers:
        if node in forms:
            _place_weight(graph, node, placement, forms[node])
        elif node.op_type == ACTIVATION_MARKER and target.int8 is not Int8.NONE:
            _place_activation(graph, node, placement, target)
        elif node.op_type == LOGIT_MARKER:
            _place_logit(graph, node, placement)
        elif node.op_type == LOG2_MARKER and not node.attributes.get_int("dropped"):
            _place_log2(graph, node, placement)
        else:
            _leave_out(graph, node, placement)
    return placement


def _require_form(node: ir.Node, form: _WeightForm | None, target: Target, path: Path) -> None:
    """Raise LoweringError for a quantizer that the target does not support."""
    if node.op_type == AFFINE_MARKER:
        name = node.attributes.get_string("site")
        problem = "has a zero-point or a scale per channel, which no target takes from an activation yet"
        raise LoweringError(path, name, node.op_type, f"{problem}; quantize it symmetrically with one scale")
    if node.op_type not in MARKERS:
        raise LoweringError(path, str(node.name), node.op_type, "is a quantizer that no target has a form of")
    if node.op_type != WEIGHT_MARKER or form is _WeightForm.FLOAT:
        return
    if "group_size" in node.attributes:
        size = node.attributes.get_int("group_size")
        problem = (
            f"has a scale for each group of {size} columns, which needs opset 21; {target.name} has {target.opset}"
        )
        raise LoweringError(path, _weight_name(node), node.op_type, f"{problem}, use one scale per channel")
    if len(node.inputs) > 2 and target.is_tensorrt:
        problem = f"has zero-points, and {target.name} takes symmetric weights only; quantize it without zero-points"
        raise LoweringError(path, _weight_name(node), node.op_type, problem)


def _weight_name(node: ir.Node) -> str:
    return str(_given(node.inputs[0]).name).removesuffix("_dequantizer.codes")


def _weight_form(marker: ir.Node, target: Target) -> _WeightForm:
    both_inputs = all(_has_quantized_inputs(user) for user in _product_users(marker))
    if target.int8 is Int8.NONE or (target.int8 is Int8.BOTH_INPUTS and not both_inputs):
        return _WeightForm.FLOAT
    if target.is_tensorrt_8:
        # Its parser documents no int8 constant.
        return _WeightForm.FAKE
    # Without VNNI, ONNX Runtime's products of unsigned activations with signed weights saturate in 16 bits.
    return _WeightForm.UNSIGNED if both_inputs and not target.is_tensorrt else _WeightForm.SIGNED


def _product_users(marker: ir.Node) -> Iterable[ir.Node]:
    for use in marker.outputs[0].uses():
        if use.node.op_type in TRANSPARENT:
            yield from _product_users(use.node)
        else:
            yield use.node


def _has_quantized_inputs(user: ir.Node) -> bool:
    return user.op_type in PRODUCTS and all(_comes_from_marker(value) for value in user.inputs[:2])


def _comes_from_marker(value: ir.Value | None) -> bool:
    producer = value.producer() if value is not None else None
    while producer is not None and producer.op_type in TRANSPARENT:
        value = producer.inputs[0]
        producer = value.producer() if value is not None else None
    return producer is not None and producer.domain == DOMAIN and producer.op_type in (WEIGHT_MARKER, ACTIVATION_MARKER)


def _place_weight(graph: ir.Graph, node: ir.Node, placement: Placement, form: _WeightForm) -> None:
    """Write codes with a DequantizeLinear, or the dequantized weight."""
    codes, scale, *zero_points = (_initializer(value) for value in node.inputs)
    zero = zero_points[0].astype(np.float32) if zero_points else np.zeros((), np.float32)
    name = _weight_name(node)
    if "group_size" in node.attributes:
        size = node.attributes.get_int("group_size")
        scale, zero = (_spread(values, size, codes.shape) for values in (scale, zero))
    weight = (codes.astype(np.float32) - zero) * scale
    if form is _WeightForm.FLOAT:
        value = add_initializer(graph, f"{name}_dequantized", weight)
        replace_node(graph, node, value)
        value.name = name
        placement.folded += 1
        return
    axis = {"axis": 0} if scale.size > 1 else {}
    build = NodeBuilder(graph, node, name, float32=True)
    flat = scale.reshape(-1 if axis else ())
    kind: type[np.int8 | np.uint8] = np.uint8 if form is _WeightForm.UNSIGNED else np.int8
    if zero_points:
        shifted_zero = zero_points[0].reshape(flat.shape).astype(np.int16) + _ZERO[kind]
        zero_point = add_initializer(graph, f"{name}_zero_point", shifted_zero.astype(kind))
    else:
        zero_point = _zero_point(graph, flat.shape, kind)
    parameters = (add_initializer(graph, f"{name}_scale", flat), zero_point)
    if form is _WeightForm.FAKE:
        stored = build.op("QuantizeLinear", add_initializer(graph, f"{name}_float", weight), *parameters, **axis)
    elif form is _WeightForm.UNSIGNED:
        shifted = (codes.astype(np.int16) + UNSIGNED_ZERO).astype(np.uint8)
        stored = add_initializer(graph, f"{name}_uint8", shifted)
    else:
        stored = add_initializer(graph, f"{name}_int8", codes)
    replace_node(graph, node, build.op("DequantizeLinear", stored, *parameters, **axis))
    placement.dequantizers += 1


def _spread(values: np.ndarray, group_size: int, shape: tuple[int, ...]) -> np.ndarray:
    """Spread one value per group (O, groups) to each weight."""
    if values.ndim == 0:
        return values
    columns = int(np.prod(shape[1:]))
    return np.repeat(values, group_size, axis=1)[:, :columns].reshape(shape)


def _place_activation(graph: ir.Graph, node: ir.Node, placement: Placement, target: Target) -> None:
    """Write QuantizeLinear and DequantizeLinear for an activation.

    A Clip goes before them where the bits are fewer than 8. TensorRT accepts signed codes only. ONNX Runtime's kernels
    need unsigned ones: the same numbers plus 128.
    """
    scale, bits = node.attributes.get_float("scale"), node.attributes.get_int("bits")
    build = NodeBuilder(graph, node, float32=True)
    x = _given(node.inputs[0])
    if bits < 8:
        limit = scale * top_code(bits)
        x = build.op("Clip", x, build.scalar(-limit), build.scalar(limit))
    parameters = (build.scalar(scale), _zero_point(graph, (), np.int8 if target.is_tensorrt else np.uint8))
    codes = build.op("QuantizeLinear", x, *parameters)
    placement.rounded[node.attributes.get_string("site")] = codes
    placement.dequantizers += 1
    replace_node(graph, node, build.op("DequantizeLinear", codes, *parameters))


def _place_log2(graph: ir.Graph, node: ir.Node, placement: Placement) -> None:
    """Write the log2 quantizer in float operators behind the softmax."""
    rounded, result = _write_log2(NodeBuilder(graph, node, float32=True), node)
    placement.rounded[node.attributes.get_string("site")] = rounded
    replace_node(graph, node, result)


def _place_logit(graph: ir.Graph, node: ir.Node, placement: Placement) -> None:
    """Round the softmax's inputs to the log2 grid.

    This takes three operators, which leave softmax and product together.
    """
    build = NodeBuilder(graph, node)
    octave = LN2 * node.attributes.get_float("step")
    rounded = build.op("Round", build.op("Mul", _given(node.inputs[0]), build.scalar(1.0 / octave)))
    placement.rounded[node.attributes.get_string("site")] = rounded
    replace_node(graph, node, build.op("Mul", rounded, build.scalar(octave)))


def _leave_out(graph: ir.Graph, node: ir.Node, placement: Placement) -> None:
    placement.dropped.add(node.attributes.get_string("site"))
    ir.convenience.replace_all_uses_with(node.outputs[0], _given(node.inputs[0]), replace_graph_outputs=True)
    graph.remove(node, safe=True)


def _write_log2(build: NodeBuilder, node: ir.Node) -> tuple[ir.Value, ir.Value]:
    bits, x = node.attributes.get_int("bits"), _given(node.inputs[0])
    top = (1 << bits) - 1
    if "octaves" in node.attributes:
        codec = DataFreeLog2(bits=bits, octaves=node.attributes.get_int("octaves"))
        floor = build.scalar(codec.floor)
        logarithm = build.op("Log", build.op("Clip", x, floor, build.scalar(1.0)))
        rounded = build.op("Round", build.op("Mul", logarithm, build.scalar(-1.0 / (LN2 * codec.step))))
        decoded = build.op("Exp", build.op("Mul", rounded, build.scalar(-LN2 * codec.step)))
        # A probability below the floor gets the top code, which is exactly zero.
        return rounded, build.op("Where", build.op("Less", x, floor), build.scalar(0.0), decoded)
    calibrated = _calibrated(node, bits)
    logarithm = build.op("Log", build.op("Add", x, build.scalar(calibrated.epsilon)))
    rounded = build.op("Round", build.op("Mul", logarithm, build.scalar(1.0 / (LN2 * calibrated.step))))
    zero_point = build.scalar(float(calibrated.zero_point))
    codes = build.op("Clip", build.op("Add", rounded, zero_point), build.scalar(0.0), build.scalar(float(top)))
    scaled = build.op("Mul", build.op("Sub", codes, zero_point), build.scalar(LN2 * calibrated.step))
    positive = build.op("Sub", build.op("Exp", scaled), build.scalar(calibrated.epsilon))
    return rounded, build.op("Max", positive, build.scalar(0.0))


def _calibrated(node: ir.Node, bits: int) -> CalibratedLog2:
    attributes = node.attributes
    return CalibratedLog2(
        bits=bits,
        step=attributes.get_float("step"),
        zero_point=attributes.get_int("zero_point"),
        epsilon=attributes.get_float("epsilon"),
    )


def _zero_point(graph: ir.Graph, shape: tuple[int, ...], kind: type[np.int8 | np.uint8]) -> ir.Value:
    """Return the zero points that all quantizers of a shape share.

    TensorRT needs them written out even if they are zero.
    """
    name = "_".join(["zero_point", np.dtype(kind).name, *map(str, shape)])
    return add_initializer(graph, name, np.full(shape, _ZERO[kind], dtype=kind))


def _initializer(value: ir.Value | None) -> np.ndarray:
    tensor = ir.convenience.get_const_tensor(_given(value))
    assert tensor is not None
    return tensor.numpy()


def _given(value: ir.Value | None) -> ir.Value:
    assert value is not None
    return value
