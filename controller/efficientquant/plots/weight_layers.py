"""The weights that a recipe quantizes, before and after.

Two of the plots are drawn from them.
"""

import dataclasses

from torch import Tensor, nn

from efficientquant import primitives
from efficientquant.errors import RecipeFormatError
from efficientquant.graph.capture import capture, fold_batch_norm, get_tensor
from efficientquant.graph.structure import find_weights
from efficientquant.models import input_spec
from efficientquant.options import Granularity, IdentificationRule
from efficientquant.recipe import Recipe


@dataclasses.dataclass(frozen=True)
class Layer:
    """One quantized weight (O, ...) with its approximation and SQNR.

    Batch norm is folded. SQNR is in dB.
    """

    module: str
    weight: Tensor
    approximation: Tensor
    scale: Tensor
    sqnr_db: float
    channel_sqnr_db: list[float]


def quantize_layers(model: nn.Module, recipe: Recipe) -> list[Layer]:
    """Return the weights in a recipe's scope, before and after quantization.

    Raises RecipeFormatError where the recipe quantizes none.
    """
    bits = getattr(recipe, "weight_bits", None)
    scope = getattr(recipe, "scope", None)
    if bits is None or scope is None:
        raise RecipeFormatError("weight_bits", f"recipe {recipe.name!r} leaves the weights in float: nothing to draw")
    graph = capture(model, input_spec(model).shape)
    fold_batch_norm(graph)
    rule: IdentificationRule = getattr(recipe, "rule", IdentificationRule.GRAPH)
    granularity: Granularity = getattr(recipe, "granularity", Granularity.PER_CHANNEL)
    names = find_weights(model, graph, scope, rule)
    return [_layer(name, get_tensor(graph, name).detach(), bits, granularity) for name in names]


def _layer(name: str, weight: Tensor, bits: int, granularity: Granularity) -> Layer:
    scale = primitives.choose_scale(weight, bits, granularity)
    approximation = primitives.dequantize(primitives.quantize(weight, scale, bits), scale)
    return Layer(
        module=name.rpartition(".")[0],
        weight=weight,
        approximation=approximation,
        scale=scale,
        sqnr_db=primitives.sqnr_db(weight, approximation),
        channel_sqnr_db=primitives.channel_sqnr_db(weight, approximation),
    )
