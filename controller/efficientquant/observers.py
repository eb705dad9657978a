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
# A fifth of it, divided by 127, is still a normal float32.
SMALLEST_MAGNITUDE = 2.0**-116


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


class ChannelRange(nn.Module):
    """A pass-through module that keeps each channel's smallest and largest value."""

    def __init__(self, channel: int) -> None:
        super().__init__()
        self.channel = channel
        self.lowest = torch.zeros(0)
        self.highest = torch.zeros(0)

    def forward(self, x: Tensor) -> Tensor:
        """Record each channel's range, and return x.

        Raises NonFiniteError when x holds NaN or infinity.
        """
        others = [dim for dim in range(x.ndim) if dim != self.channel % x.ndim]
        lowest, highest = x.amin(others), x.amax(others)
        if not bool(torch.isfinite(highest - lowest).all()):
            raise NonFiniteError("an activation")
        is_first = self.lowest.numel() == 0
        self.lowest = lowest if is_first else self.lowest.minimum(lowest)
        self.highest = highest if is_first else self.highest.maximum(highest)
        return x


class MagnitudeObserver(nn.Module):
    """A pass-through module that keeps a histogram of magnitudes.

    The histogram's width doubles when a larger magnitude comes. Magnitudes that no float32 scale divides into codes
    count as zeros.
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
        if largest >= SMALLEST_MAGNITUDE:
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

    def entropy_range(self, bits: int) -> float:
        """Return the range with the smallest Kullback-Leibler divergence.

        The clipped histogram is compared with itself, rounded to the 2^(bits-1) magnitudes of a symmetric quantizer.
        This is TensorRT's entropy calibration.
        Source: https://on-demand.gputechconf.com/gtc/2017/presentation/s7310-8-bit-inference-with-tensorrt.pdf
        """
        levels = 1 << (bits - 1)
        divergences = {bins: self._divergence(bins, levels) for bins in range(levels, BINS + 1)}
        return min(divergences, key=divergences.__getitem__) * self._width / BINS

    def _divergence(self, bins: int, levels: int) -> float:
        """Return KL(p ‖ q) for the first bins, merged into some levels."""
        kept = self._counts[:bins]
        p = kept.clone()
        p[-1] += self._counts[bins:].sum()
        level = torch.arange(bins) * levels // bins
        occupied = (kept > 0).double()
        totals, members = (torch.zeros(levels).double().index_add_(0, level, x) for x in (kept, occupied))
        q = (totals / members.clamp_min(1))[level] * occupied
        if float(q.sum()) == 0:
            return math.inf
        p, q = _without_zeros(p), _without_zeros(q)
        return float((p * (p / q).log()).sum())

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


def _without_zeros(counts: Tensor) -> Tensor:
    """Return shares that sum to 1, small ones for empty bins.

    An empty bin would make a divergence infinite.
    """
    shares = counts / counts.sum()
    return torch.where(shares > 0, shares, 1e-4 / len(shares)) / (1 + 1e-4)
