"""The workbench that a recipe's `apply` edits.

It has the weights, the activations, the networks and their recordings.
"""

from efficientquant.workbench.bench import QuantizedWeight, Workbench

__all__ = ["QuantizedWeight", "Workbench"]
