"""A plot of SQNR per layer.

It shows the gates that every 8-bit weight has to pass.
"""

import math
from typing import TYPE_CHECKING

from torch import nn

from efficientquant.graph.layer_names import short_layer_names
from efficientquant.plots.drawing import BLUE, GREY, ORANGE, RED, choose_block, grid, new_figure, styled
from efficientquant.plots.weight_layers import Layer, quantize_layers
from efficientquant.quantization import CHANNEL_GATE_DB, WEIGHT_GATE_DB
from efficientquant.recipe import Recipe, get_recipe

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_sqnr(
    model: nn.Module, recipe: Recipe | str = "efficientquant", block: str | None = None, *, name: str = ""
) -> "Figure":
    """Return a figure of the SQNR in dB of each quantized weight.

    Each has a bar, and a mark for its worst channel. Lines mark the gates: 38 dB for a weight, 35 dB for a channel.
    Raises UnknownBlockError, RecipeFormatError, CaptureError.
    """
    recipe = get_recipe(recipe) if isinstance(recipe, str) else recipe
    layers = {layer.module: layer for layer in quantize_layers(model, recipe)}
    whole = block is None or not layers
    modules = list(layers) if whole else choose_block(list(layers), block or "", "weight that the recipe quantizes")
    shown = [layers[module] for module in modules]
    with styled():
        where = "" if block is None else f", {block}"
        title = f"{name or type(model).__name__}{where}: SQNR of each weight by {recipe.name}"
        figure = new_figure(10, 2.0 + 0.22 * len(shown), title)
        _draw(grid(figure, 1, 1)[0][0], shown)
    return figure


def _draw(axes: "Axes", layers: list[Layer]) -> None:
    places = list(range(len(layers)))
    colours = [RED if layer.sqnr_db < WEIGHT_GATE_DB else BLUE for layer in layers]
    # A weight of zeros is exact. It has no bar, and its label says so.
    bars = [layer.sqnr_db if math.isfinite(layer.sqnr_db) else 0.0 for layer in layers]
    axes.barh(places, bars, color=colours, height=0.7, label="whole weight")
    worst = [min(layer.channel_sqnr_db) for layer in layers]
    worst = [value if math.isfinite(value) else math.nan for value in worst]
    axes.plot(worst, places, "D", color=ORANGE, markeredgecolor="black", markersize=5, label="worst channel")
    axes.axvline(WEIGHT_GATE_DB, color="black", linewidth=1, label=f"gate of a weight, {WEIGHT_GATE_DB:.0f} dB")
    axes.axvline(
        CHANNEL_GATE_DB, color=GREY, linewidth=1.3, linestyle="--", label=f"gate of a channel, {CHANNEL_GATE_DB:.0f} dB"
    )
    exact = [" (exact)" if math.isinf(layer.sqnr_db) else "" for layer in layers]
    short = short_layer_names([layer.module for layer in layers])
    axes.set_yticks(places, [short[layer.module] + note for layer, note in zip(layers, exact, strict=True)])
    axes.set_ylim(len(layers) - 0.4, -0.6)
    axes.set_xlim(min([0.0, *(value for value in worst if not math.isnan(value))]))
    axes.set_xlabel("SQNR: power of the weights over that of their error, in dB (red: below the gate of a weight)")
    axes.figure.legend(loc="outside lower center", ncols=4, frameon=False)
