"""The paper's Figure 2: weights before and after quantization."""

from typing import TYPE_CHECKING, Any

from torch import nn

from efficientquant.graph.layer_names import short_layer_names
from efficientquant.plots.drawing import BLUE, GREY, MAX_ROWS, ORANGE, choose_block, grid, new_figure, styled
from efficientquant.plots.weight_layers import Layer, quantize_layers
from efficientquant.recipe import Recipe, get_recipe

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BINS = 101


def plot_weights(
    model: nn.Module, recipe: Recipe | str = "efficientquant", block: str | None = None, *, name: str = ""
) -> "Figure":
    """Return a figure of a block's weights, batch norm folded.

    It shows histograms, and the range of each output channel. `block` is the name of a module. Without one, the weight
    with the lowest SQNR is drawn. Of a block, at most six layers are drawn. Raises UnknownBlockError,
    RecipeFormatError, CaptureError.
    """
    recipe = get_recipe(recipe) if isinstance(recipe, str) else recipe
    layers = {layer.module: layer for layer in quantize_layers(model, recipe)}
    if block is None and layers:
        block = min(layers.values(), key=lambda layer: layer.sqnr_db).module
    modules = choose_block(list(layers), block or "", "weight that the recipe quantizes")
    shown = [layers[module] for module in modules[:MAX_ROWS]]
    short = short_layer_names(list(layers))
    rest = f" ({len(shown)} of {len(modules)} layers)" if len(shown) < len(modules) else ""
    with styled():
        title = f"{name or type(model).__name__}: weights of {block} by {recipe.name}{rest}"
        figure = new_figure(10, 0.8 + 2.7 * len(shown), title)
        for (histogram, ranges), layer in zip(grid(figure, len(shown), 2), shown, strict=True):
            _draw_histogram(histogram, layer, short[layer.module])
            _draw_ranges(ranges, layer)
    return figure


def _draw_histogram(axes: "Axes", layer: Layer, name: str) -> None:
    limit = float(layer.weight.abs().max()) or 1.0
    options: dict[str, Any] = {"bins": BINS, "range": (-limit, limit)}
    before, after = layer.weight.flatten().numpy(), layer.approximation.flatten().numpy()
    axes.hist(before, color=GREY, alpha=0.5, label="float", **options)
    axes.hist(after, histtype="step", color=BLUE, linewidth=1.3, label="quantized", **options)
    axes.set_yscale("log")
    axes.set_title(f"{name}: SQNR {layer.sqnr_db:.1f} dB", loc="left")
    axes.set_xlabel("weight value")
    axes.set_ylabel("weights per bin")
    axes.legend(frameon=False, loc="upper right")


def _draw_ranges(axes: "Axes", layer: Layer) -> None:
    """Draw each channel from its smallest to its largest weight.

    Lines show where the outermost codes of its scale lie.
    """
    flat = layer.weight.flatten(1)
    low, high = flat.amin(1), flat.amax(1)
    order = flat.abs().amax(1).argsort(descending=True)
    places = range(len(order))
    tops = (layer.scale.flatten() * round(float((layer.weight / layer.scale).abs().max()))).expand(len(order))[order]
    axes.vlines(
        places, low[order].numpy(), high[order].numpy(), color=GREY, linewidth=_width(len(order)), label="float"
    )
    for sign, label in ((1, "outermost codes"), (-1, None)):
        axes.step(places, (sign * tops).numpy(), where="mid", color=ORANGE, linewidth=1.3, label=label)
    bottom, top = axes.get_ylim()
    axes.set_ylim(bottom, top + 0.3 * (top - bottom))  # room for the legend
    axes.set_title(f"range of each of {len(order)} output channels", loc="left")
    axes.set_xlabel("output channel, widest first")
    axes.set_ylabel("weight value")
    axes.legend(frameon=False, loc="upper right")


def _width(channels: int) -> float:
    """Return a line width in points that fills the axes without overlapping."""
    return max(0.6, min(6.0, 200 / channels))
