"""HyQ's log2 quantizer of attention maps."""

import torch
from torch import Tensor

from efficientquant.primitives import LN2
from efficientquant.quantizers import EmulatedQuantizer


class Log2Map(EmulatedQuantizer):
    """A quantizer that rounds probabilities to powers of two.

    The codes are round(-log2 p). The code q stands for 2^-q, and the code 2^bits - 1 for exactly 0, as p = 0 does.
    With `as_published`, that code is 2^(1 - 2^bits) too, and zero is one code more. Such codes need a further bit.
    """

    emulates = "log2 map"

    def __init__(self, site: str, bits: int = 4, *, as_published: bool = False) -> None:
        super().__init__(site)
        self.bits = bits
        self.zero_code = (1 << bits) - (0 if as_published else 1)

    def codes(self, x: Tensor) -> Tensor:
        """Return the codes of probabilities.

        They are min(round(-log2 p), zero_code).
        """
        # A natural logarithm and one factor: ONNX has no Log2, so both runtimes evaluate the same expression.
        octaves = torch.log(x.clamp(2.0 ** -(self.zero_code + 1), 1.0)) * (-1.0 / LN2)
        return octaves.round().clamp(0, self.zero_code)

    def decode(self, codes: Tensor) -> Tensor:
        """Return 2^-q, and 0 for the zero's code."""
        return torch.where(codes < self.zero_code, torch.pow(2.0, -codes), 0.0)
