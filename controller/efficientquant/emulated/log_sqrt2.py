"""RepQ-ViT's quantizer behind a softmax, with codes half an octave apart."""

import math

import torch
from torch import Tensor

from efficientquant.primitives import LN2, require_bits
from efficientquant.quantizers import EmulatedQuantizer

# Probabilities are raised by this many octaves before the logarithm, which then reads no subnormal numbers.
RAISED = 64
# The smallest normal number is 2^-126.
OCTAVES = 126


class LogSqrt2(EmulatedQuantizer):
    """A quantizer with the values s · 2^(-q/2).

    The codes are q = round(-2 log2(x / s)), clipped below at 0. Codes from 0 to 2^bits - 2 are values, and the top code
    is exactly 0. With `as_published`, code 2^bits - 1 is a value too, and zero has code 2^bits, which the bits do not
    hold.
    """

    emulates = "log-√2 quantizer"

    def __init__(self, site: str, scale: float, bits: int, *, as_published: bool = False) -> None:
        super().__init__(site)
        require_bits(bits)
        if not scale >= 2.0**-RAISED:
            raise ValueError(f"scale {scale}; it must be at least 2^-{RAISED}")
        self.scale = scale
        self.bits = bits
        self.as_published = as_published

    @property
    def top(self) -> int:
        """The code of zero."""
        return (1 << self.bits) - 1 + self.as_published

    def codes(self, x: Tensor) -> Tensor:
        """Return the codes of probabilities, as floats."""
        # A natural logarithm and factors: ONNX has no Log2, so both runtimes evaluate the same expression.
        raised = (x * (2.0**RAISED / self.scale)).clamp_min(torch.finfo(torch.float32).tiny)
        return (torch.log(raised) * (-2.0 / LN2) + 2.0 * RAISED).round().clamp(0, self.top)

    def decode(self, codes: Tensor) -> Tensor:
        """Return the probabilities that the codes stand for."""
        return torch.where(codes < self.top, torch.exp(codes * (-LN2 / 2)) * self.scale, 0.0)

    def steps_between(self, codes: Tensor, others: Tensor) -> Tensor:
        """Return how many steps two tensors of codes are apart.

        Subnormal numbers count as one code, since a runtime may flush them to zero.
        """
        smallest = math.floor(2 * (OCTAVES + math.log2(self.scale)))
        return codes.clamp_max(smallest + 1) - others.clamp_max(smallest + 1)
