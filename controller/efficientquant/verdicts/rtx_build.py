"""Verdicts of a real build with TensorRT-RTX.

Building needs no GPU. Only loading the plan does.
"""

import dataclasses
import enum
import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import onnx

from efficientquant.artifact.validation import find_violations
from efficientquant.artifact.view import GraphView
from efficientquant.files.whole_files import scratch_folder
from efficientquant.installation import require_rtx
from efficientquant.targets import Target
from efficientquant.verdicts.build_rules import predict
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
from efficientquant.verdicts.costs.cost_model import ceilings_of, model_cost, total_s
from efficientquant.verdicts.costs.engine_work import work_of_engine
from efficientquant.verdicts.dynamic_sizes import find_dynamic_sizes
from efficientquant.verdicts.products import describe_gain, find_products, stored_weights
from efficientquant.verdicts.rtx_layers import EngineLayer, engine_name, parse_layers, precision_of_node

BUILD_TIMEOUT_S = 600.0


class Ending(enum.StrEnum):
    """The ways in which a build can end."""

    BUILT = "built"
    REFUSED = "refused"  # by the parser, which names the node
    FAILED = "failed"  # in the builder
    CRASHED = "crashed"  # the process died
    TIMED_OUT = "timed-out"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RtxBuild:
    """The result of a build with TensorRT-RTX.

    `problems` are (ONNX node or "", sentence). Sizes are in bytes, times in seconds.
    """

    ending: Ending
    version: str = "?"
    problems: tuple[tuple[str, str], ...] = ()
    layers: tuple[EngineLayer, ...] = ()
    build_s: float | None = None
    plan_bytes: int | None = None
    weights_bytes: int | None = None


def build(model: onnx.ModelProto, capability: int, *, timeout_s: float = BUILD_TIMEOUT_S) -> RtxBuild:
    """Build an engine for one compute capability in a child process.

    `capability` is 86 for SM 8.6. A crash is returned as an ending. Raises MissingExtraError where the library is not
    installed.
    """
    require_rtx()
    with scratch_folder("rtx", room_bytes=2 * model.ByteSize()) as folder:
        source, answer = folder / "model.onnx", folder / "answer.json"
        source.write_bytes(model.SerializeToString())
        command = [
            sys.executable,
            "-m",
            "efficientquant.verdicts.rtx_process",
            str(source),
            str(answer),
            str(capability),
        ]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
        except subprocess.TimeoutExpired:
            return RtxBuild(ending=Ending.TIMED_OUT, problems=(("", f"it was not built within {timeout_s:.0f} s"),))
        if done.returncode != 0 or not answer.exists():
            return RtxBuild(ending=Ending.CRASHED, problems=(("", _describe_end(done)),))
        return _read_answer(json.loads(answer.read_text()))


def verdict_of_build(model: onnx.ModelProto, target: Target, *, timeout_s: float = BUILD_TIMEOUT_S) -> BuildVerdict:
    """Build a model for a target and return the verdict.

    The engine is for the target's compute capability, with a batch of one. A model with another dynamic size has
    nothing to be built for, and its verdict is predicted.
    """
    assert target.compute_capability is not None
    view = GraphView(model)
    if any(find_dynamic_sizes(view)):
        return predict(model, target)
    result = build(model, target.compute_capability, timeout_s=timeout_s)
    layers = _layers(view, result) if result.ending is Ending.BUILT else []
    stored = stored_weights(view)
    reasons = group([*_problems(result), *_broken_rules(model, target), *_fallbacks(layers, stored)])
    gain = describe_gain(layers, stored, "dequantized on every inference")
    return BuildVerdict(
        target=target.name,
        runtime=f"TensorRT-RTX {result.version}",
        basis=Basis.BUILT,
        outcome=worst(reasons),
        gain=gain if result.ending is Ending.BUILT else "nothing there: it was not built",
        reasons=reasons,
        layers=tuple(layers),
        facts=_facts(result, target.compute_capability, len(stored)),
        measures=_measures(view, result, target) if result.ending is Ending.BUILT else {},
    )


def _broken_rules(model: onnx.ModelProto, target: Target) -> Iterator[Reason]:
    """Yield a reason for each rule that the model breaks.

    Such a model may still build, but compute something else than the file says.
    """
    for violation in find_violations(model, target):
        yield Reason(violation.rule, Outcome.UNKNOWN, f"against the rules: {violation}", (violation.node,))


