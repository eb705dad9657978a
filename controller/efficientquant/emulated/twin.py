"""PTQ4ViT's twin-uniform quantizers (Yuan et al. 2022).

Each has two steps, one on each side of a split.
"""

import torch
from torch import Tensor

from efficientquant.primitives import top_code
from efficientquant.quantizers import EmulatedQuantizer


class TwinUniformSoftmax(EmulatedQuantizer):
    """A quantizer of probabilities with two steps.

    With t = 2^(bits-1) - 1 the step is split / t in [0, split) and 1 / t in [split, 1]. Codes 0 … t count the steps of
    the first range, t + 1 … 2t + 1 those of the second. `as_published` adds the split to every result, as the authors'
    code does.
    """

    emulates = "twin-uniform quantizer"

    def __init__(self, site: str, bits: int, split: float, *, as_published: bool = False) -> None:
        super().__init__(site)
        self.bits = bits
        self.split = split
        self.as_published = as_published

    @property
    def top(self) -> int:
        """The largest number of steps in either range."""
        return top_code(self.bits)

    def codes(self, x: Tensor) -> Tensor:
        """Return round(x / step), plus t + 1 in the second range."""
        fine = (x * (self.top / self.split)).round().clamp(0, self.top)
        coarse = (x * float(self.top)).round().clamp(0, self.top) + (self.top + 1.0)
        return torch.where(x < self.split, fine, coarse)

    def decode(self, codes: Tensor) -> Tensor:
        """Return the number of steps × the step of its range."""
        # Divided before it is scaled, so that the top code decodes to the split exactly.
        fine = codes / float(self.top) * self.split
        values = torch.where(codes <= self.top, fine, (codes - (self.top + 1.0)) / float(self.top))
        return values + self.split if self.as_published else values

    def steps_between(self, codes: Tensor, others: Tensor) -> Tensor:
        """Return the distance of two codes in steps.

        The ranges touch at the split: the last step below it and the first one above are neighbours.
        """
        return self._places(codes) - self._places(others)

    def _places(self, codes: Tensor) -> Tensor:
        first = round(self.split * self.top)  # the second range counts its steps from zero and begins here
        return torch.where(codes <= self.top, codes, codes - first)


class TwinUniformActivation(EmulatedQuantizer):
    """A quantizer behind an activation function whose minimum is known.

    Negative values get codes -2^(bits-1) … 0 with the step |minimum| / 2^(bits-1). The others get codes
    0 … 2^(bits-1) - 1 with `step`.
    """

    emulates = "twin-uniform quantizer"

    def __init__(self, site: str, bits: int, step: float, minimum: float) -> None:
        super().__init__(site)
        self.bits = bits
        self.step = step
        self.negative_step = -minimum / (1 << (bits - 1))

    def codes(self, x: Tensor) -> Tensor:
        """Return round(x / step) with the step of x's sign."""
        half = 1 << (self.bits - 1)
        negative = (x.clamp(max=0.0) / self.negative_step).round().clamp(min=float(-half))
        return (x.clamp(min=0.0) / self.step).round().clamp(max=float(half - 1)) + negative

    def decode(self, codes: Tensor) -> Tensor:
        """Return codes × the step of their sign."""
        return codes.clamp(max=0.0) * self.negative_step + codes.clamp(min=0.0) * self.step
