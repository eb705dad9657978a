"""The rules that an exported file must keep for its target.

They ensure that the target accepts the file and computes what it says. Otherwise a runtime may refuse the file or
misread it. For example, TensorRT takes uint8 codes for int8. TensorRT 8 expects the axes of a reduction as an
attribute, and reduces over all axes if they are an input.
"""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import onnx
from onnx import NodeProto, TensorProto

from efficientquant.artifact.view import (
    CONVOLUTIONS,
    FOUR_BIT_TYPES,
    PRODUCTS,
    STANDARD_DOMAINS,
    GraphView,
    attribute_int,
    type_name,
)
from efficientquant.targets import TENSORRT_BLOCKS, Int4, Int8, Runtime, Target

QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
# Which inputs of an operator are scales.
SCALE_INPUTS = {**dict.fromkeys(QUANTIZERS, (1,)), **dict.fromkeys(("QLinearConv", "QLinearMatMul"), (1, 4, 6))}
UNSIGNED = (TensorProto.UINT8, TensorProto.UINT16)
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
# Operators whose float inputs may differ in type.
MIXED_TYPES = (*QUANTIZERS, "Resize", "Cast", "Clip")
# Operators that the parser of 8.2 or 8.5 does not know, or turns into a plugin with its own cuDNN handle.
NOT_IN_TENSORRT_8 = frozenset({
    "LayerNormalization", "GroupNormalization", "InstanceNormalization", "Gelu", "HardSwish", "Mod", "Trilu"
})  # fmt: skip
# TensorRT 10 reads 4-bit integers and blocks, which came with this opset, although its tables end before.
_INT4_OPSET = 21
# (first release, opset, IR): the newest that a release reads, from operators.md and the releases' compatibility tables.
# 11 comes with ONNX 1.20, which writes opset 25 and IR 13.
TENSORRT_LIMITS = (((11,), 25, 13), ((10,), 20, 10), ((8, 5), 17, 8), ((8, 2), 13, 8))
_LIMITS = {
    Runtime.ONNX_RUNTIME: (((1, 23), 23, 11), ((1, 20), 21, 10), ((1, 17), 20, 9), ((1, 10), 15, 8)),
    Runtime.OPENVINO: (((2023, 1), 18, 10),),
}


@dataclasses.dataclass(frozen=True)
class Violation:
    """One broken rule, with its node and the remedy.

    `node` may name a tensor. `problem` includes the remedy.
    """

    node: str
    operator: str
    rule: str
    problem: str

    def __str__(self) -> str:
        """Return one sentence that names the node."""
        where = f"node {self.node!r} ({self.operator}) " if self.operator else f"{self.node} "
        return where + self.problem


def find_violations(model: onnx.ModelProto, target: Target) -> list[Violation]:
    """Return every violation of a target's rules.

    They are in the order of the rules, then of the nodes, those inside If, Loop and Scan last.
    """
    view = GraphView(model)
    graphs = (view, *view.branches())
    return [
        violation
        for rule in _rules_of(target)
        for graph in ((view,) if rule in (_versions, _inputs_and_outputs) else graphs)
        for violation in rule(graph, target)
    ]


Rule = Callable[[GraphView, Target], Iterator[Violation]]


def _rules_of(target: Target) -> Iterator[Rule]:
    yield from (_domains, _versions, _inputs_and_outputs, _one_float_type)
    if not target.is_tensorrt:
        return
    yield _no_quantizers if target.int8 is Int8.NONE else _quantizers
    if target.int4 is not Int4.NONE:
        yield _four_bit_convolutions
    if target.int8 is Int8.BOTH_INPUTS:
        yield _both_inputs
    if target.is_tensorrt_8:
        yield from (_operators, _reductions, _float32_only)


def _domains(view: GraphView, target: Target) -> Iterator[Violation]:
    for node in view.nodes:
        if node.domain not in STANDARD_DOMAINS:
            problem = f"is of the domain {node.domain!r}; {target.name} knows standard ONNX operators only, lower it"
            yield _at(view, node, "domain", problem)


def _versions(view: GraphView, target: Target) -> Iterator[Violation]:
    opset, ir_version = view.opset, view.model.ir_version
    most_opset, most_ir = _limits(target)
    if target.is_tensorrt and target.int4 is not Int4.NONE and _has_four_bits(view):
        most_opset = max(most_opset, _INT4_OPSET)
    if opset > most_opset:
        problem = f"is opset {opset}; {target.name} reads up to {most_opset}, export it for {target.name}"
        yield Violation("the file", "", "opset", problem)
    if ir_version > most_ir:
        problem = f"is IR version {ir_version}; {target.name} reads up to {most_ir}, save it with an older one"
        yield Violation("the file", "", "ir-version", problem)


def _limits(target: Target) -> tuple[int, int]:
    # TensorRT-RTX has version numbers of its own and reads what TensorRT 11 reads.
    version = (11,) if target.runtime is Runtime.TENSORRT_RTX else target.runtime_version
    table = TENSORRT_LIMITS if target.is_tensorrt else _LIMITS[target.runtime]
    return next((opset, ir_version) for first, opset, ir_version in table if version >= first)


