"""The workbench that a recipe's `apply` edits."""

from torch import nn

from efficientquant.graph.edits import copy_graph
from efficientquant.images.calibration import CalibrationData, Progress
from efficientquant.workbench.functions import FunctionBench
from efficientquant.workbench.weights import QuantizedWeight

__all__ = ["QuantizedWeight", "Workbench"]


class Workbench(FunctionBench):
    """A quantization in progress.

    A recipe edits `graph`, and the manifest records each edit. Quantize activations before weights: once the network is
    edited, calibration has to name its network.
    """

    def __init__(self, model: nn.Module, images: CalibrationData | None, progress: Progress | None) -> None:
        super().__init__(model, images, progress)
        self._float_manifest = self.manifest.copy()

    def reset(self) -> None:
        """Remove every edit, so that graph and manifest are as captured."""
        self.graph = copy_graph(self._float_graph)
        self.manifest = self._float_manifest.copy()
        self.weights.clear()
        self._float_weights.clear()
        self._places.clear()
        self._is_edited = False