def _layers(view: GraphView, result: RtxBuild) -> list[LayerPrecision]:
    layers = []
    for node, kind in find_products(view):
        precision, reason = precision_of_node(result.layers, engine_name(node))
        layers.append(LayerPrecision(view.name(node), kind, precision, reason))
    return layers


def _fallbacks(layers: list[LayerPrecision], stored: Mapping[str, str]) -> list[Reason]:
    integer = {layer.node for layer in layers if layer.precision is Precision.INT8}
    return [
        Reason(
            "fallback",
            Outcome.BUILDS_WITH_FALLBACK,
            f"node {layer.node!r} has an {stored[layer.node]} weight and is computed in {layer.precision}",
            (layer.node,),
        )
        for layer in layers
        if layer.node in stored and layer.node not in integer
    ]


def _problems(result: RtxBuild) -> Iterator[Reason]:
    outcome = Outcome.UNKNOWN if result.ending is Ending.TIMED_OUT else Outcome.FAILS
    for node, sentence in result.problems:
        yield Reason(str(result.ending), outcome, sentence, (node,) if node else ())


def _facts(result: RtxBuild, capability: int, quantized: int) -> dict[str, Any]:
    facts: dict[str, Any] = {"compute_capability": capability, "ending": str(result.ending)}
    if result.ending is Ending.BUILT:
        facts |= {
            "layers": len(result.layers),
            "layers_by_type": dict(Counter(layer.kind for layer in result.layers).most_common()),
            "fused_attention_kernels": sum(layer.is_fused_attention for layer in result.layers),
            "dequantize_kernels": sum(layer.is_dequantize for layer in result.layers),
            "quantized_weights": quantized,
            "weights_bytes": result.weights_bytes,
            "plan_bytes": result.plan_bytes,
            "build_s": result.build_s,
        }
    return facts


def _measures(view: GraphView, result: RtxBuild, target: Target) -> dict[str, float]:
    """Return what can be compared with another file's build."""
    measures: dict[str, float | None] = {
        "kernels": len(result.layers),
        "fused_attention_kernels": sum(layer.is_fused_attention for layer in result.layers),
        "dequantize_kernels": sum(layer.is_dequantize for layer in result.layers),
        "weights_bytes": result.weights_bytes,
        "plan_bytes": result.plan_bytes,
    }
    if ceilings := ceilings_of(target):
        measures["modelled_s"] = total_s(model_cost(work, ceilings) for work in work_of_engine(view, result.layers))
    return {key: value for key, value in measures.items() if value is not None}


def _read_answer(answer: dict[str, Any]) -> RtxBuild:
    version = answer["version"]
    if answer["parser_errors"]:
        problems = tuple((_node_of(error), _parser_sentence(error)) for error in answer["parser_errors"])
        return RtxBuild(ending=Ending.REFUSED, version=version, problems=problems)
    if not answer["built"]:
        problems = tuple(("", message) for message in answer["errors"]) or (("", "the builder gave no reason"),)
        return RtxBuild(ending=Ending.FAILED, version=version, problems=problems, build_s=answer["build_s"])
    return RtxBuild(
        ending=Ending.BUILT,
        version=version,
        layers=tuple(parse_layers(answer["layers"])),
        build_s=answer["build_s"],
        plan_bytes=answer["plan_bytes"],
        weights_bytes=answer["weights_bytes"],
    )


def _node_of(error: dict[str, Any]) -> str:
    """Return a node's name, or its place in the file as `#17`."""
    return str(error["node"] or f"#{error['index']}")


def _parser_sentence(error: dict[str, Any]) -> str:
    # The first line only repeats the node. Lines in brackets are about the missing GPU.
    lines = error["problem"].splitlines()
    reasons = [line for line in lines if not line.startswith(("[", "Invalid Node"))]
    why = reasons[0] if reasons else lines[-1]
    return f"node {_node_of(error)!r} ({error['operator']}) is refused by the parser: {why}"


def _describe_end(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode < 0:
        end = f"by signal {signal.Signals(-done.returncode).name}"
    else:
        end = f"with exit code {done.returncode}"
    last = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
    return f"the build process ended {end}: {last[0]}"
