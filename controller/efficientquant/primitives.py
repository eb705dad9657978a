"""Pure tensor functions: scales, uniform codes, log2 codes and SQNR."""

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from efficientquant.errors import NonFiniteError
from efficientquant.options import Granularity

LN2 = math.log(2.0)


def choose_scale(weight: Tensor, bits: int, granularity: Granularity) -> Tensor:
    """Return the symmetric scale of a weight (O, ...).

    It is max|W| / (2^(bits-1) - 1). Per channel → (O, 1, ...), per tensor → (1, 1, ...), so that it broadcasts against
    the weight. A channel of zeros gets scale 1. Raises NonFiniteError. Eq. 1 of the paper, in its symmetric form.
    """
    require_finite(weight, "a weight")
    top = top_code(bits)
    first = 1 if granularity is Granularity.PER_CHANNEL else 0
    largest = weight.abs().amax(dim=tuple(range(first, weight.ndim)), keepdim=True)
    if granularity is Granularity.PER_TENSOR:
        largest = largest.reshape([1] * weight.ndim)
    limits = torch.finfo(weight.dtype)
    # Without the upper limit, the scale of the largest float could round up and decode the top code to infinity.
    scale = (largest / top).clamp(limits.tiny, limits.max / top * (1 - limits.eps))
    return torch.where(largest == 0, torch.ones_like(scale), scale)


def quantize(x: Tensor, scale: Tensor, bits: int) -> Tensor:
    """Return symmetric int8 codes, with zero-point 0.

    They are clip(round(x / scale), -top, top) with top = 2^(bits-1) - 1, Eq. 2. Raises NonFiniteError: NaN has no code,
    and infinity would pass as the largest one.
    """
    require_finite(x, "a tensor")
    top = top_code(bits)
    return (x / scale).round().clamp(-top, top).to(torch.int8)


def dequantize(codes: Tensor, scale: Tensor, zero_point: Tensor | None = None) -> Tensor:
    """Return (codes - zero_point) × scale, in the scale's type.

    DequantizeLinear computes the same. Eq. 3.
    """
    values = codes.to(scale.dtype)
    return (values if zero_point is None else values - zero_point.to(scale.dtype)) * scale


def spread_groups(values: Tensor, group_size: int, shape: Sequence[int]) -> Tensor:
    """Spread one value per group (O, groups) to each weight (O, ...).

    A group is `group_size` consecutive columns of the weight as (O, columns), in im2col's order. The last group may be
    shorter.
    """
    columns = math.prod(shape[1:])
    return values.repeat_interleave(min(group_size, columns), 1)[:, :columns].reshape(tuple(shape))


