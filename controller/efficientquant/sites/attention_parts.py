"""The places of a captured graph that get quantizers of their own."""

import dataclasses
from collections.abc import Collection, Sequence

import torch
from torch import Tensor, fx

from efficientquant.graph.attention import find_paths
from efficientquant.graph.blocks import Layer, Operator, Tap
from efficientquant.graph.capture import aten
from efficientquant.graph.regions import Region
from efficientquant.graph.roles import LINEAR, PRODUCTS, SHAPE_ONLY, WEIGHTED

UNCHANGING = (*SHAPE_ONLY, aten.dropout.default)
# The smallest values of activation functions with a negative part.
MINIMA = {aten.silu.default: -0.278465, aten.silu_.default: -0.278465, aten.gelu.default: -0.169971}


@dataclasses.dataclass(frozen=True)
class ProductSite:
    """A product of two activations, and the softmax in front of it.

    `axes` is the dimension of the heads of each operand, None for an operand without heads. `probabilities` is the
    place of the operand that a softmax computes, None where there is no such operand.
    """

    operator: Operator
    axes: tuple[int | None, ...]
    softmax: Tap | None = None
    probabilities: int | None = None

    def find_tap(self, place: int) -> Tap:
        """Return where the quantizer of an operand goes."""
        if self.softmax is not None and place == self.probabilities:
            return self.softmax
        return self.operator.operands[place]


def find_product_sites(graph: fx.GraphModule, products: Sequence[Operator]) -> list[ProductSite]:
    """Return the sites of products in a graph without quantizers."""
    behind = {path[-1].name: [softmax, *path] for softmax, path in find_paths(graph).items() if path}
    sites = []
    for product in products:
        operands = [tap.find(graph) for tap in product.operands]
        axes = tuple(map(_head_axis, operands))
        path = behind.get(product.node)
        if path is None or any(step.target not in UNCHANGING for step in path[1:-1]):
            sites.append(ProductSite(product, axes))
        else:
            sites.append(ProductSite(product, axes, Tap(path[0].name), operands.index(path[-2])))
    return sites


def find_negative_tails(graph: fx.GraphModule, layers: Sequence[Layer]) -> dict[str, float]:
    """Return the minimum of the activation function before each linear.

    The keys are the nodes of those linears that directly follow SiLU or GELU.
    """
    tails = {}
    for layer in layers:
        source = layer.input.find(graph)
        while source.target in UNCHANGING:
            (source, *_) = source.all_input_nodes
        if layer.window is None and source.target in MINIMA:
            tails[layer.node] = MINIMA[source.target]
    return tails


def find_row_groups(graph: fx.GraphModule) -> dict[str, Tensor]:
    """Return the row groups of linears that compute q, k and v.

    The keys are the nodes of the linears that compute all three. The groups (O,) are 0 for a query's row, 1 for a key's
    and 2 for a value's.
    """
    groups = {}
    for softmax, path in find_paths(graph).items():
        scores = _first([softmax], PRODUCTS, WEIGHTED)
        if not path or path[-1].target not in PRODUCTS or len(scores) != 1:
            continue
        probabilities = [softmax, *path][-2]
        values = [operand for operand in path[-1].all_input_nodes if operand is not probabilities]
        parts = [*scores[0].all_input_nodes[-2:], *values[-1:]]
        linears = {linear for part in parts for linear in _first([part], WEIGHTED, ())}
        if len(parts) == 3 and len(linears) == 1 and (linear := linears.pop()).target is LINEAR:
            rows = _rows_of(graph, linear, parts)
            if rows is not None:
                groups[linear.name] = rows
    return groups


def _head_axis(operand: fx.Node) -> int | None:
    """Return the dimension of an operand's heads: the third from the end."""
    shape = operand.meta["val"].shape
    has_heads = len(shape) >= 4 and isinstance(shape[-3], int) and shape[-3] > 1
    return len(shape) - 3 if has_heads else None


def _first(starts: Sequence[fx.Node], wanted: Collection[object], stops: Collection[object]) -> list[fx.Node]:
    """Return the nearest wanted nodes up from the starts."""
    nodes: dict[fx.Node, None] = {}
    pending, seen = list(starts), set(starts)
    while pending:
        node = pending.pop()
        if node.target in wanted:
            nodes[node] = None
        elif node.target not in stops:
            inputs = [source for source in node.all_input_nodes if source not in seen]
            seen.update(inputs)
            pending += inputs
    return list(nodes)


def _rows_of(graph: fx.GraphModule, linear: fx.Node, parts: Sequence[fx.Node]) -> Tensor | None:
    """Return the part (O,) that depends on each row of a linear.

    Returns None unless each row belongs to exactly one part.
    """
    try:
        region = Region(graph, linear.name, [part.name for part in parts])
    except ValueError:
        return None  # a part reads the images in another way too
    generator = torch.Generator().manual_seed(0)
    shape = [size if isinstance(size, int) else size.node.hint for size in linear.meta["val"].shape]
    with torch.enable_grad():
        x = torch.randn(shape, generator=generator).requires_grad_()
        results = region.run(x)
        sums = [(result * torch.randn(result.shape, generator=generator)).sum() for result in results]
        gradients = [torch.autograd.grad(total, x, retain_graph=True)[0] for total in sums]
    reached = torch.stack([gradient.flatten(0, -2).abs().amax(0) > 0 for gradient in gradients])
    return reached.int().argmax(0) if bool((reached.sum(0) == 1).all()) else None
