"""The log2 quantizer in float operators, in both of its forms."""

import onnx_ir as ir

from efficientquant.lowering.building import NodeBuilder
from efficientquant.primitives import LN2, CalibratedLog2, DataFreeLog2


def write_log2(build: NodeBuilder, node: ir.Node) -> tuple[ir.Value, ir.Value]:
    """Write the float operators of a log2 quantizer's marker.

    Returns the rounded logarithms and the decoded probabilities.
    """
    bits, x = node.attributes.get_int("bits"), node.inputs[0]
    assert x is not None
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
