"""Float twins, which quantized artifacts are compared with.

A twin's build is looked at, its logits are not.
"""

from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_ir as ir

from efficientquant.artifact.view import GraphView
from efficientquant.lowering.building import add_initializer, replace_node, required
from efficientquant.recipe import RoundingRecipe
from efficientquant.targets import Half, Target

if TYPE_CHECKING:
    from torch import nn

    from efficientquant.quantization import QuantizedModel

_INTEGER_OPERATORS = frozenset({"QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"})
_ANY_SIZE = 1 << 40
_HALF = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def twin_recipe(target: Target) -> str:
    """Return the recipe of a target's float twin.

    ONNX Runtime's CPU provider computes FP16 files in FP32, so its twin is FP32.
    """
    return "fp16" if target.is_tensorrt else "fp32"


def lower_twin(
    quantized: "QuantizedModel", source: "nn.Module", target: Target, without_passes: Collection[str] = ()
) -> onnx.ModelProto:
    """Return the float file of a quantized model for a target.

    It is made of the export that is already there, where only markers are added to it. Else `source`, the eager model,
    is exported again. Raises LoweringError and CaptureError.
    """
    from efficientquant.lowering import lower
    from efficientquant.quantization import quantize
    from efficientquant.recipe import get_recipe

    recipe = get_recipe(twin_recipe(target))
    canonical = _without_markers(quantized, target) or quantize(source, recipe).canonical
    return ir.to_proto(lower(canonical, target, recipe, Path("twin.onnx"), without_passes=without_passes).model)


def _without_markers(quantized: "QuantizedModel", target: Target) -> ir.Model | None:
    """Return a quantized model's export in float.

    Returns None where the recipe may have added something else, such as factors, emulation or a bias.
    """
    recipe = quantized.recipe
    if not isinstance(recipe, RoundingRecipe) or recipe.may_compensate:
        return None
    from efficientquant.lowering.weights import Form, QuantizedWeight, place_weight
    from efficientquant.quantizers import DOMAIN, WEIGHT_MARKER, CodeQuantizer, EmulatedQuantizer, WeightDequantizer

    nodes = quantized.module.graph.find_nodes(op="call_module")
    added = [quantized.module.get_submodule(str(node.target)) for node in nodes]
    is_pure = all(isinstance(own, WeightDequantizer | CodeQuantizer) for own in added)
    if not is_pure or any(isinstance(own, EmulatedQuantizer) for own in added):
        return None
    canonical = quantized.canonical.clone()
    graph = canonical.graph
    for marker in [node for node in graph if node.domain == DOMAIN]:
        if marker.op_type == WEIGHT_MARKER:
            place_weight(graph, QuantizedWeight.of(marker), Form.FLOAT, target)
        else:
            _bypass(graph, marker, required(marker.inputs[0]))
    _fold_transposes(graph)
    return canonical


def _bypass(graph: ir.Graph, node: ir.Node, value: ir.Value) -> None:
    """Replace a node by a value, which keeps its name."""
    ir.convenience.replace_all_uses_with(node.outputs[0], value, replace_graph_outputs=True)
    graph.remove(node, safe=True)


def _fold_transposes(graph: ir.Graph) -> None:
    """Transpose constants in place.

    Behind a marker they were none, so the exporter left that to the runtime.
    """
    for node in list(graph):
        value = node.inputs[0] if node.op_type == "Transpose" else None
        if value is not None and value.const_value is not None:
            axes = node.attributes.get_ints("perm") if "perm" in node.attributes else None
            array = np.ascontiguousarray(value.const_value.numpy().transpose(axes))
            replace_node(graph, node, add_initializer(graph, f"{value.name}_transposed", array))


def has_quantizers(model: onnx.ModelProto) -> bool:
    """Tell whether a file has quantizers that can be taken out.

    Operators that compute in integers themselves cannot.
    """
    view = GraphView(model)
    operators = {node.op_type for node in view.nodes}
    is_decoded = "DequantizeLinear" in operators or any(map(view.decodes_constant, view.nodes))
    return is_decoded and not operators & _INTEGER_OPERATORS


