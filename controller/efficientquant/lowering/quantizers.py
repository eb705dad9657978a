"""Replacement of quantizers' markers by operators that a target can run.

A marker becomes Q/DQ nodes, float operators, or nothing.
"""

import dataclasses
from collections import Counter
from pathlib import Path

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
from efficientquant.lowering.integer_products import (
    UNIFORM_MARKERS,
    is_lonely,
    multiplies_activations,
    product_users,
)
from efficientquant.lowering.log2 import write_log2
from efficientquant.lowering.placement import (
    RULES,
    find_float_products,
    find_function_markers,
    find_markers_of,
    find_useless,
    is_superfluous,
)
from efficientquant.lowering.weights import (
    Form,
    QuantizedWeight,
    choose_form,
    is_decoded_once,
    place_decoded,
    place_weight,
    require_form,
)
from efficientquant.primitives import LN2, top_code
from efficientquant.quantizers import (
    ACTIVATION_MARKER,
    AFFINE_MARKER,
    CODES_MARKER,
    DOMAIN,
    LOG2_MARKER,
    LOGIT_MARKER,
    WEIGHT_MARKER,
)
from efficientquant.targets import Int8, Runtime, Target

UNSIGNED_ZERO = 128
MARKERS = (WEIGHT_MARKER, *UNIFORM_MARKERS, LOG2_MARKER, LOGIT_MARKER, CODES_MARKER)
# What a clip in front of an 8-bit quantizer emulates.
NARROW = "codes of fewer than 8 bits"
# What a division and a multiplication around a quantizer with step 1 emulate.
STEPS = "steps by channel of a matrix product's operand"
MATRIX_PRODUCTS = ("MatMul", "Gemm")
_ZERO = {np.int8: 0, np.uint8: UNSIGNED_ZERO}


@dataclasses.dataclass
class Placement:
    """The outcome of replacing the markers.

    `rounded` has the tensor with the rounded values of each site that the graph still computes. `dropped` are the other
    sites. `dequantizers` counts the tensors in integers behind a DequantizeLinear, `decoded` the weights in integers
    behind a cast, `folded` the weights turned back to float, `widened` the 4-bit weights kept in 8 bits, `fake` the
    weights in FP32 behind a QuantizeLinear, and `blocks` the weights with a scale for each group. `rules` counts the
    products that each rule computes in float, and `floats` are these.
    """

    rounded: dict[str, ir.Value] = dataclasses.field(default_factory=dict)
    dropped: set[str] = dataclasses.field(default_factory=set)
    dequantizers: int = 0
    decoded: int = 0
    folded: int = 0
    widened: int = 0
    fake: int = 0
    four_bit: int = 0
    blocks: int = 0
    rules: dict[str, int] = dataclasses.field(default_factory=dict)
    floats: set[ir.Node] = dataclasses.field(default_factory=set)

    def count(self, weight: QuantizedWeight, form: Form, *, is_decoded: bool = False) -> None:
        """Count a weight in the form that it got."""
        if form is Form.FLOAT:
            self.folded += not any(user in self.floats for user in product_users(weight.node))
            return
        is_narrow = form in (Form.INT4, Form.CAST_INT4, Form.CAST_UINT4)
        self.dequantizers += not is_decoded
        self.decoded += is_decoded
        self.four_bit += is_narrow
        self.widened += weight.fits_four_bits and form in (Form.INT8, Form.UINT8)
        self.fake += form is Form.FAKE
        self.blocks += weight.group_size is not None and not is_decoded


def place_quantizers(
    graph: ir.Graph, target: Target, path: Path, variant: str = "", *, leaves_out_slow: bool = False
) -> Placement:
    """Replace every marker in place.

    The replacement depends on the target's INT8 support and the recipe's emulation. With `leaves_out_slow` products
    that the target computes faster in float are left to it. Raises LoweringError for a quantizer that the target does
    not support. The error offers `variant`, a recipe that TensorRT can hold.
    """
    placement = Placement()
    if leaves_out_slow and target.int8 is not Int8.NONE:
        _leave_out_slow(graph, target, placement)
    for node in find_function_markers(graph, target):
        _leave_out(graph, node, placement)
    for node in [node for node in graph if node.domain == DOMAIN and node.op_type != WEIGHT_MARKER]:
        _require_form(node, target, path, variant)
    for node in find_useless(graph, target):
        _leave_out(graph, node, placement)
    markers = [node for node in graph if node.domain == DOMAIN]
    # The form of a weight depends on the markers around it, so it is decided before any marker is replaced.
    weights = {node: QuantizedWeight.of(node) for node in markers if node.op_type == WEIGHT_MARKER}
    forms = {node: choose_form(weight, target, placement.floats) for node, weight in weights.items()}
    decoded = {node for node, weight in weights.items() if is_decoded_once(weight, target)}
    signed = {node for node in markers if _takes_signed_codes(node, target)}
    for node, weight in weights.items():
        require_form(weight, forms[node], target, path, variant)
    for node in markers:
        if node in decoded:
            placement.count(weights[node], forms[node], is_decoded=True)
            place_decoded(graph, weights[node], forms[node])
        elif node in forms:
            placement.count(weights[node], forms[node])
            place_weight(graph, weights[node], forms[node], target)
        elif node.op_type == ACTIVATION_MARKER and target.int8 is not Int8.NONE:
            _place_activation(graph, node, placement, np.int8 if node in signed else np.uint8)
        elif node.op_type == AFFINE_MARKER and target.int8 is not Int8.NONE:
            if "axis" in node.attributes and any(user.op_type in MATRIX_PRODUCTS for user in product_users(node)):
                _place_divided(graph, node, placement)
            else:
                _place_affine(graph, node, placement, target)
        elif node.op_type == CODES_MARKER:
            _place_codes(graph, node, placement)
        elif node.op_type == LOGIT_MARKER:
            _place_logit(graph, node, placement)
        elif node.op_type == LOG2_MARKER and not node.attributes.get_int("dropped"):
            _place_log2(graph, node, placement)
        else:
            _leave_out(graph, node, placement)
    return placement


