"""The paper's Eq. 1-6 exactly as printed.

They do not work, as `efficientquant audit` shows. Nothing else uses them.
"""

import dataclasses
import math

import torch
from torch import Tensor

from efficientquant.primitives import require_finite


def quantize_weight(weight: Tensor, bits: int = 8) -> Tensor:
    """Return a weight as the printed Eq. 1-3 quantize it.

    The weight is (O, ...), and the result Ŵ has its shape.

    Δ = (Wmax - Wmin) / (2^b - 1), Z = round(-Wmin / Δ), q = clamp(⌊(W - Wmin) / Δ + Z⌋, 0, 2^b - 1), Ŵ = (q - Z) Δ.

    Wmin is subtracted and Z added, so that the range is shifted twice and its upper part saturates. Raises
    NonFiniteError.
    """
    require_finite(weight, "a weight")
    low, high = (float(bound) for bound in weight.aminmax())
    top = (1 << bits) - 1
    step = (high - low) / top
    if step == 0:
        return torch.zeros_like(weight)
    zero_point = round(-low / step)
    codes = ((weight - low) / step + zero_point).floor().clamp(0, top)
    return (codes - zero_point) * step


@dataclasses.dataclass(frozen=True)
class PrintedLog2:
    """The quantizer of the printed Eq. 4-6.

    q = clamp(⌊-log2(a + ε) / Δ + Z⌋, 0, 2^b - 1), â = 2^((q - Z) Δ).

    Both terms of q are positive and Z alone reaches the top code, so that every probability below 1 - ε gets it.
    """

    bits: int
    step: float
    zero_point: int
    epsilon: float

    def quantize(self, probabilities: Tensor) -> Tensor:
        """Return the codes, as floats, in the same shape."""
        codes = (-torch.log2(probabilities + self.epsilon) / self.step + self.zero_point).floor()
        return codes.clamp(0, (1 << self.bits) - 1)

    def dequantize(self, codes: Tensor) -> Tensor:
        """Return â, from which ε is not removed."""
        return torch.exp2((codes - self.zero_point) * self.step)


def choose_log2(smallest: float, largest: float, bits: int = 8, epsilon: float = 1e-5) -> PrintedLog2:
    """Return the printed quantizer for probabilities in [smallest, largest].

    Δ = (Amax - Amin) / (2^b - 1) and Z = round(-Amin / Δ).

    Printed, Amin = log2(a_min) is infinite for a zero. Here it is log2(a_min + ε), which favours the paper.
    """
    log_max = math.log2(largest + epsilon)
    log_min = min(math.log2(smallest + epsilon), log_max - 1.0)
    step = (log_max - log_min) / ((1 << bits) - 1)
    return PrintedLog2(bits=bits, step=step, zero_point=round(-log_min / step), epsilon=epsilon)
