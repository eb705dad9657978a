"""The forms in which a file holds quantized weights."""

import enum
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple, Self

import ml_dtypes
import numpy as np
import onnx_ir as ir

from efficientquant.errors import LoweringError
from efficientquant.lowering.building import (
    NodeBuilder,
    add_initializer,
    array_of,
    replace_node,
    required,
    zero_point_name,
)
from efficientquant.lowering.integer_products import is_integer, product_users
from efficientquant.targets import Int4, Int8, Int8Products, Runtime, Target


class Form(enum.Enum):
    """The form in which a file holds a quantized weight."""

    FLOAT = "float"  # turned back to float
    INT8 = "int8"
    UINT8 = "uint8"  # larger by 128
    INT4 = "int4"
    CAST_INT4 = "cast_int4"  # int4, cast to int8 before the product
    CAST_UINT4 = "cast_uint4"  # uint4, larger by 8, and cast to uint8 before the product
    FAKE = "fake"  # float, quantized to int8 by the builder


# What each form adds to the codes.
_SHIFTS = {Form.UINT8: 128, Form.CAST_UINT4: 8}
_TYPES = {
    Form.INT8: np.dtype(np.int8),
    Form.UINT8: np.dtype(np.uint8),
    Form.INT4: np.dtype(ml_dtypes.int4),
    Form.CAST_INT4: np.dtype(ml_dtypes.int4),
    Form.CAST_UINT4: np.dtype(ml_dtypes.uint4),
    Form.FAKE: np.dtype(np.int8),
}
# What the codes of a form are cast to.
_CASTS = {Form.CAST_INT4: Form.INT8, Form.CAST_UINT4: Form.UINT8}


class QuantizedWeight(NamedTuple):
    """A quantized weight: codes (O, ...), scales, zero-points, or 0 without them.

    Codes and zero-points have at most `bits`. Scales and zero-points are of the same shape: (), (O, 1, ...), or
    (O, groups) with a `group_size`.
    """

    node: ir.Node
    codes: np.ndarray
    scale: np.ndarray
    zero_point: np.ndarray
    group_size: int | None
    bits: int

    @classmethod
    def of(cls, marker: ir.Node) -> Self:
        """Read the weight of a marker.

        One group per output channel is a scale per channel.
        """
        codes, scale, *rest = (array_of(value) for value in marker.inputs)
        zero_point = rest[0] if rest else np.zeros(scale.shape, np.int8)
        size = marker.attributes.get_int("group_size") if "group_size" in marker.attributes else None
        if size is not None and scale.size in (1, len(codes)):
            shape = (-1, *[1] * (codes.ndim - 1)) if scale.size > 1 else ()
            scale, zero_point, size = scale.reshape(shape), zero_point.reshape(shape), None
        return cls(marker, codes, scale, zero_point, size, marker.attributes.get_int("bits"))

    @property
    def name(self) -> str:
        """The name of the weight in the model."""
        return str(required(self.node.inputs[0]).name).removesuffix("_dequantizer.codes")

    @property
    def has_zero_points(self) -> bool:
        """Whether the marker has zero-points, maybe all 0."""
        return len(self.node.inputs) > 2

    @property
    def columns(self) -> int:
        """The number of weights of an output channel."""
        return int(np.prod(self.codes.shape[1:]))

    @property
    def fits_four_bits(self) -> bool:
        """Whether four bits hold every code and zero-point."""
        return self.bits <= 4

    def dequantized(self) -> np.ndarray:
        """Return the float weight, (O, ...)."""
        scale, zero_point = self.scale, self.zero_point.astype(np.float32)
        if self.group_size is not None:
            scale, zero_point = (self._spread(values) for values in (scale, zero_point))
        weight: np.ndarray = (self.codes.astype(np.float32) - zero_point) * scale
        return weight

    def _spread(self, values: np.ndarray) -> np.ndarray:
        assert self.group_size is not None
        return np.repeat(values, self.group_size, axis=1)[:, : self.columns].reshape(self.codes.shape)


