"""What a fake-quantized graph is made of: modules that compute in torch and export as one marker node each.

A marker is a node of the domain `efficientquant` that carries the quantizer's parameters. Lowering turns it into
what a target can run; a written artifact holds none.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from efficientquant.primitives import LN2, CalibratedLog2, Log2Parameters, dequantize, spread_groups, top_code

DOMAIN = "efficientquant"
WEIGHT_MARKER = "DequantizeWeight"
ACTIVATION_MARKER = "QuantizeDequantize"
AFFINE_MARKER = "AffineQuantizeDequantize"
LOG2_MARKER = "Log2QuantizeDequantize"
LOGIT_MARKER = "LogitQuantizeDequantize"


class WeightDequantizer(nn.Module):
    """Computes a weight from int8 codes (O, ...), scale and maybe zero-points.

    Scale and zero-points broadcast against the codes, or are (O, groups) where there is a `group_size`.
    """

    codes: Tensor
    scale: Tensor
    zero_point: Tensor | None

    def __init__(
        self, codes: Tensor, scale: Tensor, zero_point: Tensor | None = None, group_size: int | None = None
    ) -> None:
        super().__init__()
        self.group_size = group_size
        self.register_buffer("codes", codes)
        self.register_buffer("scale", scale)
        self.register_buffer("zero_point", zero_point)

    def forward(self) -> Tensor:
        """Return (codes - zero_point) × scale, float32 (O, ...)."""
        given = (self.codes, self.scale, self.zero_point)
        if torch.compiler.is_exporting():
            tensors = tuple(tensor for tensor in given if tensor is not None)
            attributes = {} if self.group_size is None else {"group_size": self.group_size}
            return _marker(WEIGHT_MARKER, tensors, attributes, self.scale.dtype, self.codes.shape)
        return dequantize(self.codes, self._spread(self.scale), None if given[2] is None else self._spread(given[2]))

    def _spread(self, values: Tensor) -> Tensor:
        return values if self.group_size is None else spread_groups(values, self.group_size, self.codes.shape)


class CodeQuantizer(nn.Module, ABC):
    """A quantizer of activations: `codes` and `decode` are its two halves, `enabled` lets it be bypassed.

    `site` is the name under which the graph, the manifest and the artifact's nodes know it. `bits` are those of its
    codes, and the manifest records them.
    """

    bits: int

    def __init__(self, site: str) -> None:
        super().__init__()
        self.site = site
        self.enabled = True

    @abstractmethod
    def codes(self, x: Tensor) -> Tensor:
        """Return the codes, as floats, in the shape of x."""

    @abstractmethod
    def decode(self, codes: Tensor) -> Tensor:
        """Return what the codes stand for."""

    @abstractmethod
    def codes_of(self, rounded: Tensor, x: Tensor) -> Tensor:
        """Return the codes that a runtime's own rounded values, shown in its graph, stand for."""

    @abstractmethod
    def marker(self, x: Tensor) -> Tensor:
        """Return the marker node's output."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x rounded to its codes and back, in the same shape."""
        if not self.enabled:
            return x
        return self.marker(x) if torch.compiler.is_exporting() else self.decode(self.codes(x))


class ActivationQuantizer(CodeQuantizer):
    """Symmetric, one scale per tensor: codes clip(round(x / s)), zero-point 0.

    Eight bits keep -128, as QuantizeLinear does; fewer bits are clipped to ±(2^(bits-1) - 1).
    """

    def __init__(self, site: str, scale: float, bits: int) -> None:
        super().__init__(site)
        self.scale = scale
        self.bits = bits

    @property
    def top(self) -> int:
        """The largest code."""
        return top_code(self.bits)

    @property
    def bottom(self) -> int:
        """The smallest code."""
        return -128 if self.bits == 8 else -self.top

    def codes(self, x: Tensor) -> Tensor:
        """Return clip(round(x / s), bottom, top)."""
        return (x / self.scale).round().clamp(self.bottom, self.top)

    def decode(self, codes: Tensor) -> Tensor:
        """Return codes × s."""
        return codes * self.scale

    def codes_of(self, rounded: Tensor, x: Tensor) -> Tensor:  # noqa: ARG002
        """Return QuantizeLinear's output as floats."""
        return rounded.float()

    def marker(self, x: Tensor) -> Tensor:
        """Return the marker's output; its attributes are scale and bits."""
        attributes = {"scale": self.scale, "bits": self.bits, "site": self.site}
        return _marker(ACTIVATION_MARKER, (x,), attributes, x.dtype, x.shape)


