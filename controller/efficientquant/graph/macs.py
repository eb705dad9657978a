"""Multiply-accumulates of one graph node, for one image."""

import math
from typing import Any, cast

import torch
from torch import fx

from efficientquant.graph.capture import CONVOLUTION, aten
from efficientquant.graph.roles import LINEAR

# The index of each product's first factor among the arguments.
_OPERANDS = {
    aten.matmul.default: 0,
    aten.bmm.default: 0,
    aten.mm.default: 0,
    aten.baddbmm.default: 1,
    aten.addmm.default: 1,
}
_CONVOLUTIONS = (CONVOLUTION, aten.conv1d.default, aten.conv3d.default)
_TRANSPOSED = (aten.conv_transpose2d.input,)
_ATTENTION = aten.scaled_dot_product_attention.default


def count_macs(node: fx.Node) -> int:
    """Return the MACs of a node at batch 1.

    Only convolutions, linears and matrix products have any: elementwise work is not counted. `torch.utils.flop_counter`
    counts the same operators, twice per MAC.
    """
    if node.target in _CONVOLUTIONS:
        return math.prod(_shape(node)) * math.prod(_shape(node.args[1])[1:])
    if node.target in _TRANSPOSED:
        return math.prod(_shape(node.args[0])) * math.prod(_shape(node.args[1])[1:])
    if node.target is LINEAR:
        return math.prod(_shape(node)) * _shape(node.args[1])[-1]
    if node.target in _OPERANDS:
        return math.prod(_shape(node)) * _shape(node.args[_OPERANDS[node.target]])[-1]
    if node.target is _ATTENTION:
        query, key = _shape(node.args[0]), _shape(node.args[1])
        return math.prod(query) * key[-2] + math.prod(_shape(node)) * key[-2]
    return 0


def _shape(node: Any) -> list[int]:
    """Return the shape of a node's tensor for a batch of 1."""
    return [_at_batch_one(size) for size in cast(fx.Node, node).meta["val"].shape]


def _at_batch_one(size: int | torch.SymInt) -> int:
    if isinstance(size, int):
        return size
    expression = size.node.expr
    return int(expression.subs(dict.fromkeys(expression.free_symbols, 1)))