def choose_form(weight: QuantizedWeight, target: Target, floats: Collection[ir.Node] = ()) -> Form:
    """Return the smallest form that keeps a target's integer kernels.

    Four bits are for weights of float products, which every runtime decodes. A product of integers needs 8-bit codes,
    except where the runtime casts them. TensorRT would decode the weights of `floats` on every inference.
    """
    users = list(product_users(weight.node))
    both_inputs = all(is_integer(user, target) for user in users)
    if target.is_tensorrt and any(user in floats for user in users):
        return Form.FLOAT
    if target.runtime is Runtime.OPENVINO and all(_reads_constants(user) for user in users):
        return Form.FLOAT  # OpenVINO 2026.4 fails on it: the position encoding of EdgeNeXt is such a convolution
    if target.int8 is Int8.NONE or (target.int8 is Int8.BOTH_INPUTS and not both_inputs):
        return Form.FLOAT
    if target.is_tensorrt_8:
        # Its parser documents no int8 constant.
        return Form.FAKE
    is_small = weight.fits_four_bits and target.int4 is not Int4.NONE
    if is_small and (not both_inputs or weight.group_size is not None):
        return Form.INT4
    # OpenVINO has integer kernels for signed weights without a zero-point only.
    if not both_inputs or target.runtime is not Runtime.ONNX_RUNTIME or weight.group_size is not None:
        return Form.INT8
    is_cast = is_small and target.int4 is Int4.CAST
    if target.int8_products is Int8Products.EXACT:
        return Form.CAST_INT4 if is_cast else Form.INT8
    # Without VNNI, ONNX Runtime's products of unsigned activations with signed weights saturate in 16 bits.
    return Form.CAST_UINT4 if is_cast else Form.UINT8


def _reads_constants(node: ir.Node) -> bool:
    """Tell whether a node's result depends on no input of the model."""
    pending, seen = [node], {node}
    while pending:
        for value in pending.pop().inputs:
            producer = value.producer() if value is not None else None
            if value is not None and value.is_graph_input():
                return False
            if producer is not None and producer not in seen:
                seen.add(producer)
                pending.append(producer)
    return True


def is_decoded_once(weight: QuantizedWeight, target: Target) -> bool:
    """Tell whether a runtime decodes a weight when it loads the file.

    ONNX Runtime computes constants once, but a DequantizeLinear on every inference. In products of floats it is
    therefore written as a cast and a multiplication. MatMulNBits, which it would make of some DequantizeLinear, is
    slower too. A last group that is not full keeps its DequantizeLinear.
    """
    if target.runtime is not Runtime.ONNX_RUNTIME or all(is_integer(u, target) for u in product_users(weight.node)):
        return False
    if weight.fits_four_bits and target.int4 is Int4.FLOAT:
        return False  # it casts no 4-bit integers
    return weight.group_size is None or weight.columns % weight.group_size == 0


def require_form(weight: QuantizedWeight, form: Form, target: Target, path: Path, variant: str) -> None:
    """Raise LoweringError for a weight that the target does not read.

    The error offers `variant`, a recipe that TensorRT can hold.
    """
    if form is Form.FLOAT:
        return
    if weight.has_zero_points and target.is_tensorrt:
        advice = f"quantize with {variant}" if variant else "quantize it without zero-points"
        problem = f"has zero-points, and {target.name} takes symmetric weights only; {advice}"
        raise LoweringError(path, weight.name, weight.node.op_type, problem)
    if weight.group_size is None:
        return
    is_integer_conv = any(user.op_type == "Conv" and is_integer(user, target) for user in product_users(weight.node))
    bits = 4 if form is Form.INT4 else 8
    if problem := target.find_group_problem(weight.group_size, bits, is_integer_conv=is_integer_conv):
        problem = f"has a scale for each group of {weight.group_size} columns, {problem}"
        raise LoweringError(path, weight.name, weight.node.op_type, problem)


def place_decoded(graph: ir.Graph, weight: QuantizedWeight, form: Form) -> None:
    """Write codes with a cast and a multiplication."""
    node, name = weight.node, weight.name
    build = NodeBuilder(graph, node, name, float32=True)
    codes = _codes(graph, weight, weight.codes, form)
    if form is Form.INT4:
        codes = build.op("Cast", codes, to=int(ir.DataType.INT8))
    value = build.op("Cast", codes, to=int(ir.DataType.FLOAT))
    scale, zero_point = weight.scale, weight.zero_point.astype(np.float32)
    if weight.group_size is not None:
        groups = (len(weight.codes), -1, weight.group_size)
        value = build.op("Reshape", value, build.constant(np.array(groups, np.int64)))
        scale, zero_point = scale[..., None], zero_point[..., None]
    if np.any(zero_point):
        value = build.op("Sub", value, add_initializer(graph, f"{name}_zero_point", zero_point))
    value = build.op("Mul", value, add_initializer(graph, f"{name}_scale", scale))
    if weight.group_size is not None:
        value = build.op("Reshape", value, build.constant(np.array(weight.codes.shape, np.int64)))
    replace_node(graph, node, value)


