"""Markers of quantizers → what a target can run: Q/DQ nodes, float operators, or nothing."""

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np
import onnx_ir as ir

from efficientquant.lowering.building import KEEP_FLOAT32, NodeBuilder, add_initializer, replace_node
from efficientquant.primitives import LN2, CalibratedLog2, DataFreeLog2
from efficientquant.quantizers import ACTIVATION_MARKER, DOMAIN, LOG2_MARKER, LOGIT_MARKER, WEIGHT_MARKER
from efficientquant.targets import Int8, Target

PRODUCTS = ("Conv", "MatMul", "Gemm")
# Operators that may stand between a quantizer and the operator that it is for.
TRANSPARENT = ("Transpose", "Reshape")


@dataclasses.dataclass
class Placement:
    """What became of the markers.

    `rounded` names, for each site that the graph still computes, the tensor that shows its rounding; `dropped` are
    the sites it does not compute. `stored` and `folded` count weights in int8, and weights turned back to float.
    """

    rounded: dict[str, ir.Value] = dataclasses.field(default_factory=dict)
    dropped: set[str] = dataclasses.field(default_factory=set)
    stored: int = 0
    folded: int = 0


def place_quantizers(graph: ir.Graph, target: Target) -> Placement:
    """Replace every marker in place, as the target's INT8 support and the recipe's emulation say."""
    placement = Placement()
    markers = [node for node in graph if node.domain == DOMAIN]
    keep = {node for node in markers if node.op_type in (WEIGHT_MARKER, ACTIVATION_MARKER) and _is_kept(node, target)}
    for node in markers:
        _PLACE[node.op_type](graph, node, placement, node in keep)
    return placement


def _is_kept(marker: ir.Node, target: Target) -> bool:
    if target.int8 is Int8.BOTH_INPUTS:
        return all(_is_quantized(user) for user in _product_users(marker))
    return target.int8 is Int8.ANY


def _product_users(marker: ir.Node) -> Iterable[ir.Node]:
    for use in marker.outputs[0].uses():
        if use.node.op_type in TRANSPARENT:
            yield from _product_users(use.node)
        else:
            yield use.node


def _is_quantized(user: ir.Node) -> bool:
    return user.op_type in PRODUCTS and all(_comes_from_marker(value) for value in user.inputs[:2])


def _comes_from_marker(value: ir.Value | None) -> bool:
    producer = value.producer() if value is not None else None
    while producer is not None and producer.op_type in TRANSPARENT:
        value = producer.inputs[0]
        producer = value.producer() if value is not None else None
    return producer is not None and producer.domain == DOMAIN and producer.op_type in (WEIGHT_MARKER, ACTIVATION_MARKER)


def _place_weight(graph: ir.Graph, node: ir.Node, placement: Placement, keep: bool) -> None:
    """Write int8 codes behind DequantizeLinear, or the weight that they stand for."""
    codes, scale = (_initializer(value) for value in node.inputs)
    name = str(_given(node.inputs[0]).name).removesuffix("_dequantizer.codes")
    if not keep:
        weight = add_initializer(graph, f"{name}_dequantized", codes.astype(np.float32) * scale)
        replace_node(graph, node, weight)
        weight.name = name
        placement.folded += 1
        return
    per_channel = scale.size > 1
    scale = scale.reshape(-1 if per_channel else ())
    inputs = [
        add_initializer(graph, f"{name}_int8", codes),
        add_initializer(graph, f"{name}_scale", scale),
        _zero_point(graph, scale.shape),
    ]
    attributes = {"axis": 0} if per_channel else {}
    dequantize = ir.node("DequantizeLinear", inputs, attributes=attributes, name=f"{name}_dequantize")
    dequantize.meta[KEEP_FLOAT32] = True
    graph.insert_before(node, dequantize)
    replace_node(graph, node, dequantize.outputs[0])
    dequantize.outputs[0].name = f"{name}_dequantized"
    placement.stored += 1


