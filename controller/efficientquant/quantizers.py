"""The modules of a fake-quantized graph.

Each computes in torch and exports as one marker node. A marker is a node of the domain `efficientquant` that carries
the quantizer's parameters. Lowering turns it into operators that a target can run. A written artifact holds no markers.
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
CODES_MARKER = "Codes"
# Metadata of nodes in the exported graph: what they emulate, and where. A module's `emulates` names the first.
EMULATED = "efficientquant.emulates"
EMULATED_AT = "efficientquant.emulates_at"


class WeightDequantizer(nn.Module):
    """A module that computes a weight from int8 codes.

    The codes are (O, ...). Scale and optional zero-points broadcast against them, or are (O, groups) with a
    `group_size`. An artifact may store codes in as few bits as `bits`.
    """

    codes: Tensor
    scale: Tensor
    zero_point: Tensor | None

    def __init__(
        self,
        codes: Tensor,
        scale: Tensor,
        zero_point: Tensor | None = None,
        group_size: int | None = None,
        bits: int = 8,
    ) -> None:
        super().__init__()
        self.group_size = group_size
        self.bits = bits
        self.register_buffer("codes", codes)
        self.register_buffer("scale", scale)
        self.register_buffer("zero_point", zero_point)

    def forward(self) -> Tensor:
        """Return (codes - zero_point) × scale, float32 (O, ...)."""
        if torch.compiler.is_exporting():
            tensors = tuple(tensor for tensor in (self.codes, self.scale, self.zero_point) if tensor is not None)
            attributes = {"bits": self.bits} | ({} if self.group_size is None else {"group_size": self.group_size})
            return _marker(WEIGHT_MARKER, tensors, attributes, self.scale.dtype, self.codes.shape)
        zero_point = None if self.zero_point is None else self._spread(self.zero_point)
        return dequantize(self.codes, self._spread(self.scale), zero_point)

    def _spread(self, values: Tensor) -> Tensor:
        return values if self.group_size is None else spread_groups(values, self.group_size, self.codes.shape)


class CodeQuantizer(nn.Module, ABC):
    """A quantizer of activations.

    `codes` and `decode` are its two halves. With `enabled` false it is bypassed. `site` is its name in the graph, the
    manifest and the artifact's nodes. `bits` is the width of its codes, which the manifest records.
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
        """Return the values that the codes stand for."""

    @abstractmethod
    def codes_of(self, rounded: Tensor, x: Tensor) -> Tensor:
        """Return the codes for rounded values from a runtime's graph."""

    @abstractmethod
    def marker(self, x: Tensor) -> Tensor:
        """Return the marker node's output."""

    def steps_between(self, codes: Tensor, others: Tensor) -> Tensor:
        """Return how many steps two tensors of codes are apart."""
        return codes - others

    def forward(self, x: Tensor) -> Tensor:
        """Return x rounded to its codes and back, in the same shape."""
        if not self.enabled:
            return x
        return self.marker(x) if torch.compiler.is_exporting() else self.decode(self.codes(x))


class ActivationQuantizer(CodeQuantizer):
    """A symmetric quantizer with one scale per tensor.

    Its codes are clip(round(x / s)), its zero-point is 0. Eight bits keep -128, as QuantizeLinear does. Fewer bits are
    clipped to ±(2^(bits-1) - 1).
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
        """Return the marker's output, with scale, bits and site as attributes."""
        attributes = {"scale": self.scale, "bits": self.bits, "site": self.site}
        return _marker(ACTIVATION_MARKER, (x,), attributes, x.dtype, x.shape)


class EmulatedQuantizer(CodeQuantizer):
    """A quantizer that no runtime has an operator for.

    An artifact computes `codes` and `decode` in float operators, as the exporter translates them. A subclass defines
    these two with operators of opset 13.
    """

    emulates = "quantizer"

    def codes_of(self, rounded: Tensor, x: Tensor) -> Tensor:  # noqa: ARG002
        """Return the runtime's codes."""
        return rounded

    def marker(self, x: Tensor) -> Tensor:
        """Return the decoded codes, which a marker names for the checks."""
        codes = self.codes(x)
        return self.decode(_marker(CODES_MARKER, (codes,), {"site": self.site}, codes.dtype, codes.shape))


