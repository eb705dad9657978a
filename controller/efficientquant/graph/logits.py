"""The results that a model's output only combines."""

import operator

import torch
from torch import fx

from efficientquant.graph.capture import aten
from efficientquant.graph.insertions import is_inserted
from efficientquant.graph.roles import SHAPE_ONLY

# The operators that average, select or arrange the results of several heads, or turn them into probabilities.
COMBINING = {
    aten.add,
    aten.add_,
    aten.sub,
    aten.sub_,
    aten.rsub,
    aten.mul,
    aten.mul_,
    aten.div,
    aten.div_,
    aten.neg,
    aten.lerp,
    aten.mean,
    aten.sum,
    aten.stack,
    aten.cat,
    aten.select,
    aten.slice,
    aten.split,
    aten.chunk,
    aten.unbind,
    aten.squeeze,
    aten.unsqueeze,
    aten.expand,
    aten.dropout,
    aten.to,
    aten._to_copy,
    aten.softmax,
    aten.log_softmax,
    aten.sigmoid,
    *(overload.overloadpacket for overload in SHAPE_ONLY),
}


def find_logits(graph: fx.GraphModule) -> set[fx.Node]:
    """Return the nodes whose results only become the model's output.

    The output reads such a node, or all of its readers combine results and are such nodes too. A layer whose result
    another layer reads is none, unless the output reads it directly.
    """
    logits: set[fx.Node] = set()
    for node in reversed(graph.graph.nodes):
        readers = [reader for reader in node.users if not isinstance(reader.meta.get("val"), (int, torch.SymInt))]
        is_combined = bool(readers) and all(reader in logits and _combines(reader) for reader in readers)
        if is_combined or any(reader.op == "output" for reader in readers):
            logits.add(node)
    return logits


def _combines(node: fx.Node) -> bool:
    if is_inserted(node) or node.target is operator.getitem:
        return True
    return isinstance(node.target, torch._ops.OpOverload) and node.target.overloadpacket in COMBINING
