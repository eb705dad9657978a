"""Weight scales with which biases fit into integer accumulators."""

from typing import NamedTuple

import torch
from torch import Tensor, fx

from efficientquant.graph.capture import call_nodes, get_tensor, parameter_name
from efficientquant.graph.roles import SHAPE_ONLY, WEIGHTED
from efficientquant.quantizers import ActivationQuantizer, AffineQuantizer, WeightDequantizer

# ONNX Runtime turns a float bias into an int32 of the product's scale, input × weight. The sum of the products needs
# less than a quarter of the accumulator's range, the bias may take half of it.
LARGEST_BIAS_CODE = 2.0**30
LIMITS = torch.finfo(torch.float32)


class ScaleChange(NamedTuple):
    """Other codes and scales of a weight, with the same zero-points.

    `raised` are the channels whose scale is larger than before, and whose weights are thus coarser.
    """

    codes: Tensor
    scale: Tensor
    raised: tuple[int, ...]


def find_scale_changes(graph: fx.GraphModule) -> dict[str, ScaleChange]:
    """Return the weights whose scales have to change for a bias.

    The keys are the names of their dequantizers. A layer counts if its input has one scale and its weight is quantized.
    A channel of tiny weights gets a scale with which its bias fits into int32. Each product loses less than 2^-24 of
    the bias. A channel of zeros gets the same scale, since a larger one would round its bias.
    """
    changes = {
        name: _change(dequantizer, smallest)
        for name, smallest in _smallest_scales(graph).items()
        if isinstance(dequantizer := graph.get_submodule(name), WeightDequantizer)
    }
    return {name: change for name, change in changes.items() if change is not None}


def _smallest_scales(graph: fx.GraphModule) -> dict[str, Tensor]:
    """Return the smallest scale (O,) of each weight in integer products.

    It is float64, and 0 for a channel without a bias.
    """
    smallest: dict[str, Tensor] = {}
    for node in call_nodes(graph, *WEIGHTED):
        weight, input_scale = node.args[1], _input_scale(graph, node)
        bias = parameter_name(node.args[2]) if len(node.args) > 2 else None
        is_coded = isinstance(weight, fx.Node) and weight.op == "call_module"
        if input_scale is None or bias is None or not is_coded:
            continue
        assert isinstance(weight, fx.Node)
        name = str(weight.target)
        dequantizer = graph.get_submodule(name)
        if isinstance(dequantizer, WeightDequantizer) and dequantizer.group_size is None:
            needed = get_tensor(graph, bias).double().abs() / (LARGEST_BIAS_CODE * input_scale)
            # The product of both scales stays a normal number.
            needed = torch.where(needed > 0, needed.clamp_min(LIMITS.tiny / input_scale), 0.0)
            smallest[name] = torch.maximum(smallest.get(name, needed), needed)
    return smallest


def _input_scale(graph: fx.GraphModule, layer: fx.Node) -> float | None:
    """Return the one scale of a layer's quantized input, or None."""
    source = layer.args[0]
    while isinstance(source, fx.Node) and source.target in SHAPE_ONLY:
        source = source.args[0]
    if not isinstance(source, fx.Node) or source.op != "call_module":
        return None
    quantizer = graph.get_submodule(str(source.target))
    if isinstance(quantizer, AffineQuantizer):
        return None if quantizer.axis is not None else float(quantizer.scale)
    return quantizer.scale if isinstance(quantizer, ActivationQuantizer) else None


def _change(dequantizer: WeightDequantizer, smallest: Tensor) -> ScaleChange | None:
    """Return the change that keeps scales above their smallest values, or None."""
    scale, zero_point = dequantizer.scale, dequantizer.zero_point
    steps = dequantizer.codes.double() - (0.0 if zero_point is None else zero_point.double())
    is_empty = (steps == 0).flatten(1).all(1)
    if scale.numel() == 1:
        is_tiny = bool((is_empty | (smallest > scale.double().flatten())).all())
        if not is_tiny:  # the bias of one channel would cost the others their weights
            return None
        smallest, is_empty = smallest.amax(0, keepdim=True), is_empty.all(0, keepdim=True)
    smallest = smallest.clamp_max(LIMITS.max / 256)
    old = scale.double().flatten()
    new = torch.where(is_empty & (smallest > 0), smallest, torch.maximum(old, smallest)).to(scale.dtype)
    if bool((new == scale.flatten()).all()):
        return None
    ratio = (old / new.double()).reshape(scale.shape)
    codes = (steps * ratio).round() + (0.0 if zero_point is None else zero_point.double())
    raised = ((new > scale.flatten()) & ~is_empty).nonzero().flatten().tolist()
    return ScaleChange(codes.to(dequantizer.codes.dtype), new.reshape(scale.shape), tuple(raised))