class AffineQuantizer(CodeQuantizer):
    """A quantizer with a zero-point, whose signed codes take all 2^bits values.

    The codes are clip(round(x / s) + z). `scale` has one element, or one for each index of dimension `axis`. The
    zero-point is signed: subtract 2^(bits-1) from an unsigned zero-point.
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
        """Return the marker's output, with its attributes.

        They are bits, zero_point, site and, where it is set, axis.
        """
        attributes: dict[str, Any] = {"bits": self.bits, "zero_point": self.zero_point, "site": self.site}
        if self.axis is not None:
            attributes["axis"] = self.axis
        return _marker(AFFINE_MARKER, (x, self.scale), attributes, x.dtype, x.shape)

    def _along(self, x: Tensor) -> Tensor:
        """Return the scale in a shape that broadcasts against x."""
        if self.axis is None:
            return self.scale
        shape = [1] * x.ndim
        shape[self.axis] = -1
        return self.scale.reshape(shape)


class Log2Quantizer(CodeQuantizer):
    """A quantizer that rounds post-softmax probabilities to log2 codes.

    Artifacts leave out a `dropped` quantizer: a deployment variant.
    """

    emulates = "log2 quantizer"

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
        """Return the codes of rounded logarithms, as the codec does."""
        return self.codec.codes_of(rounded, x)

    def marker(self, x: Tensor) -> Tensor:
        """Return the marker's output, with the codec's fields as attributes."""
        codec = self.codec
        attributes: dict[str, Any] = {"bits": codec.bits, "site": self.site, "dropped": int(self.dropped)}
        if isinstance(codec, CalibratedLog2):
            attributes |= {"step": codec.step, "zero_point": codec.zero_point, "epsilon": codec.epsilon}
        else:
            attributes |= {"octaves": codec.octaves}
        return _marker(LOG2_MARKER, (x,), attributes, x.dtype, x.shape)


class LogitQuantizer(CodeQuantizer):
    """The log2 quantizer moved before the softmax.

    It rounds the softmax's inputs to a grid of `step` octaves. A softmax does not depend on a common shift of its
    inputs. Up to the normalization, its results therefore lie on a log2 grid of the same step. The grid has another
    offset in each row and no smallest code. Runtimes can still fuse the attention. `bits` is the width of the log2
    quantizer that it replaces.
    """

    emulates = "log2 grid in front of a softmax"

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
        """Return the rounded values, which are the codes."""
        return rounded

    def marker(self, x: Tensor) -> Tensor:
        """Return the marker's output, with step (in octaves) and site as attributes."""
        return _marker(LOGIT_MARKER, (x,), {"step": self.step, "site": self.site}, x.dtype, x.shape)


def code_quantizers(module: nn.Module) -> dict[str, CodeQuantizer]:
    """Return a model's activation and softmax quantizers by site, in execution order."""
    return {m.site: m for m in module.modules() if isinstance(m, CodeQuantizer)}


@contextmanager
def bypassed(module: nn.Module, sites: frozenset[str]) -> Iterator[None]:
    """Bypass the quantizers of these sites, as an artifact without them does."""
    quantizers = [quantizer for site, quantizer in code_quantizers(module).items() if site in sites]
    for quantizer in quantizers:
        quantizer.enabled = False
    try:
        yield
    finally:
        for quantizer in quantizers:
            quantizer.enabled = True


def _marker(
    name: str, inputs: tuple[Tensor, ...], attributes: dict[str, Any], dtype: torch.dtype, shape: torch.Size
) -> Tensor:
    operator = f"{DOMAIN}::{name}"
    return torch.onnx.ops.symbolic(operator, inputs, attributes, dtype=dtype, shape=shape, version=1)
