"""Predictions of whether and how TensorRT builds an artifact.

Its builders need the GPU that they build for, so nothing here was built. The predictions follow rules for operators,
their attributes and precisions, which come from the releases' own operator lists and importers and from failures that
others reported. Each rule names its source.
"""

from collections.abc import Iterator, Mapping

import onnx
from onnx import NodeProto, TensorProto

from efficientquant.artifact.validation import Violation, find_violations
from efficientquant.artifact.view import GraphView, attribute_int
from efficientquant.targets import Half, Int8, Target
from efficientquant.verdicts.build_verdict import (
    Basis,
    BuildVerdict,
    LayerPrecision,
    Outcome,
    Precision,
    Reason,
    group,
    worst,
)
from efficientquant.verdicts.dynamic_sizes import find_dynamic_sizes
from efficientquant.verdicts.parser.node import Parser
from efficientquant.verdicts.parser.table import find_refusals, find_unknown_operators, parser_of
from efficientquant.verdicts.products import Kind, describe_gain, find_products, stored_weights

# Rules whose violation does not always fail the build.
SOFT_RULES = frozenset({"both-inputs"})
# A rule for the files that are exported here: they have primitives in place of operators that some release reads.
_EXPORT_RULES = frozenset({"operator"})
# (first release, oldest opset that is read without a warning): ModelImporter of 8.x, operators.md of 10.15.
_OLDEST_OPSETS = (((9,), 9), ((8, 2), 7))


def predict(model: onnx.ModelProto, target: Target) -> BuildVerdict:
    """Predict whether and how TensorRT builds a model.

    TensorRT-RTX reads the same operators as classic TensorRT 11, without plugins.
    """
    view, parser = GraphView(model), parser_of(target)
    layers = [_layer(view, node, kind, target) for node, kind in find_products(view)]
    stored = stored_weights(view)
    reasons = group(
        [
            *_broken_rules(find_violations(model, target)),
            *find_dynamic_sizes(view),
            *find_refusals(view, parser),
            *_old_opset(view, parser),
            *_kernels(view, target),
            *_fallbacks(stored, layers),
        ]
    )
    outcome = worst(reasons)
    return BuildVerdict(
        target=target.name,
        runtime=parser.product,
        basis=Basis.PREDICTED,
        outcome=outcome,
        gain=_gain(layers, stored, target, outcome),
        reasons=reasons,
        layers=tuple(layers),
        unsupported_operators=tuple(sorted(find_unknown_operators(view, parser))),
        facts={"quantized_weights": len(stored)},
    )


def _gain(layers: list[LayerPrecision], stored: Mapping[str, str], target: Target, outcome: Outcome) -> str:
    if outcome is Outcome.FAILS:
        return "nothing there: it is not expected to build"
    gain = describe_gain(layers, stored, "dequantized on every inference")
    return f"{gain}; a speed-up there is FP16's" if target.int8 is Int8.NONE else gain


def _layer(view: GraphView, node: NodeProto, kind: Kind, target: Target) -> LayerPrecision:
    quantized = [view.is_dequantized(name) for name in node.input[:2]]
    if all(quantized) and target.int8 is not Int8.NONE and not any(map(view.is_four_bit, node.input[:2])):
        return LayerPrecision(view.name(node), kind, Precision.INT8, "both inputs are quantized")
    if target.half is Half.TYPED:
        half = view.types.get(node.output[0]) == TensorProto.FLOAT16
        return LayerPrecision(view.name(node), kind, Precision.FP16 if half else Precision.FP32, "the file's own type")
    reason = "the builder takes FP16 or FP32, whichever it times faster"
    if target.int8 is Int8.NONE:
        reason += "; the device has no INT8"
    elif any(quantized):
        reason += "; INT8 needs both inputs quantized, and only one is"
    return LayerPrecision(view.name(node), kind, Precision.FP16, reason)


def _broken_rules(violations: list[Violation]) -> Iterator[Reason]:
    for violation in violations:
        if violation.rule not in _EXPORT_RULES:
            outcome = Outcome.BUILDS_WITH_FALLBACK if violation.rule in SOFT_RULES else Outcome.FAILS
            yield Reason(violation.rule, outcome, str(violation), (violation.node,))


def _old_opset(view: GraphView, parser: Parser) -> Iterator[Reason]:
    """Yield a remark on opsets older than the importers are written for."""
    oldest = next(opset for first, opset in _OLDEST_OPSETS if parser.release >= first)
    if view.opset < oldest:
        sentence = f"the file is opset {view.opset}; {parser.product} warns about opsets below {oldest}, and reads them"
        yield Reason("old-opset", Outcome.BUILDS, sentence)


def _kernels(view: GraphView, target: Target) -> Iterator[Reason]:
    if target.is_tensorrt_8 and target.int8 is not Int8.NONE:
        yield from _stored_codes(view)
        yield from _convolutions(view)


def _stored_codes(view: GraphView) -> Iterator[Reason]:
    for node in view.nodes:
        if node.op_type == "DequantizeLinear" and node.input[0] in view.constants:
            name = view.name(node)
            sentence = (
                f"node {name!r} decodes a constant stored in int8, which releases up to 8.4.1 refuse "
                "(invalid weights type of Int8; NVIDIA/TensorRT issue 2163) and of which nothing is known for 8.5; "
                "an FP32 weight behind QuantizeLinear and DequantizeLinear is the form they document"
            )
            yield Reason("int8-constant", Outcome.UNKNOWN, sentence, (name,))


def _convolutions(view: GraphView) -> Iterator[Reason]:
    for node, kind in find_products(view):
        if kind is not Kind.CONV:
            continue
        name = view.name(node)
        quantized = [view.is_dequantized(value) for value in node.input[:2]]
        if quantized == [False, True]:
            sentence = (
                f"node {name!r} has a quantized weight and a float input, which ends as "
                "'Could not fuse 2nd input (kernel weights)' (NVIDIA/TensorRT issue 2131)"
            )
            yield Reason("float-input", Outcome.FAILS, sentence, (name,))
        elif all(quantized) and _is_depthwise(view, node) and _ends_in_silu_and_quantize(view, node):
            sentence = (
                f"node {name!r} is a depthwise convolution with SiLU and a QuantizeLinear behind it, for which 8.5.2 "
                "has no INT8 kernel: 'Could not find any implementation' (NVIDIA/TensorRT issue 3385); keep it in float"
            )
            yield Reason("depthwise-silu", Outcome.FAILS, sentence, (name,))


def _fallbacks(stored: Mapping[str, str], layers: list[LayerPrecision]) -> Iterator[Reason]:
    integer = {layer.node for layer in layers if layer.precision is Precision.INT8}
    for name, stored_type in stored.items():
        if name not in integer:
            sentence = f"node {name!r} has an {stored_type} weight and is computed in float"
            yield Reason("fallback", Outcome.BUILDS_WITH_FALLBACK, sentence, (name,))


def _is_depthwise(view: GraphView, node: NodeProto) -> bool:
    shape = view.weight_shape(node.input[1]) if len(node.input) > 1 else None
    return attribute_int(node, "group", 1) > 1 and (shape is None or shape[1:2] == (1,))


def _ends_in_silu_and_quantize(view: GraphView, node: NodeProto) -> bool:
    readers = view.readers[node.output[0]]
    if {reader.op_type for reader in readers} != {"Sigmoid", "Mul"}:
        return False
    product = next(reader for reader in readers if reader.op_type == "Mul")
    return any(reader.op_type == "QuantizeLinear" for reader in view.readers[product.output[0]])
