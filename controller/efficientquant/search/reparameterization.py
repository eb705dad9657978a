"""Scales per channel behind a norm, exchanged for one common scale."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from efficientquant.sites.norms import NormSite
    from efficientquant.workbench import Workbench

# A channel's scale is at least this share of the mean scale.
SMALLEST_SHARE = 1e-6


@dataclasses.dataclass(frozen=True)
class ChannelScales:
    """Scales and zero-points (C,) of a norm's channels, and the common ones.

    Zero-points are unsigned, and those of the channels have no limits. With r = scale / common scale, an output y of
    the norm becomes y / r - shift, which its readers undo. This is exact for any common zero-point.
    """

    scale: Tensor
    zero_point: Tensor
    common_scale: float
    common_zero_point: int

    @classmethod
    def of(cls, scale: Tensor, low: Tensor, bits: int, *, mean: bool) -> ChannelScales:
        """Return the scales for ranges that begin at `low`.

        The common zero-point is 2^(bits-1), or the mean of the channels' with `mean`.
        """
        average = scale.double().mean()
        scales = scale.double().clamp_min(SMALLEST_SHARE * average)
        zero_points = (-low.double() / scales).round()
        half = 1 << (bits - 1)
        common = int(zero_points.mean().round().clamp(0, 2 * half - 1)) if mean else half
        return cls(scales, zero_points, float(average), common)

    @property
    def ratio(self) -> Tensor:
        """The channels' scales (C,), divided by the common one."""
        return self.scale / self.common_scale

    @property
    def shift(self) -> Tensor:
        """The value (C,) that is subtracted from each channel."""
        return (self.common_zero_point - self.zero_point) * self.common_scale

    def apply(self, workbench: Workbench, site: NormSite) -> None:
        """Change a norm and its readers in the network."""
        norm = self.change_norm(workbench.parameter(site.weight), workbench.parameter(site.bias))
        for name, value in zip((site.weight, site.bias), norm, strict=True):
            workbench.set_parameter(name, value)
        for layer in site.layers:
            weight, bias = self.change_layer(workbench.parameter(layer.weight), workbench.bias(layer))
            workbench.set_parameter(layer.weight, weight)
            workbench.set_bias(layer, bias)

    def change_norm(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weight and bias (C,) of the changed norm."""
        return (weight / self.ratio).to(weight.dtype), (bias / self.ratio - self.shift).to(bias.dtype)

    def change_layer(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return a reader's weight (O, C, ...) and bias (O,)."""
        changed = weight * self.ratio.reshape(-1, *[1] * (weight.ndim - 2))
        added = changed.flatten(2).sum(2) @ self.shift if weight.ndim > 2 else changed @ self.shift
        old = torch.zeros(len(weight), dtype=torch.float64) if bias is None else bias
        return changed.to(weight.dtype), (old + added).to(weight.dtype)
