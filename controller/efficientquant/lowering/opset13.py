"""Rewriting of ONNX opset 18 to opset 13.

Opset 13 is the widest form, which TensorRT 8.x and ONNX Runtime 1.10 load.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir

from efficientquant.errors import LoweringError
from efficientquant.lowering.building import NodeBuilder, replace_node

# Their axes are an attribute up to opset 17 and an input from 18 on (ReduceSum changed in 13 already).
REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")
# Attributes that a later opset added, and the only value that means what opset 13 does.
LATER_ATTRIBUTES: Mapping[str, Mapping[str, int | str]] = {
    "BatchNormalization": {"training_mode": 0},
    "Resize": {"antialias": 0, "keep_aspect_ratio_policy": "stretch"},
}


def lower_to_opset_13(model: ir.Model, path: Path) -> None:
    """Rewrite a model for opset 13 in place.

    `path` only names the artifact in errors. Raises LoweringError, naming the node, for an operator that opset 13
    cannot express.
    """
    graph = model.graph
    for node in list(graph):
        rewrite = REWRITES.get(node.op_type)
        if rewrite is not None:
            rewrite(graph, node, path)


def _lower_layer_norm(graph: ir.Graph, node: ir.Node, path: Path) -> None:
    """Write a layer norm over the last axes as primitives.

    y = (x - μ) / √(σ² + ε) · γ + β.
    """
    axis = node.attributes.get_int("axis", -1)
    axes = range(axis, 0) if axis < 0 else range(axis, len(_shape(node, path)))
    build = NodeBuilder(graph, node)
    normalized = _normalize(build, _input(node, 0, path), axes, node.attributes.get_float("epsilon", 1e-5))
    scaled = build.op("Mul", normalized, _input(node, 1, path))
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    replace_node(graph, node, build.op("Add", scaled, bias) if bias is not None else scaled)


def _lower_instance_norm(graph: ir.Graph, node: ir.Node, path: Path) -> None:
    """Write an instance norm over the spatial axes as primitives.

    The formula is that of a layer norm, on (N, C, ...), with γ and β per channel. TensorRT 8 makes a plugin of each
    instance norm.
    """
    rank = len(_shape(node, path))
    build = NodeBuilder(graph, node)
    result = _normalize(build, _input(node, 0, path), range(2, rank), node.attributes.get_float("epsilon", 1e-5))
    for op_type, index, neutral in (("Mul", 1, 1.0), ("Add", 2, 0.0)):
        parameter = _constant(_input(node, index, path), node, path)
        # A group norm is exported as an instance norm with γ = 1 and β = 0. Its own γ and β follow behind.
        if not np.all(parameter == neutral):
            result = build.op(op_type, result, build.constant(parameter.reshape(-1, *[1] * (rank - 2))))
    replace_node(graph, node, result)


def _normalize(build: NodeBuilder, x: ir.Value, axes: range, epsilon: float) -> ir.Value:
    mean = build.op("ReduceMean", x, axes=axes, keepdims=1)
    centred = build.op("Sub", x, mean)
    variance = build.op("ReduceMean", build.op("Mul", centred, centred), axes=axes, keepdims=1)
    return build.op("Div", centred, build.op("Sqrt", build.op("Add", variance, build.scalar(epsilon))))


def _lower_reduction(graph: ir.Graph, node: ir.Node, path: Path) -> None:
    """Move the axes from an input to an attribute."""
    attributes: dict[str, int | list[int]] = {"keepdims": node.attributes.get_int("keepdims", 1)}
    axes = node.inputs[1] if len(node.inputs) > 1 else None
    if axes is not None:
        attributes["axes"] = [int(axis) for axis in _constant(axes, node, path)]
    elif node.attributes.get_int("noop_with_empty_axes", 0):
        raise LoweringError(path, str(node.name), node.op_type, "reduces over no axes, which opset 13 cannot say")
    replace_node(graph, node, NodeBuilder(graph, node).op(node.op_type, _input(node, 0, path), **attributes))


def _lower_split(_graph: ir.Graph, node: ir.Node, path: Path) -> None:
    """Drop `num_outputs`, since opset 13 splits evenly by itself.

    Raises LoweringError for uneven parts without their sizes.
    """
    node.attributes.pop("num_outputs", None)
    sizes = {tuple(output.shape or ()) for output in node.outputs}
    if len(node.inputs) < 2 and len(sizes) > 1:
        raise LoweringError(path, str(node.name), "Split", "has uneven parts and does not name their sizes")


def _lower_hard_swish(graph: ir.Graph, node: ir.Node, path: Path) -> None:
    """Write a HardSwish, which came with opset 14, as primitives.

    HardSwish(x) = x · HardSigmoid(x) with α = 1/6 and β = 1/2.
    """
    build = NodeBuilder(graph, node)
    x = _input(node, 0, path)
    replace_node(graph, node, build.op("Mul", x, build.op("HardSigmoid", x, alpha=1.0 / 6.0, beta=0.5)))


def _lower_reshape(_graph: ir.Graph, node: ir.Node, path: Path) -> None:
    """Drop allowzero, which means nothing for a target shape without zeros.

    Raises LoweringError where it asks for an empty tensor.
    """
    allow_zero = node.attributes.pop("allowzero", None)
    if allow_zero is not None and allow_zero.value == 1 and 0 in _constant(_input(node, 1, path), node, path):
        raise LoweringError(path, str(node.name), "Reshape", "makes an empty tensor, which opset 13 cannot")


def _drop_later_attributes(_graph: ir.Graph, node: ir.Node, path: Path) -> None:
    """Remove attributes that opset 13 does not know.

    Raises LoweringError for a value that means something else than opset 13 does.
    """
    for name, default in LATER_ATTRIBUTES[node.op_type].items():
        attribute = node.attributes.pop(name, None)
        if attribute is not None and attribute.value != default:
            raise LoweringError(path, str(node.name), node.op_type, f"has {name}={attribute.value}")


REWRITES: dict[str, Callable[[ir.Graph, ir.Node, Path], None]] = {
    "LayerNormalization": _lower_layer_norm,
    "InstanceNormalization": _lower_instance_norm,
    "Reshape": _lower_reshape,
    "Split": _lower_split,
    "HardSwish": _lower_hard_swish,
    **{f"Reduce{kind}": _lower_reduction for kind in REDUCTIONS},
    **dict.fromkeys(LATER_ATTRIBUTES, _drop_later_attributes),
}


def _input(node: ir.Node, index: int, path: Path) -> ir.Value:
    value = node.inputs[index]
    if value is None:
        raise LoweringError(path, str(node.name), node.op_type, f"has no input {index}")
    return value


def _shape(node: ir.Node, path: Path) -> ir.Shape:
    shape = _input(node, 0, path).shape
    if shape is None:
        raise LoweringError(path, str(node.name), node.op_type, "has an input of unknown rank")
    return shape


def _constant(value: ir.Value, node: ir.Node, path: Path) -> np.ndarray:
    tensor = ir.convenience.get_const_tensor(value)
    if tensor is None:
        raise LoweringError(path, str(node.name), node.op_type, f"takes {value.name!r}, which is not a constant")
    return tensor.numpy()