class AffineQuantizer(CodeQuantizer):
    """Signed codes clip(round(x / s) + z) that take all 2^bits values.

    `scale` has one element, or one for each index of dimension `axis`. The zero-point is signed: an unsigned one less
    2^(bits-1).
    """

    scale: Tensor

    def __init__(self, site: str, scale: Tensor, bits: int, zero_point: int = 0, axis: int | None = None) -> None:
        super().__init__(site)
        self.bits = bits
        self.zero_point = zero_point
        self.axis = axis
        self.register_buffer("scale", scale.flatten())

    def codes(self, x: Tensor) -> Tensor:
        """Return clip(round(x / s) + z, -2^(bits-1), 2^(bits-1) - 1)."""
        half = 1 << (self.bits - 1)
        return ((x / self._along(x)).round() + self.zero_point).clamp(-half, half - 1)

    def decode(self, codes: Tensor) -> Tensor:
        """Return (codes - z) × s."""
        return (codes - self.zero_point) * self._along(codes)

    def codes_of(self, rounded: Tensor, x: Tensor) -> Tensor:  # noqa: ARG002
        """Return QuantizeLinear's output as floats."""
        return rounded.float()

    def marker(self, x: Tensor) -> Tensor:
        """Return the marker's output, with bits, zero_point and maybe axis as attributes."""
        attributes: dict[str, Any] = {"bits": self.bits, "zero_point": self.zero_point, "site": self.site}
        if self.axis is not None:
            attributes["axis"] = self.axis
        return _marker(AFFINE_MARKER, (x, self.scale), attributes, x.dtype, x.shape)

    def _along(self, x: Tensor) -> Tensor:
        """Return the scale so that it broadcasts against x."""
        if self.axis is None:
            return self.scale
        shape = [1] * x.ndim
        shape[self.axis] = -1
        return self.scale.reshape(shape)


class Log2Quantizer(CodeQuantizer):
    """Rounds post-softmax probabilities to their log2 codes and back.

    `dropped` marks one that artifacts leave out: a deployment variant.
    """

    def __init__(self, site: str, codec: Log2Parameters, *, dropped: bool = False) -> None:
        super().__init__(site)
        self.codec = codec
        self.bits = codec.bits
        self.dropped = dropped

    def codes(self, x: Tensor) -> Tensor:
        """Return the log2 codes of probabilities."""
        return self.codec.quantize(x)

    def decode(self, codes: Tensor) -> Tensor:
        """Return the probabilities that the codes stand for."""
        return self.codec.dequantize(codes)

    def codes_of(self, rounded: Tensor, x: Tensor) -> Tensor:
        """Return the codes of already rounded octaves."""
        return self.codec.codes_of(rounded, x)

    def marker(self, x: Tensor) -> Tensor:
        """Return the marker's output; its attributes are the codec's fields."""
        codec = self.codec
        attributes: dict[str, Any] = {"bits": codec.bits, "site": self.site, "dropped": int(self.dropped)}
        if isinstance(codec, CalibratedLog2):
            attributes |= {"step": codec.step, "zero_point": codec.zero_point, "epsilon": codec.epsilon}
        else:
            attributes |= {"octaves": codec.octaves}
        return _marker(LOG2_MARKER, (x,), attributes, x.dtype, x.shape)


class LogitQuantizer(CodeQuantizer):
    """The log2 quantizer moved before the softmax: rounds its inputs to a grid of `step` octaves.

    A softmax does not see a common shift of its inputs, so its results lie on a log2 grid of the same step, up to
    the normalization, with an offset of its own in each row and no smallest code. A fused attention kernel
    survives it. `bits` are those of the log2 quantizer that it stands for.
    """

    def __init__(self, site: str, step: float, bits: int) -> None:
        super().__init__(site)
        self.step = step
        self.bits = bits

    def codes(self, x: Tensor) -> Tensor:
        """Return round(x / (Δ ln 2))."""
        return (x * (1.0 / (LN2 * self.step))).round()

    def decode(self, codes: Tensor) -> Tensor:
        """Return codes × Δ ln 2."""
        return codes * (LN2 * self.step)

    def codes_of(self, rounded: Tensor, x: Tensor) -> Tensor:  # noqa: ARG002
        """Return the rounded values: they are the codes."""
        return rounded

    def marker(self, x: Tensor) -> Tensor:
        """Return the marker's output; its attribute is the step in octaves."""
        return _marker(LOGIT_MARKER, (x,), {"step": self.step, "site": self.site}, x.dtype, x.shape)


def code_quantizers(module: nn.Module) -> dict[str, CodeQuantizer]:
    """Return a model's activation and softmax quantizers by site, in execution order."""
    return {m.site: m for m in module.modules() if isinstance(m, CodeQuantizer)}


@contextmanager
def bypassed(module: nn.Module, sites: frozenset[str]) -> Iterator[None]:
    """Let the quantizers of these sites pass their inputs through, as an artifact without them does."""
    chosen = [quantizer for site, quantizer in code_quantizers(module).items() if site in sites]
    for quantizer in chosen:
        quantizer.enabled = False
    try:
        yield
    finally:
        for quantizer in chosen:
            quantizer.enabled = True


def _marker(
    name: str, inputs: tuple[Tensor, ...], attributes: dict[str, Any], dtype: torch.dtype, shape: torch.Size
) -> Tensor:
    operator = f"{DOMAIN}::{name}"
    return torch.onnx.ops.symbolic(operator, inputs, attributes, dtype=dtype, shape=shape, version=1)