def _leave_out_slow(graph: ir.Graph, target: Target, placement: Placement) -> None:
    """Leave out the quantizers of products that are faster in float."""
    products = find_float_products(graph, target, RULES)
    markers = [node for node in graph if node.op_type in UNIFORM_MARKERS]
    lonely = {node for node in markers if is_lonely(node, target)}
    for node in find_markers_of(products, target):
        _leave_out(graph, node, placement)
    for node in markers:
        if node.graph is not None and is_superfluous(node, target, was_lonely=node in lonely):
            _leave_out(graph, node, placement)
    placement.rules = dict(Counter(products.values()))
    placement.floats = set(products)


def _takes_signed_codes(node: ir.Node, target: Target) -> bool:
    """Tell whether the codes of an activation are signed.

    TensorRT accepts no others. ONNX Runtime's kernels need unsigned ones: the same numbers plus 128. OpenVINO's
    attention kernel takes no zero-point.
    """
    if target.runtime is Runtime.OPENVINO:
        return multiplies_activations(node)
    return target.is_tensorrt


def _require_form(node: ir.Node, target: Target, path: Path, variant: str) -> None:
    """Raise LoweringError for an activation's quantizer that the target lacks."""
    advice = f"quantize with {variant}" if variant else "quantize it symmetrically with one scale"
    if node.op_type == AFFINE_MARKER and target.is_tensorrt and target.int8 is not Int8.NONE:
        has_zero_point = bool(node.attributes.get_int("zero_point"))
        if has_zero_point or "axis" in node.attributes:
            form_of_it = "a zero-point" if has_zero_point else "more than one scale"
            problem = f"has {form_of_it}, which {target.name} takes from no activation; {advice}"
            raise LoweringError(path, node.attributes.get_string("site"), node.op_type, problem)
    if node.op_type not in MARKERS:
        raise LoweringError(path, str(node.name), node.op_type, "is a quantizer that no target has a form of")


def _place_activation(graph: ir.Graph, node: ir.Node, placement: Placement, kind: type[np.int8 | np.uint8]) -> None:
    """Write QuantizeLinear and DequantizeLinear for an activation, with codes of a kind.

    A Clip goes before them where the bits are fewer than 8.
    """
    scale, bits = node.attributes.get_float("scale"), node.attributes.get_int("bits")
    build = NodeBuilder(graph, node, float32=True)
    x = required(node.inputs[0])
    if bits < 8:
        limit = scale * top_code(bits)
        build.emulated = (NARROW, node.attributes.get_string("site"))
        x = build.op("Clip", x, build.scalar(-limit), build.scalar(limit))
        build.emulated = None
    parameters = (build.scalar(scale), _zero_point(graph, (), kind))
    codes = build.op("QuantizeLinear", x, *parameters)
    placement.rounded[node.attributes.get_string("site")] = codes
    placement.dequantizers += 1
    replace_node(graph, node, build.op("DequantizeLinear", codes, *parameters))


def _place_affine(graph: ir.Graph, node: ir.Node, placement: Placement, target: Target) -> None:
    """Write QuantizeLinear and DequantizeLinear with a zero-point or a scale per channel.

    Fewer than 8 bits are clipped before.
    """
    bits, zero_point = node.attributes.get_int("bits"), node.attributes.get_int("zero_point", 0)
    site = node.attributes.get_string("site")
    scale = array_of(node.inputs[1])
    has_axis = "axis" in node.attributes
    build = NodeBuilder(graph, node, float32=True)
    x = required(node.inputs[0])
    if bits < 8:
        half = 1 << (bits - 1)
        limits = (-half - zero_point) * scale, (half - 1 - zero_point) * scale
        build.emulated = (NARROW, site)
        x = _clip_channels(build, x, limits, node.attributes.get_int("axis")) if has_axis else _clip(build, x, limits)
        build.emulated = None
    kind: type[np.int8 | np.uint8] = np.int8 if target.is_tensorrt else np.uint8
    shape = scale.shape if has_axis else ()
    zeros = np.full(shape, zero_point + _ZERO[kind], dtype=kind)
    parameters = (
        add_initializer(graph, f"{site}_scale", scale.reshape(shape)),
        add_initializer(graph, f"{site}_zero_point", zeros),
    )
    axis = {"axis": node.attributes.get_int("axis")} if has_axis else {}
    codes = build.op("QuantizeLinear", x, *parameters, **axis)
    placement.rounded[site] = codes
    placement.dequantizers += 1
    replace_node(graph, node, build.op("DequantizeLinear", codes, *parameters, **axis))