def place_weight(graph: ir.Graph, weight: QuantizedWeight, form: Form, target: Target) -> None:
    """Write codes with a DequantizeLinear, or the dequantized weight."""
    node, name = weight.node, weight.name
    if form is Form.FLOAT:
        value = add_initializer(graph, f"{name}_dequantized", weight.dequantized())
        replace_node(graph, node, value)
        value.name = name
        return
    build = NodeBuilder(graph, node, name, float32=True)
    if weight.group_size is not None:
        replace_node(graph, node, _place_groups(graph, build, weight, form, target))
        return
    axis = {"axis": 0} if weight.scale.size > 1 else {}
    flat = (-1,) if axis else ()
    decoded_form = _CASTS.get(form, form)
    zero_points = weight.zero_point.reshape(flat).astype(np.int16) + _SHIFTS.get(form, 0)
    parameters = (
        add_initializer(graph, f"{name}_scale", weight.scale.reshape(flat)),
        _zero_points(graph, weight, form, target, zero_points.astype(_TYPES[decoded_form])),
    )
    if form is Form.FAKE:
        value = add_initializer(graph, f"{name}_float", weight.dequantized())
        codes = build.op("QuantizeLinear", value, *parameters, **axis)
    else:
        codes = _codes(graph, weight, weight.codes, form)
    if form in _CASTS:
        codes = build.op("Cast", codes, to=int(ir.DataType.from_numpy(_TYPES[decoded_form])))
    replace_node(graph, node, build.op("DequantizeLinear", codes, *parameters, **axis))


def _place_groups(graph: ir.Graph, build: NodeBuilder, weight: QuantizedWeight, form: Form, target: Target) -> ir.Value:
    """Write a matrix (O, columns) in blocks, in the weight's shape.

    TensorRT reads whole blocks only, so codes fill the last one up, and are cut off again.
    """
    size, columns = weight.group_size, weight.columns
    assert size is not None
    codes, shape = weight.codes.reshape(len(weight.codes), columns), weight.codes.shape
    is_cut = target.is_tensorrt and columns % size
    if is_cut:
        codes = np.pad(codes, ((0, 0), (0, -columns % size)))
    parameters = (
        add_initializer(graph, f"{weight.name}_scale", weight.scale),
        _zero_points(graph, weight, form, target, weight.zero_point.astype(_TYPES[form])),
    )
    stored = _codes(graph, weight, codes, form)
    value = build.op("DequantizeLinear", stored, *parameters, axis=1, block_size=size)
    if is_cut:
        value = build.op("Slice", value, *(build.constant(np.array([at], np.int64)) for at in (0, columns, 1)))
    if len(shape) > 2:
        value = build.op("Reshape", value, build.constant(np.array(shape, np.int64)))
    return value


def _codes(graph: ir.Graph, weight: QuantizedWeight, codes: np.ndarray, form: Form) -> ir.Value:
    stored = (codes.astype(np.int16) + _SHIFTS.get(form, 0)).astype(_TYPES[form])
    return add_initializer(graph, f"{weight.name}_{stored.dtype.name}", stored)


def _zero_points(graph: ir.Graph, weight: QuantizedWeight, form: Form, target: Target, values: np.ndarray) -> ir.Value:
    """Return the zero-points, which TensorRT needs even if they are zero.

    All symmetric weights of a shape share them, except where ONNX Runtime multiplies signed weights. Its option
    `session.x64quantprecision`, with which a CPU without VNNI computes them too, fails on shared ones.
    """
    is_signed_product = not target.is_tensorrt and target.int8_products is Int8Products.EXACT
    if weight.has_zero_points or is_signed_product:
        return add_initializer(graph, f"{weight.name}_zero_point", values)
    return add_initializer(graph, zero_point_name(_TYPES[form], values.shape), values)
