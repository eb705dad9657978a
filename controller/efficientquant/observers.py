"""What is watched while calibration data run through a model. Every observer has bounded memory."""

import math

from torch import Tensor, nn


class RangeObserver(nn.Module):
    """Passes a tensor through and remembers the smallest and largest value that it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.smallest = math.inf
        self.largest = -math.inf

    def forward(self, x: Tensor) -> Tensor:
        """Return x as it is."""
        low, high = x.aminmax()
        self.smallest = min(self.smallest, float(low))
        self.largest = max(self.largest, float(high))
        return x
