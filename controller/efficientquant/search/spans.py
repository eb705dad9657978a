"""The quantizers that an input may get, and the best candidate."""

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import TypeVar

from torch import Tensor

from efficientquant.errors import NonFiniteError
from efficientquant.search.candidates import TIE

Candidate = TypeVar("Candidate")
# A channel's step is at least this share of the mean step.
SMALLEST_RATIO = 1e-6


@dataclasses.dataclass(frozen=True)
class Span:
    """A quantizer of an input at factor 1.

    `steps` has one element, or one for each channel or head. The zero-point is signed, and 0 where it is symmetric.
    """

    steps: Tensor
    zero_point: int
    scheme: str
    bits: int

    @property
    def is_split(self) -> bool:
        """Whether there are several steps."""
        return len(self.steps) > 1

    @property
    def mean(self) -> float:
        """The mean step."""
        return float(self.steps.double().mean())

    @property
    def ratios(self) -> Tensor:
        """Each step in shares of the mean step."""
        return self.steps / self.mean

    def codes(self, x: Tensor, steps: Tensor) -> Tensor:
        """Return codes less the zero-point, for steps that broadcast against x."""
        half = 1 << (self.bits - 1)
        return (x / steps).round_().clamp_(-half - self.zero_point, half - 1 - self.zero_point)


def find_spans(low: Tensor, high: Tensor, bits: int, *, split: bool, asymmetric: bool) -> list[Span]:
    """Return the quantizers to try for channels with these ranges (C,).

    The first is symmetric with one step: max / (2^(bits-1) - 0.5). With `asymmetric`, ranges hold 0, and all channels
    have the zero-point of the whole tensor. A channel's step is then the smallest that holds both of its ends. Raises
    NonFiniteError.
    """
    half = 1 << (bits - 1)
    low, high = low.clamp_max(0), high.clamp_min(0)
    width = float(high.max() - low.min())
    if not math.isfinite(width):
        raise NonFiniteError("an activation")
    steps = low.neg().maximum(high) / (half - 0.5)
    if width == 0:
        return [Span(steps.new_ones(1), 0, "symmetric", bits)]
    kinds = [("symmetric", 0, steps, steps.max())]
    if asymmetric:
        whole = steps.new_tensor(width / ((1 << bits) - 1))
        zero = max(-half, min(half - 1, round(float(-low.min() / whole)) - half))
        # The zero-point may stand at an end of the codes. No step holds a value beyond it.
        above = high / (half - 1 - zero) if zero < half - 1 else high * 0
        below = -low / (half + zero) if zero > -half else low * 0
        kinds.append(("asymmetric", zero, above.maximum(below), whole))
    spans = []
    for scheme, zero, steps, whole in kinds:
        spans.append(Span(whole.reshape(1), zero, scheme, bits))
        if split and len(steps) > 1:
            spans.append(Span(steps.maximum(steps.mean() * SMALLEST_RATIO), zero, scheme, bits))
    return spans


def improve(
    current: float, candidates: Iterable[Candidate], score: Callable[[Candidate, float], float]
) -> tuple[Candidate | None, float]:
    """Return the candidate with the smallest score, and the score.

    It is None where the value in use stays. A score that reaches its second argument may be incomplete.
    """
    best, choice = current, None
    for candidate in candidates:
        result = score(candidate, best)
        if best - result > TIE * best:
            best, choice = result, candidate
    return choice, best
