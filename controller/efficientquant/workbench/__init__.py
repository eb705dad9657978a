"""The workbench that a recipe's `apply` edits: weights, activations, networks and what is recorded of them."""

from efficientquant.workbench.bench import QuantizedWeight, Workbench

__all__ = ["QuantizedWeight", "Workbench"]