def _inputs_and_outputs(view: GraphView, _target: Target) -> Iterator[Violation]:
    """Yield inputs and outputs that are not FP32.

    INT64 changes its meaning between TensorRT's versions, and the fleet feeds and reads FP32 everywhere.
    """
    graph = view.model.graph
    inputs = [value for value in graph.input if value.name not in view.constants]
    for kind, values in (("input", inputs), ("output", graph.output)):
        for value in values:
            dtype = value.type.tensor_type.elem_type
            if dtype != TensorProto.FLOAT:
                problem = f"is {type_name(dtype)}; the agents feed and read FP32 only, add a Cast to the file"
                yield Violation(f"the {kind} {value.name!r}", "", "io-type", problem)


def _one_float_type(view: GraphView, _target: Target) -> Iterator[Violation]:
    for node in view.nodes:
        if node.op_type in MIXED_TYPES:
            continue
        types = {view.types.get(name) for name in node.input} & set(FLOATS)
        if len(types) > 1:
            names = " and ".join(sorted(type_name(dtype) for dtype in types if dtype is not None))
            yield _at(view, node, "float-types", f"mixes {names}; insert a Cast, no builder does it by itself")


def find_scales(view: GraphView) -> Iterator[Violation]:
    """Yield each operator whose scale is not a positive number."""
    for node in view.nodes:
        for index in SCALE_INPUTS.get(node.op_type, ()):
            scale = view.array(node.input[index]) if len(node.input) > index else None
            if scale is not None and not (scale.size and np.all(np.isfinite(scale)) and np.all(scale > 0)):
                yield _at(view, node, "scale-value", "has a scale that is not a positive number; quantize again")
                break


def _quantizers(view: GraphView, target: Target) -> Iterator[Violation]:
    yield from find_scales(view)
    for node in view.nodes:
        if node.op_type in QUANTIZERS:
            yield from _quantizer(view, node, target)
        for name in node.output:
            if view.types.get(name) in UNSIGNED and node.op_type not in QUANTIZERS:
                yield _at(view, node, "unsigned", "gives unsigned integers, which TensorRT rereads as signed; use int8")


def _quantizer(view: GraphView, node: NodeProto, target: Target) -> Iterator[Violation]:
    if len([name for name in node.input if name]) != 3:
        yield _at(view, node, "three-inputs", "has no zero point; TensorRT wants it written out as int8 zeros")
        return
    _, scale_name, zero_name = node.input
    scale, zero = view.array(scale_name), view.array(zero_name)
    if scale is None or zero is None:
        yield _at(view, node, "constant", "computes its scale or zero point; store both as initializers")
        return
    codes_type = view.types.get(node.input[0]) if node.op_type == "DequantizeLinear" else TensorProto.INT8
    signed = [TensorProto.INT8]
    if target.int4 is not Int4.NONE and node.op_type == "DequantizeLinear" and view.is_weight(node):
        signed.append(TensorProto.INT4)
    for dtype in (view.constants[zero_name].data_type, codes_type):
        if dtype not in signed and dtype is not None:
            names = " or ".join(type_name(dtype).lower() for dtype in signed)
            problem = f"has codes of {type_name(dtype)}; TensorRT rejects or rereads all but signed {names}, use that"
            yield _at(view, node, "signed-int8", problem)
            break
    if np.any(zero):
        yield _at(view, node, "zero-point", "has a zero point other than 0; quantize symmetrically")
    if view.constants[scale_name].data_type != TensorProto.FLOAT:
        scale_type = type_name(view.constants[scale_name].data_type)
        yield _at(view, node, "scale-type", f"has a scale of {scale_type}; write it in FP32 and cast behind it")
    if scale.size > 1:
        yield from _per_channel(view, node, target)


def _per_channel(view: GraphView, node: NodeProto, target: Target) -> Iterator[Violation]:
    weight = view.is_weight(node) if node.op_type == "DequantizeLinear" else node.input[0] in view.constants
    if not weight:
        yield _at(
            view, node, "per-channel", "has a scale per channel on an activation; only weights may, use one scale"
        )
        return
    axis, rank = attribute_int(node, "axis", 1), len(view.shapes.get(node.input[0]) or ())
    if rank and not -rank <= axis < rank:
        yield _at(view, node, "axis", f"has axis={axis} on a tensor of {rank} dimensions; export it again")
        return
    axis = axis % rank if rank else axis
    if size := attribute_int(node, "block_size", 0):
        yield from _blocks(view, node, size, axis, target)
        return
    if "ConvTranspose" in _readers_of_weight(view, node):
        # Weights are (inputs, outputs, …). The kernels of 8.x take a scale per input channel, and give wrong results
        # with one per output channel (NVIDIA/TensorRT issues 1694 and 2380). Later ones compute in float.
        if axis != 0 and (target.is_tensorrt_8 or axis != 1):
            problem = (
                f"has its scales along axis {axis} of a ConvTranspose; "
                f"{target.name} takes them along axis 0, its input channels, or one for the whole weight"
            )
            yield _at(view, node, "axis", problem)
    elif axis != 0:
        yield _at(view, node, "axis", "has its scales along another axis than 0; store the weight with outputs first")


