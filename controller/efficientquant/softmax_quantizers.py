"""Post-softmax quantizers of the literature, to compare with forms A and G.

All take probabilities a in [0, 1] of any shape, return codes as floats in the same shape, and raise NonFiniteError for
NaN and infinity. `primitives` has the forms A and G.
"""

import dataclasses
import math

import torch
from torch import Tensor

from efficientquant.primitives import require_bits, require_finite, top_code


@dataclasses.dataclass(frozen=True)
class ExponentLog2:
    """A quantizer with integer exponents, s codes per octave.

    q = round(-s log2(a)), â = 2^(-q/s). s = 1 is the classic log2 quantizer, which decodes by a bit shift. s = 2 is
    log-√2. From `bits` = 4 on, the classic quantizer has more codes than softmax outputs need, so further bits change
    nothing. A zero gets the top code.
    """

    bits: int
    codes_per_octave: int = 1

    def __post_init__(self) -> None:
        require_bits(self.bits)
        if self.codes_per_octave < 1:
            raise ValueError(f"{self.codes_per_octave} codes per octave; at least 1 is possible")

    def quantize(self, probabilities: Tensor) -> Tensor:
        """Return clip(round(-s log2(a)), 0, 2^bits - 1)."""
        require_finite(probabilities, "a softmax output")
        steps = torch.log2(probabilities.clamp(0.0, 1.0)) * -self.codes_per_octave
        return steps.round().clamp(0, (1 << self.bits) - 1)

    def dequantize(self, codes: Tensor) -> Tensor:
        """Return 2^(-q/s)."""
        return torch.exp2(codes * (-1.0 / self.codes_per_octave))


@dataclasses.dataclass(frozen=True)
class UniformUnit:
    """A quantizer with even steps over [0, 1].

    The codes are 0 … 2^bits - 1, or 0 … 2^(bits-1) - 1 where they are `signed`.
    """

    bits: int
    signed: bool = False

    def __post_init__(self) -> None:
        require_bits(self.bits)

    @property
    def top(self) -> int:
        """The code of 1: 255 for uint8, 127 for int8."""
        return (1 << (self.bits - self.signed)) - 1

    def quantize(self, probabilities: Tensor) -> Tensor:
        """Return clip(round(a · top), 0, top)."""
        require_finite(probabilities, "a softmax output")
        return (probabilities * self.top).round().clamp(0, self.top)

    def dequantize(self, codes: Tensor) -> Tensor:
        """Return codes / top."""
        return codes / self.top


@dataclasses.dataclass(frozen=True)
class TwinUniform:
    """PTQ4ViT's twin-uniform quantizer.

    One bit selects [0, split] or (split, 1], the other bits count even steps from zero. With t = 2^(bits-1) - 1 the
    step is split / t in the first range and 1 / t in the second. The split itself belongs to the first range, where it
    has a code of its own. The paper prints [0, split), which cannot decode its own top code.
    """

    bits: int
    split: float

    def __post_init__(self) -> None:
        require_bits(self.bits)
        if not 0 < self.split < 1:
            raise ValueError(f"split {self.split}; it must lie between 0 and 1")

    @property
    def top(self) -> int:
        """The largest count of steps in either range."""
        return top_code(self.bits)

    def quantize(self, probabilities: Tensor) -> Tensor:
        """Return round(a / step), and 2^(bits-1) more in the second range."""
        require_finite(probabilities, "a softmax output")
        fine = (probabilities * (self.top / self.split)).round().clamp(0, self.top)
        coarse = (probabilities * self.top).round().clamp(0, self.top)
        return torch.where(probabilities <= self.split, fine, coarse + (self.top + 1))

    def dequantize(self, codes: Tensor) -> Tensor:
        """Return count × step, with the step of the selected range."""
        # Divided before it is scaled, so that the top code decodes to the split exactly.
        fine = codes / self.top * self.split
        return torch.where(codes <= self.top, fine, (codes - (self.top + 1)) / self.top)


SoftmaxQuantizer = ExponentLog2 | UniformUnit | TwinUniform


def choose_twin_split(attention: Tensor, bits: int, values: Tensor | None = None) -> TwinUniform:
    """Return the twin-uniform quantizer whose split has the smallest squared error.

    `attention` (..., N, N) are probabilities. With `values` (..., N, d) it is the error of the attention output. Splits
    are 2^-1 … 2^-(bits-1): in the paper the two steps differ by a power of two, so that shifting aligns them. Raises
    NonFiniteError.
    """
    require_finite(attention, "a softmax output")

    def error(candidate: TwinUniform) -> float:
        difference = candidate.dequantize(candidate.quantize(attention)) - attention
        return float((difference if values is None else difference @ values).square().mean())

    return min((TwinUniform(bits, math.ldexp(1.0, -octaves)) for octaves in range(1, bits)), key=error)
