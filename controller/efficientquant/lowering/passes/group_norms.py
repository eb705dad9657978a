"""Group norms, written as one operator of opset 21."""

from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from efficientquant.lowering.building import NodeBuilder, array_of, only_reader, replace_node


class _GroupNorm(NamedTuple):
    """The nodes of an exported group norm, the last with its output."""

    norm: ir.Node
    last: ir.Node
    source: ir.Value
    scale: np.ndarray  # (C,)
    bias: np.ndarray  # (C,)


def restore_group_norms(graph: ir.Graph) -> int:
    """Write each exported group norm as GroupNormalization, and return their number.

    The exporter writes Reshape (N, G, -1) → InstanceNormalization → Reshape (N, C, …) → · γ → + β.
    """
    norms = [norm for node in list(graph) if (norm := _match(node)) is not None]
    for norm in norms:
        build = NodeBuilder(graph, norm.last)
        output = build.op(
            "GroupNormalization",
            norm.source,
            build.constant(norm.scale),
            build.constant(norm.bias),
            epsilon=norm.norm.attributes.get_float("epsilon", 1e-5),
            num_groups=_channels(norm.norm.inputs[0]),
        )
        replace_node(graph, norm.last, output)
    return len(norms)


def _match(node: ir.Node) -> _GroupNorm | None:
    if node.op_type != "InstanceNormalization":
        return None
    before = node.inputs[0].producer() if node.inputs[0] is not None else None
    behind = only_reader(node.outputs[0])
    if before is None or behind is None or {before.op_type, behind.op_type} != {"Reshape"}:
        return None
    source = before.inputs[0]
    assert source is not None
    if source.shape is None or behind.outputs[0].shape != source.shape:
        return None
    channels = _channels(source)
    scale, bias = np.ones(channels, np.float32), np.zeros(channels, np.float32)
    if not (np.all(array_of(node.inputs[1]) == 1) and np.all(array_of(node.inputs[2]) == 0)):
        return None
    last = behind
    for op_type, parameter in (("Mul", scale), ("Add", bias)):
        reader = only_reader(last.outputs[0])
        values = _per_channel(reader, last.outputs[0], channels) if reader is not None else None
        if reader is not None and reader.op_type == op_type and values is not None:
            parameter[:] = values
            last = reader
    return _GroupNorm(node, last, source, scale, bias)


def _per_channel(node: ir.Node, x: ir.Value, channels: int) -> np.ndarray | None:
    """Return a node's constants for the channels of x, or None."""
    others = [value for value in node.inputs if value is not x]
    constant = ir.convenience.get_const_tensor(others[0]) if len(others) == 1 and others[0] is not None else None
    if constant is None or x.shape is None or tuple(constant.shape) != (channels, *[1] * (len(x.shape) - 2)):
        return None
    return constant.numpy().reshape(-1)


def _channels(value: ir.Value | None) -> int:
    assert value is not None
    assert value.shape is not None
    channels = value.shape[1]
    assert isinstance(channels, int)
    return channels