def _blocks(view: GraphView, node: NodeProto, size: int, axis: int, target: Target) -> Iterator[Violation]:
    shape = view.shapes.get(node.input[0])
    if target.int4 is Int4.NONE:
        yield _at(view, node, "blocks", f"has blocks, which {target.name} does not read; use one scale per channel")
    elif view.types.get(node.input[0]) != TensorProto.INT4:
        yield _at(view, node, "blocks", f"has blocks of another type than int4; {target.name} reads those only")
    elif size not in TENSORRT_BLOCKS:
        problem = f"has blocks of {size}; the kernels of {target.name} take 64 or 128, use one of these"
        yield _at(view, node, "blocks", problem)
    elif shape is None or len(shape) != 2 or (shape[axis] or 1) % size:
        yield _at(view, node, "blocks", "has no matrix of whole blocks; fill it up, and give it its shape behind it")


def _has_four_bits(view: GraphView) -> bool:
    return any(tensor.data_type in FOUR_BIT_TYPES for tensor in view.constants.values())


def _four_bit_convolutions(view: GraphView, target: Target) -> Iterator[Violation]:
    for node in view.nodes:
        if node.op_type not in CONVOLUTIONS or len(node.input) < 2:
            continue
        if view.is_dequantized(node.input[0]) and view.is_four_bit(node.input[1]):
            problem = (
                "has a 4-bit weight and a quantized input, which TensorRT-RTX 1.7 fails to build; "
                f"store the weight in int8 for {target.name}"
            )
            yield _at(view, node, "int4-convolution", problem)


def _readers_of_weight(view: GraphView, node: NodeProto) -> set[str]:
    """Return the operators that read a quantized weight, behind its DequantizeLinear."""
    readers = list(view.consumers(node))
    if node.op_type == "QuantizeLinear":
        readers = [reader for decoder in readers for reader in view.consumers(decoder)]
    return {reader.op_type for reader in readers}


def _no_quantizers(view: GraphView, target: Target) -> Iterator[Violation]:
    for node in view.nodes:
        if node.op_type in QUANTIZERS:
            problem = f"aborts the build on {target.name}, which has no INT8; store dequantized weights"
            yield _at(view, node, "no-int8", problem)


def _both_inputs(view: GraphView, target: Target) -> Iterator[Violation]:
    for node in view.nodes:
        if node.op_type != "DequantizeLinear":
            continue
        if _is_integer_output(view, node):
            continue
        for reader in view.consumers(node):
            if reader.op_type not in PRODUCTS or not all(view.is_dequantized(name) for name in reader.input[:2]):
                problem = (
                    f"feeds {view.name(reader)!r} ({reader.op_type}), whose inputs are not both quantized; "
                    f"{target.name} can fail to build that, quantize the other input too or leave this one in float"
                )
                yield _at(view, node, "both-inputs", problem)
                break


def _is_integer_output(view: GraphView, node: NodeProto) -> bool:
    """Tell whether a DequantizeLinear decodes an integer product.

    It is a product of two quantized inputs, maybe with its bias.
    """
    quantize = view.producers.get(node.input[0])
    producer = view.source(quantize.input[0]) if quantize is not None else None
    if producer is not None and producer.op_type == "Add":
        sources = [view.source(name) for name in producer.input]
        producer = next((source for source in sources if source is not None and source.op_type in PRODUCTS), None)
    return (
        producer is not None
        and producer.op_type in PRODUCTS
        and all(view.is_dequantized(name) for name in producer.input[:2])
    )


def _operators(view: GraphView, target: Target) -> Iterator[Violation]:
    for node in view.nodes:
        if node.op_type in NOT_IN_TENSORRT_8:
            problem = f"is no operator for TensorRT 8; export for {target.name} to have it written as primitives"
            yield _at(view, node, "operator", problem)


def _reductions(view: GraphView, _target: Target) -> Iterator[Violation]:
    for node in view.nodes:
        # ReduceSum has had its axes as an input since opset 13, and the parser knows it.
        if node.op_type.startswith("Reduce") and node.op_type != "ReduceSum" and len(node.input) > 1:
            problem = "has its axes as an input; TensorRT 8 would reduce over all axes, make them an attribute"
            yield _at(view, node, "reduce-axes", problem)


def _float32_only(view: GraphView, target: Target) -> Iterator[Violation]:
    advice = f"{target.name} chooses FP16 with a builder flag, keep the file in FP32"
    for name, tensor in view.constants.items():
        if tensor.data_type in FLOATS and tensor.data_type != TensorProto.FLOAT:
            problem = f"is {type_name(tensor.data_type)}; {advice}"
            yield Violation(f"the constant {name!r}", "", "float32", problem)
    for node in view.nodes:
        to = attribute_int(node, "to", 0) if node.op_type == "Cast" else 0
        if to in FLOATS and to != TensorProto.FLOAT:
            yield _at(view, node, "float32", f"casts to {type_name(to)}; {advice}")


def _at(view: GraphView, node: NodeProto, rule: str, problem: str) -> Violation:
    return Violation(view.name(node), node.op_type, rule, problem)