def without_quantizers(model: onnx.ModelProto, target: Target) -> onnx.ModelProto:
    """Return a file with float weights and without rounded activations.

    It is in FP16 where the target has typed FP16. Quantizers that are emulated in float operators stay.
    """
    from onnx_ir.passes.common import RemoveUnusedNodesPass
    from onnxscript.optimizer import fold_constants

    from efficientquant.lowering.half import to_half

    # With mixed or unknown types, what the file declares still counts.
    with suppress(onnx.shape_inference.InferenceError, ValueError):
        model = onnx.shape_inference.infer_shapes(model)
    twin = ir.from_proto(model)
    for node in list(twin.graph):
        if node.op_type == "DequantizeLinear" and (value := _source(twin.graph, node)) is not None:
            _bypass(twin.graph, node, value)
    # Weights that are decoded by a cast and a multiplication.
    fold_constants(twin, input_size_limit=_ANY_SIZE, output_size_limit=_ANY_SIZE)
    if twin_recipe(target) == "fp16" and target.half is Half.TYPED:
        if _is_half(twin.graph):
            _drop_round_trips(twin.graph)
        else:
            to_half(twin.graph)
    RemoveUnusedNodesPass()(twin)
    return ir.to_proto(twin)


def _source(graph: ir.Graph, dequantize: ir.Node) -> ir.Value | None:
    """Return what a DequantizeLinear stands for, in float.

    That is what a QuantizeLinear reads, or a decoded constant. Returns None for computed integers.
    """
    codes = dequantize.inputs[0]
    producer = None if codes is None else codes.producer()
    if producer is not None and producer.op_type == "Cast":
        codes = producer.inputs[0]
        producer = None if codes is None else codes.producer()
    if producer is not None:
        return producer.inputs[0] if producer.op_type == "QuantizeLinear" else None
    constants = [None if value is None else value.const_value for value in (codes, *dequantize.inputs[1:])]
    stored, scale, *zero_points = [None if constant is None else constant.numpy() for constant in constants]
    if stored is None or scale is None:
        return None
    array = _decode(stored, scale, zero_points[0] if zero_points else None, dequantize)
    return add_initializer(graph, f"{dequantize.outputs[0].name}_decoded", array)


def _decode(codes: np.ndarray, scale: np.ndarray, zero_point: np.ndarray | None, node: ir.Node) -> np.ndarray:
    """Return (codes − zero point) · scale, by tensor, channel or block."""
    axis, block = node.attributes.get_int("axis", 1), node.attributes.get_int("block_size", 0)

    def spread(values: np.ndarray) -> np.ndarray:
        if block:
            return np.repeat(values, block, axis=axis).take(range(codes.shape[axis]), axis=axis)
        if values.size == 1:
            return values.reshape(())
        shape = [1] * codes.ndim
        shape[axis] = -1
        return values.reshape(shape)

    zero = 0.0 if zero_point is None else spread(zero_point.astype(np.float32))
    decoded: np.ndarray = (codes.astype(np.float32) - zero) * spread(scale.astype(np.float32))
    return decoded.astype(scale.dtype)


def _is_half(graph: ir.Graph) -> bool:
    return any(output.dtype in _HALF for node in graph for output in node.outputs)


def _drop_round_trips(graph: ir.Graph) -> None:
    """Join casts to FP32 and back, which stood around a quantizer."""
    for node in graph:
        if node.op_type != "Cast" or node.outputs[0].dtype not in _HALF or node.inputs[0] is None:
            continue
        inner = node.inputs[0].producer()
        source = inner.inputs[0] if inner is not None and inner.op_type == "Cast" else None
        if source is not None and source.dtype is node.outputs[0].dtype:
            _bypass(graph, node, source)
