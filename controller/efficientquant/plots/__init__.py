"""Plots of weights, softmaxes and SQNR.

They are the paper's Figures 2 and 3 for any block, and SQNR per layer. Importing this imports no matplotlib.
"""

from efficientquant.plots.drawing import save_figure
from efficientquant.plots.softmax import plot_softmax
from efficientquant.plots.sqnr import plot_sqnr
from efficientquant.plots.weights import plot_weights

__all__ = ["plot_softmax", "plot_sqnr", "plot_weights", "save_figure"]
