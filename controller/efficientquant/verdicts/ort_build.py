"""Verdicts of ONNX Runtime's CPU provider on an artifact.

They are read from the optimized graph that a real session writes.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime

from efficientquant.artifact import exact_products
from efficientquant.artifact.ort_errors import ORT_ERRORS, first_line
from efficientquant.artifact.validation import find_violations
from efficientquant.artifact.view import GraphView, attribute_int
from efficientquant.files.whole_files import scratch_folder
from efficientquant.targets import Int8Products, Target, find_exact_twin
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
from efficientquant.verdicts.products import Kind, describe_gain, stored_weights
from efficientquant.verdicts.scales import find_wrong_scales

# Operators of the optimized graph by what they multiply. The fused and blocked forms are ONNX Runtime's own.
INTEGER_CONVS = frozenset({"QLinearConv", "ConvInteger"})
FLOAT_CONVS = frozenset({"Conv", "ConvTranspose", "FusedConv", "NhwcFusedConv", "NhwcConv"})
INTEGER_PRODUCTS = frozenset({
    "QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QGemm"
})  # fmt: skip
FLOAT_PRODUCTS = frozenset({"MatMul", "Gemm", "FusedMatMul", "FusedGemm", "FusedMatMulActivation", "MatMulNBits"})
# The rules that a session does not decide: what an older release reads, and what the agents can feed.
_RULES = {"opset": Outcome.FAILS, "ir-version": Outcome.FAILS, "io-type": Outcome.BUILDS}
# The inputs of integer operators that are a second factor or its zero-point.
_SECOND_FACTORS = {"QLinearConv": (3, 5), "QLinearMatMul": (3, 5), "QGemm": (3, 5)}
# Two products of an unsigned code with a signed one up to here fit 16 bits: 2 · 255 · 64 < 2^15.
_LARGEST_SAFE_CODE = 64
# The accuracy level at which MatMulNBits computes in int8.
BLOCKS_IN_INT8 = 4
SHOWN_OPERATORS = (
    INTEGER_CONVS | FLOAT_CONVS | INTEGER_PRODUCTS | FLOAT_PRODUCTS | {"DequantizeLinear", "QuantizeLinear"}
)


def verdict_of_session(model: onnx.ModelProto, target: Target) -> BuildVerdict:
    """Load a model and return the verdict of its optimized graph.

    The installed version of ONNX Runtime loads it. Its opset decides whether an older version reads the file.
    """
    view = GraphView(model)
    stored = stored_weights(view)
    reasons = [*_remarks(model, view, target), *find_wrong_scales(view)]
    optimized = _optimize(model)
    layers: list[LayerPrecision] = []
    facts: dict[str, Any] = {}
    if isinstance(optimized, str):
        reasons.append(Reason("session", Outcome.FAILS, f"ONNX Runtime does not load it: {optimized}"))
    else:
        layers, facts = _layers(optimized), _facts(optimized, len(stored))
        reasons += [*_fallbacks(layers, stored), *_saturation(optimized, target)]
        if target.int8_products is Int8Products.EXACT:
            facts["products_on_this_cpu"] = str(_products_here())
    outcome = worst(reasons)
    return BuildVerdict(
        target=target.name,
        runtime=f"ONNX Runtime {onnxruntime.__version__} on the CPU",
        basis=Basis.LOADED,
        outcome=outcome,
        gain=_gain(layers, stored, facts, reasons, target),
        reasons=group(reasons),
        layers=tuple(layers),
        facts=facts,
        measures=_measures(facts, model) if facts else {},
    )


def _remarks(model: onnx.ModelProto, view: GraphView, target: Target) -> Iterator[Reason]:
    """Yield what a session does not say about a file."""
    for violation in find_violations(model, target):
        if violation.rule in _RULES:
            yield Reason(violation.rule, _RULES[violation.rule], str(violation), (violation.node,))
    yield from find_dynamic_sizes(view, Outcome.BUILDS)


def _gain(
    layers: list[LayerPrecision],
    stored: Mapping[str, str],
    facts: dict[str, Any],
    reasons: list[Reason],
    target: Target,
) -> str:
    failing = {reason.rule for reason in reasons if reason.outcome is Outcome.FAILS}
    if "session" in failing:
        return "nothing there: it does not load"
    if "scale-value" in failing:
        return "nothing there: it loads, and its scales give no meaningful numbers"
    if failing:
        return f"nothing there: the installed release loads it, {target.name} is not known to read it"
    decoded = "dequantized on every inference" if facts["dequantize_nodes"] else "dequantized when the file is loaded"
    return describe_gain(layers, stored, decoded)


def _measures(facts: Mapping[str, Any], model: onnx.ModelProto) -> dict[str, float]:
    """Return what can be compared with another file.

    Neither nodes nor bytes tell how long a CPU takes.
    """
    return {key: facts[key] for key in ("nodes", "dequantize_nodes")} | {"file_bytes": model.ByteSize()}


def _optimize(model: onnx.ModelProto) -> onnx.ModelProto | str:
    """Return the graph that a session would run, or an error message."""
    with scratch_folder("ort", room_bytes=2 * model.ByteSize()) as folder:
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(folder / "optimized.onnx")
        options.log_severity_level = 4  # it warns that such a file belongs to this machine, which is intended
        try:
            # There are no other providers to fall back to, and the attempt would print on stdout.
            onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"], enable_fallback=0
            )
        except ORT_ERRORS as error:
            return first_line(error)
        except UnicodeDecodeError as error:  # its binding cannot pass on a message with a name that is not text
            return error.object.decode(errors="replace").splitlines()[0]
        return onnx.load(options.optimized_model_filepath)


def _layers(optimized: onnx.ModelProto) -> list[LayerPrecision]:
    view = GraphView(optimized)
    layers = []
    for node in view.nodes:
        operator = node.op_type
        kind = Kind.CONV if operator in INTEGER_CONVS | FLOAT_CONVS else None
        if operator in INTEGER_PRODUCTS | FLOAT_PRODUCTS:
            # The second factor of QLinearMatMul and QGemm is the fourth input: scale and zero point come between.
            factor = node.input[3] if operator in ("QLinearMatMul", "QGemm") else node.input[1]
            kind = Kind.LINEAR if view.is_constant(factor) or view.is_constant(node.input[0]) else Kind.PRODUCT
        if kind is not None:
            # The CPU provider has few FP16 kernels: it casts, and these nodes are FP32 by then.
            in_blocks = attribute_int(node, "accuracy_level", 0) == BLOCKS_IN_INT8
            integer = operator in INTEGER_CONVS | INTEGER_PRODUCTS or in_blocks
            precision = Precision.INT8 if integer else Precision.FP32
            reason = f"runs as {operator}" + (", which rounds its input to int8 in blocks" if in_blocks else "")
            layers.append(LayerPrecision(view.name(node), kind, precision, reason))
    return layers


def _fallbacks(layers: list[LayerPrecision], stored: Mapping[str, str]) -> list[Reason]:
    """Return a reason if layers with integer weights run in float.

    The optimizer renames nodes, so the reason counts the layers instead of naming them.
    """
    floats = sum(layer.precision is not Precision.INT8 and layer.operator != Kind.PRODUCT for layer in layers)
    integers = sum(layer.precision is Precision.INT8 and layer.operator != Kind.PRODUCT for layer in layers)
    missing = min(len(stored) - integers, floats)
    if missing <= 0:
        return []
    types = " or ".join(sorted(set(stored.values())))
    sentence = f"{missing} of {len(stored)} layers with {types} weights are computed in float"
    return [Reason("fallback", Outcome.BUILDS_WITH_FALLBACK, sentence)]


def _saturation(optimized: onnx.ModelProto, target: Target) -> list[Reason]:
    """Return a reason if integer products may saturate."""
    view = GraphView(optimized)
    count = sum(_may_saturate(view, node) for node in view.nodes)
    if not count:
        return []
    twin = find_exact_twin(target)
    if target.int8_products is Int8Products.SATURATING:
        sentence = (
            f"{count} integer products have signed weights and saturate on an x86 CPU without VNNI"
            + (f"; check it for {twin.name} if the CPU has VNNI" if twin else "")
            + ", store the weights unsigned if not"
        )
    elif _products_here() is Int8Products.SATURATING:
        sentence = (
            f"the file loads here, and its {count} products with signed weights saturate: {target.name} promises a CPU "
            "with VNNI, and this one has none"
        )
    else:
        return []
    return [Reason("saturation", Outcome.BUILDS, sentence)]


def _products_here() -> Int8Products:
    return Int8Products.SATURATING if exact_products.products_saturate() else Int8Products.EXACT


def _may_saturate(view: GraphView, node: onnx.NodeProto) -> bool:
    if node.op_type not in INTEGER_CONVS | INTEGER_PRODUCTS:
        return False
    factor, *zero_points = (node.input[at] for at in _SECOND_FACTORS.get(node.op_type, (1,)) if at < len(node.input))
    if onnx.TensorProto.INT8 not in map(view.types.get, (factor, *zero_points)):
        return False
    codes = view.array(factor)
    return codes is None or int(np.abs(codes.astype(np.int16)).max(initial=0)) > _LARGEST_SAFE_CODE


def _facts(optimized: onnx.ModelProto, quantized: int) -> dict[str, Any]:
    counts = Counter(node.op_type for node in optimized.graph.node)
    return {
        "operators": {name: count for name, count in counts.most_common() if name in SHOWN_OPERATORS},
        "nodes": len(optimized.graph.node),
        "dequantize_nodes": counts["DequantizeLinear"],
        "quantized_weights": quantized,
    }