def _place_activation(graph: ir.Graph, node: ir.Node, placement: Placement, keep: bool) -> None:
    """Write QuantizeLinear and DequantizeLinear, behind a Clip where there are fewer codes than int8 has."""
    site, x = node.attributes.get_string("site"), node.inputs[0]
    if not keep:
        placement.dropped.add(site)
        _bypass(graph, node)
        return
    scale, bits = node.attributes.get_float("scale"), node.attributes.get_int("bits")
    build = NodeBuilder(graph, node, float32=True)
    if bits < 8:
        # Half a step beyond the last code rounds to it still.
        limit = scale * ((1 << (bits - 1)) - 1)
        x = build.op("Clip", x, build.scalar(-limit), build.scalar(limit))
    parameters = (build.scalar(scale), _zero_point(graph, ()))
    codes = build.op("QuantizeLinear", x, *parameters)
    placement.rounded[site] = codes
    replace_node(graph, node, build.op("DequantizeLinear", codes, *parameters))


def _place_log2(graph: ir.Graph, node: ir.Node, placement: Placement, _keep: bool) -> None:
    """Write the log2 quantizer in float operators behind the softmax, or leave it out."""
    site = node.attributes.get_string("site")
    if node.attributes.get_int("dropped"):
        placement.dropped.add(site)
        _bypass(graph, node)
        return
    rounded, result = _write_log2(NodeBuilder(graph, node, float32=True), node)
    placement.rounded[site] = rounded
    replace_node(graph, node, result)


def _place_logit(graph: ir.Graph, node: ir.Node, placement: Placement, _keep: bool) -> None:
    """Round the softmax's inputs to the log2 grid: three operators that leave softmax and product together."""
    build = NodeBuilder(graph, node)
    octave = LN2 * node.attributes.get_float("step")
    rounded = build.op("Round", build.op("Mul", _given(node.inputs[0]), build.scalar(1.0 / octave)))
    placement.rounded[node.attributes.get_string("site")] = rounded
    replace_node(graph, node, build.op("Mul", rounded, build.scalar(octave)))


def _write_log2(build: NodeBuilder, node: ir.Node) -> tuple[ir.Value, ir.Value]:
    bits, x = node.attributes.get_int("bits"), _given(node.inputs[0])
    top = (1 << bits) - 1
    if "octaves" in node.attributes:
        codec = DataFreeLog2(bits=bits, octaves=node.attributes.get_int("octaves"))
        floor = build.scalar(2.0**-codec.octaves)
        octaves = build.op("Log", build.op("Clip", x, floor, build.scalar(1.0)))
        rounded = build.op("Round", build.op("Mul", octaves, build.scalar(-1.0 / (LN2 * codec.step))))
        decoded = build.op("Exp", build.op("Mul", rounded, build.scalar(-LN2 * codec.step)))
        # The top code, exactly zero, is every probability below the floor.
        return rounded, build.op("Where", build.op("Less", x, floor), build.scalar(0.0), decoded)
    calibrated = _calibrated(node, bits)
    octaves = build.op("Log", build.op("Add", x, build.scalar(calibrated.epsilon)))
    rounded = build.op("Round", build.op("Mul", octaves, build.scalar(1.0 / (LN2 * calibrated.step))))
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


def _bypass(graph: ir.Graph, node: ir.Node) -> None:
    ir.convenience.replace_all_uses_with(node.outputs[0], _given(node.inputs[0]), replace_graph_outputs=True)
    graph.remove(node, safe=True)


def _zero_point(graph: ir.Graph, shape: tuple[int, ...]) -> ir.Value:
    """Return the int8 zeros that all quantizers of a shape share: TensorRT wants them written out."""
    return add_initializer(graph, f"int8_zero_point_{'_'.join(map(str, shape))}", np.zeros(shape, dtype=np.int8))


def _initializer(value: ir.Value | None) -> np.ndarray:
    tensor = ir.convenience.get_const_tensor(_given(value))
    assert tensor is not None
    return tensor.numpy()


def _given(value: ir.Value | None) -> ir.Value:
    assert value is not None
    return value


_PLACE: dict[str, Callable[[ir.Graph, ir.Node, Placement, bool], None]] = {
    WEIGHT_MARKER: _place_weight,
    ACTIVATION_MARKER: _place_activation,
    LOG2_MARKER: _place_log2,
    LOGIT_MARKER: _place_logit,
}