def _place_divided(graph: ir.Graph, node: ir.Node, placement: Placement) -> None:
    """Write a quantizer with step 1 between a division and a multiplication.

    These are the same numbers as with a scale per channel. ONNX Runtime's optimizer makes an integer product of the
    scales, and its kernel for that then refuses them at run time.
    """
    bits, zero_point = node.attributes.get_int("bits"), node.attributes.get_int("zero_point", 0)
    site, axis = node.attributes.get_string("site"), node.attributes.get_int("axis")
    x = required(node.inputs[0])
    steps = _along(x, axis, array_of(node.inputs[1]))
    build = NodeBuilder(graph, node, float32=True)
    build.emulated = (STEPS, site)
    scale = add_initializer(graph, f"{site}_scale", steps)
    x = build.op("Div", x, scale)
    if bits < 8:
        half = 1 << (bits - 1)
        build.emulated = (NARROW, site)
        x = build.op("Clip", x, build.scalar(float(-half - zero_point)), build.scalar(float(half - 1 - zero_point)))
    build.emulated = None
    zeros = np.full((), zero_point + _ZERO[np.uint8], dtype=np.uint8)
    parameters = (build.scalar(1.0), add_initializer(graph, f"{site}_zero_point", zeros))
    codes = build.op("QuantizeLinear", x, *parameters)
    decoded = build.op("DequantizeLinear", codes, *parameters)
    placement.rounded[site] = codes
    placement.dequantizers += 1
    build.emulated = (STEPS, site)
    replace_node(graph, node, build.op("Mul", decoded, scale))


def _along(x: ir.Value, axis: int, values: np.ndarray) -> np.ndarray:
    """Return a value per channel in a shape that broadcasts against x."""
    assert x.shape is not None
    shape = [1] * len(x.shape)
    shape[axis] = -1
    return values.astype(np.float32).reshape(shape)


def _clip(build: NodeBuilder, x: ir.Value, limits: tuple[np.ndarray, np.ndarray]) -> ir.Value:
    return build.op("Clip", x, *(build.scalar(float(limit.item())) for limit in limits))


def _clip_channels(build: NodeBuilder, x: ir.Value, limits: tuple[np.ndarray, np.ndarray], axis: int) -> ir.Value:
    """Clip each channel to its own limits, which Clip cannot."""
    low, high = (build.constant(_along(x, axis, limit)) for limit in limits)
    return build.op("Min", build.op("Max", x, low), high)


def _place_codes(graph: ir.Graph, node: ir.Node, placement: Placement) -> None:
    """Remove the marker of an emulated quantizer, whose operators stay."""
    codes = required(node.inputs[0])
    placement.rounded[node.attributes.get_string("site")] = codes
    ir.convenience.replace_all_uses_with(node.outputs[0], codes, replace_graph_outputs=True)
    graph.remove(node, safe=True)


def _place_log2(graph: ir.Graph, node: ir.Node, placement: Placement) -> None:
    """Write the log2 quantizer in float operators behind the softmax."""
    rounded, result = write_log2(NodeBuilder(graph, node, float32=True), node)
    placement.rounded[node.attributes.get_string("site")] = rounded
    replace_node(graph, node, result)


def _place_logit(graph: ir.Graph, node: ir.Node, placement: Placement) -> None:
    """Round the softmax's inputs to the log2 grid.

    This takes three operators, which leave softmax and product together.
    """
    build = NodeBuilder(graph, node)
    octave = LN2 * node.attributes.get_float("step")
    rounded = build.op("Round", build.op("Mul", required(node.inputs[0]), build.scalar(1.0 / octave)))
    placement.rounded[node.attributes.get_string("site")] = rounded
    replace_node(graph, node, build.op("Mul", rounded, build.scalar(octave)))


def _leave_out(graph: ir.Graph, node: ir.Node, placement: Placement) -> None:
    placement.dropped.add(node.attributes.get_string("site"))
    ir.convenience.replace_all_uses_with(node.outputs[0], required(node.inputs[0]), replace_graph_outputs=True)
    graph.remove(node, safe=True)


def _zero_point(graph: ir.Graph, shape: tuple[int, ...], kind: type[np.int8 | np.uint8]) -> ir.Value:
    """Return the zero points that all quantizers of a shape share.

    TensorRT needs them written out even if they are zero.
    """
    return add_initializer(graph, zero_point_name(np.dtype(kind), shape), np.full(shape, _ZERO[kind], dtype=kind))
