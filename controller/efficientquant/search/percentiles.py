"""Ranges by percentiles of the values, chosen by their squared error."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from efficientquant.emulated.log_sqrt2 import RAISED, LogSqrt2
from efficientquant.primitives import require_finite, top_code
from efficientquant.search.candidates import choose

PERCENTILES = (0.999, 0.9999, 0.99999)
TINY = 1e-30

# The forms of a range: with 0 in it and an integer zero-point, even around 0, or anywhere.
Form = Literal["affine", "symmetric", "free"]


@dataclasses.dataclass(frozen=True)
class UniformCodes:
    """Scales and signed zero-points (C,) for the rows of (C, n).

    `low` is where the ranges begin. `error` and `default_error` are the squared errors of all rows, with these ranges
    and with those of the smallest and largest values. `percentile` is the first row's, and 1 without percentiles.
    """

    bits: int
    is_symmetric: bool
    scale: Tensor
    zero_point: Tensor
    low: Tensor
    error: float = 0.0
    default_error: float = 0.0
    percentile: float = 1.0

    def codes(self, x: Tensor) -> Tensor:
        """Return the signed codes of rows (C, n), as floats."""
        top = top_code(self.bits)
        codes = (x / self.scale[:, None]).round_().add_(self.zero_point[:, None])
        return codes.clamp_(-top if self.is_symmetric else -top - 1, top)

    def errors(self, x: Tensor) -> Tensor:
        """Return the squared error (C,) of each row of (C, n)."""
        decoded = self.codes(x).sub_(self.zero_point[:, None]).mul_(self.scale[:, None])
        return decoded.sub_(x).square_().sum(1, dtype=torch.float64)


def choose_uniform(x: Tensor, bits: int, form: Form, *, percentiles: bool) -> UniformCodes:
    """Return each row's codes (C, n) with the smallest squared error.

    Without percentiles the ranges reach from the smallest to the largest value. Raises NonFiniteError.
    """
    require_finite(x, "a tensor")
    shares = PERCENTILES if percentiles else ()
    if form == "symmetric":
        highs = _upper_ends(x.abs(), shares)
        candidates = [_symmetric(high, bits) for high in highs]
    else:
        ends = zip(-_upper_ends(-x, shares), _upper_ends(x, shares), strict=True)
        candidates = [_affine(low, high, bits, form) for low, high in ends]
    errors = [candidate.errors(x) for candidate in candidates]
    index = _choose(errors)

    def pick(values: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(values)).gather(0, index[None])[0]

    return UniformCodes(
        bits,
        form == "symmetric",
        pick([candidate.scale for candidate in candidates]),
        pick([candidate.zero_point for candidate in candidates]),
        pick([candidate.low for candidate in candidates]),
        float(pick(errors).sum()),
        float(errors[0].sum()),
        (1.0, *PERCENTILES)[int(index[0])],
    )


def choose_log_sqrt2(
    site: str, x: Tensor, bits: int, *, percentiles: bool, as_published: bool
) -> tuple[LogSqrt2, float, float]:
    """Return the quantizer of probabilities with the smallest squared error.

    Returns its error and that of the largest value as scale too. Raises NonFiniteError.
    """
    require_finite(x, "a softmax output")
    highs = _upper_ends(x.reshape(1, -1), PERCENTILES if percentiles else ())[:, 0]
    scales = [max(float(high), 2.0**-RAISED) for high in highs]
    quantizers = [LogSqrt2(site, scale, bits, as_published=as_published) for scale in scales]
    errors = [quantizer.forward(x).sub_(x).square_().sum(dtype=torch.float64)[None] for quantizer in quantizers]
    index = int(_choose(errors))
    return quantizers[index], float(errors[index]), float(errors[0])


def _choose(errors: Sequence[Tensor]) -> Tensor:
    """Return each row's index of the percentile with the smallest error.

    The first candidate is the range of all values, which counts only without percentiles.
    """
    if len(errors) == 1:
        return torch.zeros(errors[0].shape, dtype=torch.int64)
    return choose(-errors[1], [-error for error in errors[2:]]) + 2


def _upper_ends(x: Tensor, shares: Sequence[float]) -> Tensor:
    """Return each row's largest value and quantiles.

    The rows are (C, n), the result is (1 + quantiles, C). Quantiles are interpolated linearly.
    """
    last = x.shape[1] - 1
    places = [(1 - share) * last for share in shares]
    largest = x.topk(min(last, math.floor(max(places, default=0)) + 1) + 1, dim=1).values.double()
    ends = [largest[:, 0]]
    for place in places:
        below, above = largest[:, min(math.floor(place) + 1, last)], largest[:, math.floor(place)]
        ends.append(above + (below - above) * (place - math.floor(place)))
    return torch.stack(ends)


def _symmetric(high: Tensor, bits: int) -> UniformCodes:
    scale = _positive(high / top_code(bits))
    return UniformCodes(bits, True, scale, torch.zeros_like(scale), -high)


def _affine(low: Tensor, high: Tensor, bits: int, form: Form) -> UniformCodes:
    if form == "affine":
        low, high = low.clamp_max(0), high.clamp_min(0)
    step = (high - low) / ((1 << bits) - 1)
    scale = _positive(step) if form == "affine" else step.clamp_min(TINY).float()
    zero_point = (-low / scale).round() - (1 << (bits - 1))
    return UniformCodes(bits, False, scale, zero_point.float(), low)


def _positive(scale: Tensor) -> Tensor:
    """Return float32 scales, 1 where a row has no range."""
    return torch.where(scale > TINY, scale, 1.0).float()
