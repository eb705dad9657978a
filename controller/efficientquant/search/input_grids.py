"""The uniform codes of an activation, with a gradient for the scale."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from efficientquant.primitives import top_code
from efficientquant.search.candidates import choose
from efficientquant.workbench.recording import as_rows


@dataclasses.dataclass(frozen=True)
class InputGrid:
    """A uniform quantizer of an activation: its scale, zero-point and codes.

    The codes are clip(round(x / s) + z), from `bottom` to `top`. The zero-point is signed. All has a gradient, as if
    rounding changed nothing.
    """

    scale: Tensor
    zero_point: Tensor
    bottom: int
    top: int

    @classmethod
    def fit(cls, lowest: Tensor, highest: Tensor, bits: int, *, symmetric: bool) -> InputGrid:
        """Return the grid of a tensor from its channels' ranges.

        The range contains 0. A symmetric grid has zero-point 0. A tensor of zeros gets scale 1.
        """
        low, high = lowest.min().clamp_max(0), highest.max().clamp_min(0)
        half = 1 << (bits - 1)
        if symmetric:
            scale = _positive(high.maximum(-low) / top_code(bits))
            return cls(scale, torch.zeros(()), -128 if bits == 8 else -top_code(bits), top_code(bits))
        scale = _positive((high - low) / (2 * half - 1))
        return cls(scale, round_through(-low / scale) - half, -half, half - 1)

    def round(self, x: Tensor) -> Tensor:
        """Return x rounded to the codes and back."""
        codes = (round_through(x / self.scale) + self.zero_point).clamp(self.bottom, self.top)
        return (codes - self.zero_point) * self.scale


class PowerOfTwoErrors(nn.Module):
    """A pass-through module that sums each channel's squared error for every factor.

    A factor is 1, 2, 4 or 8, and a channel's step is that many eighths of the tensor's.
    """

    FACTORS = (1, 2, 4, 8)

    def __init__(self, grid: InputGrid, channel: int) -> None:
        super().__init__()
        # Whatever the grid, a quantizer with a scale per channel has all 2^bits codes.
        bottom = -grid.top - 1
        self._grids = [
            dataclasses.replace(grid, scale=grid.scale * (factor / 8), bottom=bottom) for factor in self.FACTORS
        ]
        self._channel = channel
        self.errors = torch.zeros(len(self.FACTORS), 1, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        """Add the squared errors (4, C) of x, and return x."""
        rows = as_rows(x, self._channel)
        errors = [(grid.round(rows) - rows).square().sum(0, dtype=torch.float64) for grid in self._grids]
        self.errors = self.errors + torch.stack(errors)
        return x

    def choose(self) -> tuple[Tensor, float, float]:
        """Return each channel's factor (C,), and two errors.

        They are the errors of factor 8 everywhere and of the choice. Factor 8, the tensor's own step, stays where no
        smaller factor is better.
        """
        index = choose(-self.errors[-1], -self.errors[:-1])
        factors = torch.tensor(self.FACTORS, dtype=torch.float32)[index]
        best = self.errors.gather(0, index[None] % len(self.FACTORS))
        return factors, float(self.errors[-1].sum()), float(best.sum())


def round_through(x: Tensor) -> Tensor:
    """Return round(x), with the gradient of x."""
    # The added term is exactly zero, so that the values are whole numbers.
    return x.detach().round() + (x - x.detach()) if x.requires_grad else x.round()


def _positive(scale: Tensor) -> Tensor:
    return torch.where(scale > 0, scale.clamp_min(torch.finfo(scale.dtype).tiny), 1.0)