def shape_scale(values: Tensor, shape: Sequence[int], group_size: int | None = None) -> Tensor:
    """Reshape scales or zero-points to fit a weight.

    `shape` is the weight's. One element → (1, 1, ...), O elements → (O, 1, ...). With a `group_size` they have to be
    (O, groups) and stay so. Raises ValueError for another shape or number of elements.
    """
    if group_size is not None:
        groups = -(-math.prod(shape[1:]) // group_size) if group_size > 0 else 0
        if tuple(values.shape) != (shape[0], groups):
            raise ValueError(f"values of shape {tuple(values.shape)} for {shape[0]} × {groups} groups")
        return values
    if values.numel() not in (1, shape[0]):
        raise ValueError(f"{values.numel()} values for a weight of {shape[0]} channels")
    return values.reshape(-1, *[1] * (len(shape) - 1))


def require_scales(scale: float | Tensor, axis: int | None = None) -> Tensor:
    """Return positive scales as a flat float32 tensor.

    Raises ValueError for a scale that is not positive and finite, and for several scales without an axis.
    """
    scales = torch.as_tensor(scale, dtype=torch.float32).detach().flatten()
    if axis is None and scales.numel() != 1:
        raise ValueError(f"{scales.numel()} scales without an axis")
    if not bool((torch.isfinite(scales) & (scales > 0)).all()):
        raise ValueError("a scale that is no positive number")
    return scales


def require_codes(codes: Tensor, shape: Sequence[int], smallest: int, largest: int) -> None:
    """Raise ValueError unless codes are int8 of this shape and range."""
    if codes.dtype is not torch.int8 or tuple(codes.shape) != tuple(shape):
        raise ValueError(f"codes are {codes.dtype} {tuple(codes.shape)}, not int8 {tuple(shape)}")
    if int(codes.min()) < smallest or int(codes.max()) > largest:
        raise ValueError(f"codes from {int(codes.min())} to {int(codes.max())}, not {smallest} to {largest}")


def require_floats(value: Tensor, shape: Sequence[int], what: str) -> None:
    """Raise ValueError unless a tensor is finite float32 of this shape."""
    if value.dtype is not torch.float32 or tuple(value.shape) != tuple(shape):
        raise ValueError(f"{what} is float32 {tuple(shape)}, not {value.dtype} {tuple(value.shape)}")
    if not bool(torch.isfinite(value).all()):
        raise ValueError(f"{what} cannot hold NaN or infinity")


def sqnr_db(reference: Tensor, approximation: Tensor) -> float:
    """Return the signal-to-quantization-noise ratio in dB.

    It is infinite where the two tensors are equal.
    """
    reference, approximation = reference.double(), approximation.double()
    return _decibels(float(reference.square().sum()), float((reference - approximation).square().sum()))


def channel_sqnr_db(reference: Tensor, approximation: Tensor) -> list[float]:
    """Return the SQNR of each output channel of (O, ...) in dB."""
    reference, approximation = reference.double().flatten(1), approximation.double().flatten(1)
    signal = reference.square().sum(1).tolist()
    noise = (reference - approximation).square().sum(1).tolist()
    return [_decibels(s, n) for s, n in zip(signal, noise, strict=True)]


@dataclasses.dataclass(frozen=True)
class CalibratedLog2:
    """The parameters of form A of the log2 quantizer.

    `step` is Δ in octaves, `zero_point` the integer Z, and `epsilon` is ε, which is added inside the logarithm.
    """

    bits: int
    step: float
    zero_point: int
    epsilon: float

    def quantize(self, probabilities: Tensor) -> Tensor:
        """Return the codes of probabilities, as floats.

        They are clip(round(log2(a + ε) / Δ) + Z, 0, 2^bits - 1), Eq. 4 and 5 with the sign corrected. Raises
        NonFiniteError.
        """
        require_finite(probabilities, "a softmax output")
        # A natural logarithm and one factor: ONNX has no Log2, so both runtimes evaluate the same expression.
        steps = torch.log(probabilities + self.epsilon) * (1.0 / (LN2 * self.step))
        return self.codes_of(torch.round(steps), probabilities)

    def codes_of(self, rounded: Tensor, _probabilities: Tensor) -> Tensor:
        """Return the codes of round(log2(a + ε) / Δ)."""
        return (rounded + self.zero_point).clamp(0, (1 << self.bits) - 1)

    def dequantize(self, codes: Tensor) -> Tensor:
        """Return the probabilities that codes stand for.

        They are max(2^((q - Z) Δ) - ε, 0), Eq. 6, with ε removed again.
        """
        return (torch.exp((codes - self.zero_point) * (LN2 * self.step)) - self.epsilon).clamp_min(0.0)


@dataclasses.dataclass(frozen=True)
class DataFreeLog2:
    """The parameters of form G of the log2 quantizer.

    The codes cover K = `octaves` octaves below 1, and the top code is exactly zero.
    """

    bits: int
    octaves: int

    @property
    def step(self) -> float:
        """The octaves between neighbouring codes."""
        return self.octaves / ((1 << self.bits) - 2)

    @property
    def floor(self) -> float:
        """The smallest probability that does not become zero.

        It is 2^-K, less the rounding error of decoding its code.
        """
        return 2.0**-self.octaves * (1 - 2.0**-16)

    def quantize(self, probabilities: Tensor) -> Tensor:
        """Return the codes of probabilities, as floats.

        They are round(-log2(a) / Δ), or 2^bits - 1 for a below 2^-K. Raises NonFiniteError.
        """
        require_finite(probabilities, "a softmax output")
        rounded = torch.round(torch.log(probabilities.clamp(self.floor, 1.0)) * (-1.0 / (LN2 * self.step)))
        return self.codes_of(rounded, probabilities)

    def codes_of(self, rounded: Tensor, probabilities: Tensor) -> Tensor:
        """Return the codes of round(-log2(a) / Δ).

        Probabilities below 2^-K get the top code.
        """
        return torch.where(probabilities >= self.floor, rounded, float((1 << self.bits) - 1))

    def dequantize(self, codes: Tensor) -> Tensor:
        """Return 2^(-q Δ), and 0 for the top code."""
        return torch.where(codes < (1 << self.bits) - 1, torch.exp(codes * (-LN2 * self.step)), 0.0)


Log2Parameters = CalibratedLog2 | DataFreeLog2


def choose_log2_parameters(smallest: float, largest: float, bits: int, epsilon: float) -> CalibratedLog2:
    """Return form A's Δ and Z for probabilities from `smallest` to `largest`.

    A range below one octave is widened to one: a softmax over a single token is always 1 and has no range. Raises
    NonFiniteError when a bound is not finite, and ValueError as `require_bits` does.
    """
    if not (math.isfinite(smallest) and math.isfinite(largest)):
        raise NonFiniteError("a softmax output")
    require_bits(bits)
    log_max = math.log2(largest + epsilon)
    log_min = min(math.log2(smallest + epsilon), log_max - 1.0)
    step = (log_max - log_min) / ((1 << bits) - 1)
    return CalibratedLog2(bits=bits, step=step, zero_point=round(-log_min / step), epsilon=epsilon)


def require_finite(x: Tensor, what: str) -> None:
    """Raise NonFiniteError for NaN or infinity, with `what` as the tensor's name.

    Traced code is not checked.
    """
    if not torch.compiler.is_compiling() and not bool(torch.isfinite(x).all()):
        raise NonFiniteError(what)


def require_bits(bits: int) -> None:
    """Raise ValueError unless a width is 2 to 8 bits.

    Codes are stored as int8.
    """
    if bits not in range(2, 9):
        raise ValueError(f"{bits} bits; 2 to 8 are possible")


def top_code(bits: int) -> int:
    """Return the largest code of a symmetric quantizer, 2^(bits-1) - 1."""
    require_bits(bits)
    return (1 << (bits - 1)) - 1


def _decibels(signal: float, noise: float) -> float:
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf
