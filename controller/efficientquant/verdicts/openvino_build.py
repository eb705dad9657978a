"""Verdicts of OpenVINO's CPU plugin on an artifact.

They are read from the runtime model of a real compilation.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import onnx
from onnx import NodeProto

from efficientquant.artifact.openvino_model import (
    OPENVINO_ERRORS,
    RuntimeLayer,
    compile_for_openvino,
    openvino_sentence,
    openvino_version,
    read_runtime_layers,
)
from efficientquant.artifact.validation import find_violations
from efficientquant.artifact.view import GraphView
from efficientquant.installation import require_openvino
from efficientquant.targets import Target
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
from efficientquant.verdicts.products import describe_gain, find_products, stored_weights
from efficientquant.verdicts.scales import find_wrong_scales

# Layers that multiply, the surest sign first. A Subgraph is one generated kernel of several operators.
MULTIPLYING = ("Convolution", "Deconvolution", "FullyConnected", "MatMul", "ScaledDotProductAttention", "Subgraph")
_ENDINGS = ("", "/WithoutBiases", "_original")
_PRECISIONS = {
    "i8": Precision.INT8,
    "u8": Precision.INT8,
    "f16": Precision.FP16,
    "f32": Precision.FP32,
}


def verdict_of_compilation(model: onnx.ModelProto, target: Target) -> BuildVerdict:
    """Compile a model for this CPU and return the verdict.

    Raises MissingExtraError where OpenVINO is not installed.
    """
    require_openvino()
    view = GraphView(model)
    stored = stored_weights(view)
    reasons = [*_remarks(model, view, target), *find_wrong_scales(view)]
    layers: list[LayerPrecision] = []
    facts: dict[str, Any] = {}
    try:
        runtime_layers = read_runtime_layers(compile_for_openvino(model))
    except OPENVINO_ERRORS as error:
        reasons.append(Reason("compile", Outcome.FAILS, f"OpenVINO does not compile it: {openvino_sentence(error)}"))
    else:
        layers = [_layer(view, node, kind, runtime_layers) for node, kind in find_products(view)]
        facts = _facts(runtime_layers, len(stored))
        reasons += _fallbacks(layers, stored)
    return BuildVerdict(
        target=target.name,
        runtime=f"OpenVINO {openvino_version()} on the CPU",
        basis=Basis.LOADED,
        outcome=worst(reasons),
        gain=_gain(layers, stored, reasons, facts.get("layers_that_decode_weights", 0)),
        reasons=group(reasons),
        layers=tuple(layers),
        facts=facts,
        measures={"nodes": facts["layers"], "file_bytes": model.ByteSize()} if facts else {},
    )


def verdict_without_openvino(model: onnx.ModelProto, target: Target) -> BuildVerdict:
    """Return what is known of a model where OpenVINO is not installed.

    A product is expected in integers where both of its inputs are quantized.
    """
    view = GraphView(model)
    stored = stored_weights(view)
    layers = []
    for node, kind in find_products(view):
        integer = all(view.is_dequantized(name) for name in node.input[:2])
        reason = "both inputs are quantized" if integer else "not both inputs are quantized"
        layers.append(LayerPrecision(view.name(node), kind, Precision.INT8 if integer else Precision.FP32, reason))
    reasons = [
        *_remarks(model, view, target),
        *find_wrong_scales(view),
        Reason("not-compiled", Outcome.UNKNOWN, "OpenVINO is not installed here, so nothing was compiled"),
    ]
    return BuildVerdict(
        target=target.name,
        runtime="OpenVINO",
        basis=Basis.PREDICTED,
        outcome=worst(reasons),
        gain=_gain(layers, stored, reasons),
        reasons=group(reasons),
        layers=tuple(layers),
        facts={"quantized_weights": len(stored)},
    )


def _remarks(model: onnx.ModelProto, view: GraphView, target: Target) -> Iterator[Reason]:
    """Yield what a compilation does not say: what agents cannot feed."""
    for violation in find_violations(model, target):
        if violation.rule == "io-type":
            yield Reason(violation.rule, Outcome.BUILDS, str(violation), (violation.node,))
    yield from find_dynamic_sizes(view, Outcome.BUILDS)


def _layer(view: GraphView, node: NodeProto, kind: str, layers: Iterable[RuntimeLayer]) -> LayerPrecision:
    """Return the arithmetic of an ONNX node.

    OpenVINO names a node without a name after its output, and the last one after the model's. A product with a bias
    becomes two operations, and a quantized one gets the ending `_original`.
    """
    casts = [reader.output[0] for reader in view.readers[node.output[0]] if reader.op_type == "Cast"]
    names = {f"{name}{ending}" for name in (node.name, node.output[0], *casts) if name for ending in _ENDINGS}
    holding = [layer for layer in layers if not names.isdisjoint(layer.nodes)]
    for multiplying in MULTIPLYING:
        for layer in holding:
            if layer.kind == multiplying:
                precision = _PRECISIONS.get(layer.type, Precision.UNKNOWN)
                # Of the products in a generated kernel, those of integers are followed by their scales.
                if layer.kind == "Subgraph" and f"{node.name}/DequantizationMultiply" not in layer.nodes:
                    precision = Precision.FP32 if precision is Precision.INT8 else precision
                return LayerPrecision(view.name(node), kind, precision, f"runs as {layer.kind} ({layer.kernel})")
    return LayerPrecision(view.name(node), kind, Precision.UNKNOWN, "no layer that multiplies names this node")


def _fallbacks(layers: Iterable[LayerPrecision], stored: Mapping[str, str]) -> list[Reason]:
    return [
        Reason(
            "fallback",
            Outcome.BUILDS_WITH_FALLBACK,
            f"node {layer.node!r} has an {stored[layer.node]} weight and is computed in {layer.precision}",
            (layer.node,),
        )
        for layer in layers
        if layer.node in stored and layer.precision is not Precision.INT8
    ]


def _gain(layers: list[LayerPrecision], stored: Mapping[str, str], reasons: Iterable[Reason], decoding: int = 0) -> str:
    failing = {reason.rule for reason in reasons if reason.outcome is Outcome.FAILS}
    if "compile" in failing:
        return "nothing there: it does not compile"
    if failing:
        return "nothing there: it compiles, and its scales give no meaningful numbers"
    decoded = "dequantized when the file is compiled"
    if decoding:
        decoded += f", in {decoding} layers on every inference"
    return describe_gain(layers, stored, decoded)


def _facts(layers: list[RuntimeLayer], quantized: int) -> dict[str, Any]:
    return {
        "layers": len(layers),
        "layers_by_type": dict(Counter(layer.kind for layer in layers).most_common()),
        "layers_that_decode_weights": sum(layer.decodes_weights for layer in layers),
        "quantized_weights": quantized,
    }
