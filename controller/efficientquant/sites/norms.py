"""Norms whose readers can absorb a scale and shift per channel."""

import dataclasses
from typing import cast

import torch
from torch import Tensor, fx

from efficientquant.graph.blocks import Layer, Operator, Tap, find_layers, find_operators
from efficientquant.graph.capture import aten, parameter_name
from efficientquant.graph.regions import Region, size_hint
from efficientquant.graph.roles import SHAPE_ONLY

LAYER_NORM, GROUP_NORM = aten.layer_norm.default, aten.group_norm.default
SIZE = aten.sym_size.int


@dataclasses.dataclass(frozen=True)
class NormSite:
    """A norm, its parameters' names, and the layers that read it."""

    norm: Operator
    weight: str
    bias: str
    layers: tuple[Layer, ...]


def find_norm_sites(graph: fx.GraphModule) -> list[NormSite]:
    """Return the sites of a captured float graph, in execution order.

    A norm is a LayerNorm over the channels, or a GroupNorm of one group. Between it and its readers are shape operators
    only. Each reader is a layer whose input channels are the norm's, without padding. Nothing else reads the parameters
    of norm and readers.
    """
    layers = {layer.node: layer for layer in find_layers(graph)}
    sites = (_site(graph, norm, layers) for norm in find_operators(graph, (LAYER_NORM, GROUP_NORM)) if norm.operands)
    return [site for site in sites if site is not None]


def _site(graph: fx.GraphModule, norm: Operator, layers: dict[str, Layer]) -> NormSite | None:
    node = Tap(norm.node).find(graph)
    is_over_channels = node.args[1] == 1 if node.target is GROUP_NORM else len(cast(list[int], node.args[1])) == 1
    names = [_own_parameter(graph, operand) for operand in node.args[2:4]]
    readers = _readers(node)
    if not is_over_channels or len(names) < 2 or None in names or not readers:
        return None
    tap = dataclasses.replace(norm.output, channel=1 if node.target is GROUP_NORM else -1)
    site_layers = [layers[reader.name] for reader in readers if reader.name in layers]
    if len(site_layers) < len(readers) or len({layer.window is None for layer in site_layers}) > 1:
        return None
    if not all(_can_absorb(graph, reader, layers[reader.name]) for reader in readers):
        return None
    if not _keep_channels(graph, node, tap.channel, site_layers):
        return None
    return NormSite(dataclasses.replace(norm, output=tap), cast(str, names[0]), cast(str, names[1]), tuple(site_layers))


def _readers(norm: fx.Node) -> list[fx.Node]:
    """Return the first nodes behind a norm that do more than reshape."""
    readers: dict[fx.Node, None] = {}
    pending = [norm]
    for node in pending:
        for user in node.users:
            if user.target in SHAPE_ONLY:
                pending.append(user)
            elif user.target is not SIZE:
                readers[user] = None
    return list(readers)


def _own_parameter(graph: fx.GraphModule, operand: object) -> str | None:
    """Return the name of a parameter with a single reader, or None."""
    name = parameter_name(operand)
    readers = [user for node in graph.graph.find_nodes(op="get_attr") if node.target == name for user in node.users]
    return name if len(readers) == 1 else None


def _can_absorb(graph: fx.GraphModule, reader: fx.Node, layer: Layer) -> bool:
    """Tell whether a layer can absorb a scale and shift per channel."""
    bias = reader.args[2] if len(reader.args) > 2 else None
    is_own = _own_parameter(graph, reader.args[1]) and (bias is None or _own_parameter(graph, bias))
    window = layer.window
    return bool(is_own) and (window is None or (window.padding == (0, 0) and window.groups == 1))


def _keep_channels(graph: fx.GraphModule, norm: fx.Node, channel: int, layers: list[Layer]) -> bool:
    """Tell whether each layer's input channels are the norm's.

    The shape operators run on a tensor that holds its channels' numbers.
    """
    shape = [size_hint(size) for size in cast(Tensor, norm.meta["val"]).shape]
    numbers = torch.arange(shape[channel], dtype=torch.float32)
    x = torch.empty(shape).movedim(channel, -1).copy_(numbers).movedim(-1, channel).contiguous()
    taps = [layer.input for layer in layers]
    with torch.no_grad():
        results = Region(graph, norm.name, [tap.find(graph).name for tap in taps]).run(x)
    return all(
        y.shape[tap.channel] == len(numbers) and bool((y.movedim(tap.channel, -1) == numbers).all())
        for tap, y in zip(taps, results, strict=True)
    )
