"""Time of block identification on growing graphs.

The graphs chain copies of a block, for blocks of three hybrids.
"""

import gc
import math
import time
from collections.abc import Iterator
from pathlib import Path

from efficientquant.graph.capture import capture
from efficientquant.graph.structure import build_manifest, find_weights
from efficientquant.options import IdentificationRule, Scope
from goal import Goal
from timm.layers import set_fused_attn
from timm.models.mobilevit import MobileVitBlock, MobileVitV2Block
from timm.models.vision_transformer import Block
from torch import fx, nn

COPIES = (4, 8, 16, 32, 64, 128)
TRIES = 5
MAX_EXPONENT = 1.15


def measure(folder: Path) -> Iterator[Goal]:  # noqa: ARG001 - it writes nothing
    """Yield the goal for the exponent of time against nodes, by family.

    The time is that of the manifest and both rules. The exponent is fitted over all sizes of a family.
    """
    set_fused_attn(False)
    families: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
        "transformer": (Block(8, 2), (4, 8)),
        "MobileViT": (MobileVitBlock(8, transformer_dim=8, transformer_depth=2, num_heads=2), (8, 8, 8)),
        "MobileViTv2": (MobileVitV2Block(8, transformer_dim=8, transformer_depth=2), (8, 8, 8)),
    }
    for name, (block, shape) in families.items():
        body = capture(block, shape)
        graphs = [chain(body, copies) for copies in COPIES]
        sizes = [len(graph.graph.nodes) for graph in graphs]
        times_s = [
            identification_time_s(stacked(block, copies), graph) for copies, graph in zip(COPIES, graphs, strict=True)
        ]
        exponent = slope([math.log(size) for size in sizes], [math.log(time_s) for time_s in times_s])
        per_node_us = [time_s / size * 1e6 for time_s, size in zip(times_s, sizes, strict=True)]
        yield Goal(
            exponent <= MAX_EXPONENT,
            f"identifying {name} blocks by both rules, {sizes[0]} to {sizes[-1]} nodes: "
            f"{', '.join(f'{us:.1f}' for us in per_node_us)} µs per node, time ~ nodes^{exponent:.2f} "
            f"(goal: at most {MAX_EXPONENT})",
        )


def chain(module: fx.GraphModule, copies: int) -> fx.GraphModule:
    """Return a graph that chains copies of a captured block."""
    graph = fx.Graph()
    value = graph.placeholder("input")
    body = next(node for node in module.graph.nodes if node.op == "placeholder")
    for _ in range(copies):
        (value,) = graph.graph_copy(module.graph, {body: value})
    graph.output(value)
    return fx.GraphModule(module, graph)


def stacked(block: nn.Module, copies: int) -> nn.Module:
    """Return the block with a shell of it for each copy.

    The graph has as many copies of the block. The paper's rule walks modules instead of nodes.
    """
    shells = nn.ModuleList(nn.Sequential(*block.children()) for _ in range(copies))
    model = nn.Sequential()
    for name, child in block.named_children():
        model.add_module(name, child)
    model.add_module("copies", shells)
    return model


def identification_time_s(model: nn.Module, graph: fx.GraphModule) -> float:
    """Return the fastest of several tries, in CPU seconds of this process."""
    fastest = math.inf
    gc.collect()
    gc.freeze()  # else a full collection would walk all graphs, not only the measured graph
    for _ in range(TRIES):
        started_s = time.process_time()
        build_manifest(model, graph)
        for rule in IdentificationRule:
            find_weights(model, graph, Scope.CONV_OUTSIDE_TRANSFORMERS, rule)
        fastest = min(fastest, time.process_time() - started_s)
    gc.unfreeze()
    return fastest


def slope(x: list[float], y: list[float]) -> float:
    """Return the slope of the least-squares line."""
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / sum((a - mean_x) ** 2 for a in x)
