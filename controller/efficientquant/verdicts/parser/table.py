"""The rules of the ONNX parser by operator."""

from collections.abc import Iterator, Mapping

from efficientquant.artifact.view import STANDARD_DOMAINS, GraphView
from efficientquant.targets import Runtime, Target
from efficientquant.verdicts.build_verdict import Outcome, Reason
from efficientquant.verdicts.parser import control_flow, einsum, indexing, inference_only, pooling, resampling
from efficientquant.verdicts.parser.malformed import find_cycle, find_defect
from efficientquant.verdicts.parser.node import ParsedNode, Parser, Refusal, Rule
from efficientquant.verdicts.parser.operators import first_release, knows

_REDUCTIONS = (
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax"),
    *("ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare"),
)
RULES: Mapping[str, Rule] = {
    "AveragePool": pooling.pool,
    "BatchNormalization": inference_only.batch_normalization,
    "Cast": inference_only.cast,
    "Constant": inference_only.constant,
    "Conv": pooling.convolution,
    "ConvTranspose": pooling.convolution,
    "CumSum": indexing.constant_input(1, "axis"),
    "DeformConv": pooling.deformable,
    "Dropout": inference_only.dropout,
    "Einsum": einsum.einsum,
    "GridSample": resampling.grid_sample,
    "If": control_flow.branches,
    "InstanceNormalization": inference_only.instance_normalization,
    "LSTM": inference_only.lstm,
    "LayerNormalization": inference_only.layer_normalization,
    "LpNormalization": pooling.lp_normalization,
    "LpPool": pooling.lp_pool,
    "MaxPool": pooling.max_pool,
    "OneHot": indexing.one_hot,
    "Pad": indexing.pad,
    "Resize": resampling.resize,
    "ScatterElements": indexing.scatter_elements,
    "ScatterND": indexing.scatter_nd,
    "Shape": indexing.shape_range,
    "Slice": indexing.slices,
    "Squeeze": indexing.constant_input(1, "axes"),
    "TopK": indexing.top_k,
    "Trilu": indexing.trilu,
    "Unsqueeze": indexing.constant_input(1, "axes"),
    "Upsample": resampling.upsample,
    **dict.fromkeys(_REDUCTIONS, indexing.constant_input(1, "axes")),
}


def parser_of(target: Target) -> Parser:
    """Return the parser of a TensorRT target.

    TensorRT-RTX 1.7 is built from the same source as TensorRT 11, and comes without plugins.
    """
    version = ".".join(map(str, target.runtime_version))
    if target.runtime is Runtime.TENSORRT_RTX:
        return Parser((11,), f"TensorRT-RTX {version}", has_plugins=False)
    return Parser(target.runtime_version, f"TensorRT {version}")


def find_refusals(view: GraphView, parser: Parser) -> Iterator[Reason]:
    """Yield a reason for every node that a parser does not take.

    The graphs inside If, Loop and Scan are parsed too.
    """
    for graph in (view, *view.branches()):
        if name := find_cycle(graph):
            sentence = f"the value {name!r} depends on itself; no release reads it, export the model again"
            yield Reason("cycle", Outcome.FAILS, sentence, (name,))
        for proto in graph.nodes:
            if proto.domain not in STANDARD_DOMAINS:
                continue
            operator, name = proto.op_type, graph.name(proto)
            if not knows(operator, parser):
                yield Reason(f"operator-{operator}", Outcome.FAILS, _unknown(name, operator, parser), (name,))
            elif defect := find_defect(proto, graph.opset):
                sentence = f"node {name!r} ({operator}) {defect}; no release reads it, export the model again"
                yield Reason(f"{operator}-malformed", Outcome.FAILS, sentence, (name,))
            elif operator in RULES:
                for refusal in RULES[operator](ParsedNode(graph, proto), parser):
                    yield _reason(name, operator, refusal, parser)


def find_unknown_operators(view: GraphView, parser: Parser) -> set[str]:
    """Return the operators that a parser does not know.

    Those of another domain are named with it.
    """
    return {
        proto.op_type if proto.domain in STANDARD_DOMAINS else f"{proto.domain}.{proto.op_type}"
        for graph in (view, *view.branches())
        for proto in graph.nodes
        if proto.domain not in STANDARD_DOMAINS or not knows(proto.op_type, parser)
    }


def _unknown(name: str, operator: str, parser: Parser) -> str:
    first = first_release(operator)
    later = f"; it came with TensorRT {first}" if first and parser.has_plugins else ""
    return f"node {name!r} is {operator}, which the parser of {parser.product} does not know{later}"


def _reason(name: str, operator: str, refusal: Refusal, parser: Parser) -> Reason:
    attribute = refusal.form.partition("=")[0].partition(",")[0].replace(" ", "-")
    sentence = f"node {name!r} ({operator}) has {refusal.form}, which {parser.product} {refusal.verb}: {refusal.why}"
    return Reason(f"{operator}-{attribute}", Outcome.FAILS, sentence, (name,))
