"""Observers of activations while calibration data run through a model.

Every observer has bounded memory.
"""

import math

import torch
from torch import Tensor, nn

from efficientquant.errors import NonFiniteError
from efficientquant.options import RangeRule
from efficientquant.primitives import top_code

BINS = 2048
PERCENTILE = 0.9999
# The ranges that the smallest-error search tries, as shares of the largest magnitude.
CANDIDATES = tuple(share / 100 for share in range(20, 101, 2))
# A histogram counts fewer than twice this many values of a tensor. The largest magnitude is taken from all of them.
SAMPLED = 1 << 18


class RangeObserver(nn.Module):
    """A pass-through module that keeps the smallest and largest value."""

    def __init__(self) -> None:
        super().__init__()
        self.smallest = math.inf
        self.largest = -math.inf

    def forward(self, x: Tensor) -> Tensor:
        """Record the smallest and largest value, and return x."""
        low, high = x.aminmax()
        self.smallest = min(self.smallest, float(low))
        self.largest = max(self.largest, float(high))
        return x


class MagnitudeObserver(nn.Module):
    """A pass-through module that keeps a histogram of magnitudes.

    The histogram's width doubles when a larger magnitude comes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0.0
        self._width = 0.0
        self._counts = torch.zeros(BINS, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        """Record the magnitudes, and return x.

        Raises NonFiniteError when x holds NaN or infinity.
        """
        low, high = x.aminmax()
        largest = max(abs(float(low)), abs(float(high)))
        if not math.isfinite(largest):
            raise NonFiniteError("an activation")
        self.largest = max(self.largest, largest)
        if self.largest > 0:
            self._make_room()
            values = x.detach().flatten()
            step = max(1, values.numel() // SAMPLED)
            self._counts += torch.histc(values[::step].abs().float(), BINS, 0.0, self._width).double()
        return x

    def choose_range(self, rule: RangeRule, bits: int) -> float:
        """Return the magnitude that a symmetric quantizer's largest code decodes to.

        It is 0 if only zeros were seen.
        """
        if self.largest == 0 or rule is RangeRule.MINMAX:
            return self.largest
        if rule is RangeRule.PERCENTILE:
            return self._percentile()
        errors = {share: self._squared_error(share * self.largest, bits) for share in CANDIDATES}
        return min(errors, key=errors.__getitem__) * self.largest

    def _make_room(self) -> None:
        """Double the histogram's width until the largest magnitude fits.

        Each doubling merges pairs of bins.
        """
        if self._width == 0.0:
            self._width = self.largest
        while self._width < self.largest:
            pairs = self._counts.reshape(-1, 2).sum(1)
            self._counts = torch.cat([pairs, torch.zeros(BINS // 2, dtype=torch.float64)])
            self._width *= 2

    def _percentile(self) -> float:
        below = torch.searchsorted(self._counts.cumsum(0), PERCENTILE * self._counts.sum())
        return min(self.largest, (int(below) + 1) * self._width / BINS)

    def _squared_error(self, limit: float, bits: int) -> float:
        """Return the squared error over all bins with range `limit`."""
        top = top_code(bits)
        middles = (torch.arange(BINS, dtype=torch.float64) + 0.5) * (self._width / BINS)
        rounded = (middles * (top / limit)).round().clamp_max(top) * (limit / top)
        return float((self._counts * (rounded - middles).square()).sum())
