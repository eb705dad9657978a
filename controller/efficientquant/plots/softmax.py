"""The paper's Figure 3: probabilities behind a softmax, and the quantizers' levels."""

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from efficientquant import primitives
from efficientquant.errors import UnknownBlockError
from efficientquant.graph.attention import Codec
from efficientquant.graph.capture import call_nodes, capture
from efficientquant.graph.edits import observing
from efficientquant.graph.layer_names import short_layer_names
from efficientquant.graph.manifest import module_of
from efficientquant.graph.structure import SOFTMAX
from efficientquant.images.calibration import run_calibration
from efficientquant.models import input_spec, synthetic_images
from efficientquant.plots.drawing import BLUE, GREEN, GREY, MAX_ROWS, ORANGE, choose_block, new_figure, styled
from efficientquant.primitives import DataFreeLog2
from efficientquant.softmax_quantizers import UniformUnit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BITS = 8
EPSILON = 1e-5
OCTAVES = 20
# About how many probabilities of a softmax are kept of each batch, evenly spread.
KEPT_PER_BATCH = 1 << 16
SMALLEST_SHOWN = 2.0**-30
COLOURS = {"log2 A": BLUE, "log2 G": GREEN, "uniform int8": ORANGE}


class Sampler(nn.Module):
    """A module that samples the probabilities passing through it.

    It keeps a bounded number of each batch, and the extremes of all.
    """

    def __init__(self) -> None:
        super().__init__()
        self.smallest = math.inf
        self.largest = -math.inf
        self.kept: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        """Sample x and return it unchanged."""
        low, high = x.aminmax()
        self.smallest, self.largest = min(self.smallest, float(low)), max(self.largest, float(high))
        self.kept.append(x.detach().flatten()[:: max(1, x.numel() // KEPT_PER_BATCH)].clone())
        return x


@dataclasses.dataclass(frozen=True)
class Attention:
    """The probabilities behind one softmax and the quantizers that fit them."""

    module: str
    probabilities: Tensor
    codecs: dict[str, Codec]


def plot_softmax(
    model: nn.Module, images: Tensor | None = None, block: str | None = None, *, name: str = ""
) -> "Figure":
    """Return a figure of a block's values behind the softmax.

    They are drawn on a log axis, with the levels of three 8-bit quantizers and their SQNR in dB. log2 A is calibrated
    on the `images` (normalized, (N, C, H, W), eight synthetic ones by default), log2 G and uniform int8 need none.
    Without a `block`, the first softmax is drawn. Of a block, at most six softmaxes are drawn. Raises
    UnknownBlockError, also where the model has no softmax, and CaptureError.
    """
    spec = input_spec(model)
    attentions = _observe(model, synthetic_images(spec, 8) if images is None else images)
    if not attentions:
        raise UnknownBlockError(block or name or type(model).__name__, "softmax", ["none at all in this model"])
    modules = choose_block(list(attentions), block or next(iter(attentions)), "softmax")
    shown = [attentions[module] for module in modules[:MAX_ROWS]]
    rest = f" ({len(shown)} of {len(modules)} softmaxes)" if len(shown) < len(modules) else ""
    with styled():
        title = f"{name or type(model).__name__}: values behind the softmax of {block or modules[0]}{rest}"
        figure = new_figure(10, 0.8 + 3.6 * len(shown), title)
        ratios = [3.0, 1.0] * len(shown)
        axes = figure.subplots(len(ratios), 1, height_ratios=ratios, squeeze=False)[:, 0]
        short = short_layer_names(list(attentions))
        for index, attention in enumerate(shown):
            low = max(SMALLEST_SHOWN, float(attention.probabilities[attention.probabilities > 0].min()) / 2)
            _draw_values(axes[2 * index], attention, low, short[attention.module])
            _draw_levels(axes[2 * index + 1], attention, low)
    return figure


def _observe(model: nn.Module, images: Tensor) -> dict[str, Attention]:
    """Return the first attention of each module, in execution order."""
    graph = capture(model, input_spec(model).shape)
    sites = call_nodes(graph, *SOFTMAX)
    with observing(graph, sites, Sampler) as samplers:
        run_calibration(graph, images, None)
    attentions: dict[str, Attention] = {}
    for site, sampler in zip(sites, samplers, strict=True):
        codecs: dict[str, Codec] = {
            "log2 A": primitives.choose_log2_parameters(sampler.smallest, sampler.largest, BITS, EPSILON),
            "log2 G": DataFreeLog2(bits=BITS, octaves=OCTAVES),
            "uniform int8": UniformUnit(BITS, signed=True),
        }
        module = module_of(site)
        attentions.setdefault(module, Attention(module, torch.cat(sampler.kept), codecs))
    return attentions


def _draw_values(axes: "Axes", attention: Attention, low: float, title: str) -> None:
    bins = np.geomspace(low, 1.0, 161).tolist()
    axes.hist(attention.probabilities.clamp_min(low).numpy(), bins=bins, color=GREY)
    axes.set_xscale("log", base=2)
    axes.set_xlim(low, 1.0)
    axes.set_ylabel("values per bin")
    axes.set_title(title, loc="left")
    axes.tick_params(labelbottom=False)


def _draw_levels(axes: "Axes", attention: Attention, low: float) -> None:
    """Draw a stroke for every level of each quantizer.

    The axis is that of the values above.
    """
    labels = []
    for place, (name, codec) in enumerate(attention.codecs.items()):
        codes = torch.arange(1 << BITS if "int8" not in name else 1 << (BITS - 1), dtype=torch.float32)
        levels = codec.dequantize(codes)
        axes.vlines(levels[levels > 0].numpy(), place - 0.38, place + 0.38, color=COLOURS[name], linewidth=0.7)
        approximation = codec.dequantize(codec.quantize(attention.probabilities))
        labels.append(f"{name}, {primitives.sqnr_db(attention.probabilities, approximation):.1f} dB")
    axes.set_xscale("log", base=2)
    axes.set_xlim(low, 1.0)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_xlabel(
        "probability behind the softmax; each stroke is a level of a quantizer, with the SQNR of the probabilities\n"
        "log2 A: levels in octaves, calibrated on images; log2 G: the same without data; uniform int8: even steps"
    )
