"""Searches for quantizers' parameters: candidates, scores and layers computed from rows.

Its names are imported on first use, so that a method's file can name them without importing torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from efficientquant.emulated.channel_multiply import ChannelMultiply
    from efficientquant.emulated.integer_softmax import LinearExponential
    from efficientquant.emulated.log2_map import Log2Map
    from efficientquant.emulated.twin import TwinUniformActivation, TwinUniformSoftmax
    from efficientquant.graph.regions import Region
    from efficientquant.observers import ChannelRange, MagnitudeObserver
    from efficientquant.primitives import choose_scale, dequantize, quantize, require_finite, top_code
    from efficientquant.quantizers import ActivationQuantizer
    from efficientquant.search.candidates import choose, grid
    from efficientquant.search.channel_factors import FactorSearch
    from efficientquant.search.gradients import SiteGradient, column_errors, divergence, fisher_gradients
    from efficientquant.search.input_grids import InputGrid, PowerOfTwoErrors
    from efficientquant.search.moments import Moments
    from efficientquant.search.percentiles import choose_log_sqrt2, choose_uniform
    from efficientquant.search.products import ProductRows
    from efficientquant.search.reconstruction import Goal, LayerSearch, ProductSearch, SplitWeight
    from efficientquant.search.reparameterization import ChannelScales
    from efficientquant.search.rows import cosine, cosine_per_image, layer_output, sample_rows
    from efficientquant.search.spans import find_spans
    from efficientquant.sites.attention_parts import (
        ProductSite,
        find_negative_tails,
        find_product_sites,
        find_row_groups,
    )
    from efficientquant.sites.bridges import find_bridges
    from efficientquant.sites.norms import find_norm_sites
    from efficientquant.workbench.recording import DEFAULT_POSITIONS, Feed, Sample

_HOMES = {
    "ActivationQuantizer": "quantizers",
    "ChannelMultiply": "emulated.channel_multiply",
    "ChannelRange": "observers",
    "ChannelScales": "search.reparameterization",
    "DEFAULT_POSITIONS": "workbench.recording",
    "FactorSearch": "search.channel_factors",
    "Feed": "workbench.recording",
    "Goal": "search.reconstruction",
    "InputGrid": "search.input_grids",
    "LayerSearch": "search.reconstruction",
    "LinearExponential": "emulated.integer_softmax",
    "Log2Map": "emulated.log2_map",
    "MagnitudeObserver": "observers",
    "Moments": "search.moments",
    "PowerOfTwoErrors": "search.input_grids",
    "ProductRows": "search.products",
    "ProductSearch": "search.reconstruction",
    "ProductSite": "sites.attention_parts",
    "Region": "graph.regions",
    "Sample": "workbench.recording",
    "SiteGradient": "search.gradients",
    "SplitWeight": "search.reconstruction",
    "TwinUniformActivation": "emulated.twin",
    "TwinUniformSoftmax": "emulated.twin",
    "choose": "search.candidates",
    "choose_log_sqrt2": "search.percentiles",
    "choose_scale": "primitives",
    "choose_uniform": "search.percentiles",
    "column_errors": "search.gradients",
    "cosine": "search.rows",
    "cosine_per_image": "search.rows",
    "dequantize": "primitives",
    "divergence": "search.gradients",
    "find_bridges": "sites.bridges",
    "find_negative_tails": "sites.attention_parts",
    "find_norm_sites": "sites.norms",
    "find_product_sites": "sites.attention_parts",
    "find_row_groups": "sites.attention_parts",
    "find_spans": "search.spans",
    "fisher_gradients": "search.gradients",
    "grid": "search.candidates",
    "layer_output": "search.rows",
    "quantize": "primitives",
    "require_finite": "primitives",
    "sample_rows": "search.rows",
    "top_code": "primitives",
}
__all__ = [
    "DEFAULT_POSITIONS",
    "ActivationQuantizer",
    "ChannelMultiply",
    "ChannelRange",
    "ChannelScales",
    "FactorSearch",
    "Feed",
    "Goal",
    "InputGrid",
    "LayerSearch",
    "LinearExponential",
    "Log2Map",
    "MagnitudeObserver",
    "Moments",
    "PowerOfTwoErrors",
    "ProductRows",
    "ProductSearch",
    "ProductSite",
    "Region",
    "Sample",
    "SiteGradient",
    "SplitWeight",
    "TwinUniformActivation",
    "TwinUniformSoftmax",
    "choose",
    "choose_log_sqrt2",
    "choose_scale",
    "choose_uniform",
    "column_errors",
    "cosine",
    "cosine_per_image",
    "dequantize",
    "divergence",
    "find_bridges",
    "find_negative_tails",
    "find_norm_sites",
    "find_product_sites",
    "find_row_groups",
    "find_spans",
    "fisher_gradients",
    "grid",
    "layer_output",
    "quantize",
    "require_finite",
    "sample_rows",
    "top_code",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"efficientquant.{_HOMES[name]}"), name)
