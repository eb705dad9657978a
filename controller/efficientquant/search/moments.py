"""Sums over a layer's rows, which give the score of any weight."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from efficientquant.search.rows import cosine_of, split_groups

# Rows that are summed at once, in float64.
_ROWS = 4096


@dataclasses.dataclass(frozen=True)
class Moments:
    """Sums over a layer's rows, which give the score of any weight.

    With G groups of I inputs and O outputs: `gram` (G, I, I) of the inputs, `cross` (G, O, I) of outputs with inputs,
    `sums` (G, I) of the inputs, `output_sums` and `output_squares` (G·O) of the target outputs. All are float64.
    """

    gram: Tensor
    cross: Tensor
    sums: Tensor
    output_sums: Tensor
    output_squares: Tensor
    rows: int

    @classmethod
    def of(cls, inputs: Tensor, outputs: Tensor, groups: int) -> Moments:
        """Sum over rows of inputs (R, G·I) and target outputs (R, G·O)."""
        x = split_groups(inputs, 1, groups).transpose(0, 1)  # (G, R, I)
        y = split_groups(outputs, 1, groups).transpose(0, 1)
        gram = torch.zeros(groups, x.shape[2], x.shape[2], dtype=torch.float64)
        cross = torch.zeros(groups, y.shape[2], x.shape[2], dtype=torch.float64)
        for a, b in zip(torch.split(x, _ROWS, 1), torch.split(y, _ROWS, 1), strict=True):
            gram += a.double().transpose(1, 2) @ a.double()
            cross += b.double().transpose(1, 2) @ a.double()
        targets = outputs.double()
        return cls(gram, cross, x.double().sum(1), targets.sum(0), targets.square().sum(0), len(inputs))

    def cosine(self, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the cosine similarity (O,) of each output channel with its target."""
        w = split_groups(weight.double().flatten(1), 0, len(self.gram))
        against = (w * self.cross).sum(-1).flatten()
        own = ((w @ self.gram) * w).sum(-1).flatten()
        if bias is not None:
            b = bias.double()
            own = own + 2 * b * (w @ self.sums[..., None]).flatten() + self.rows * b.square()
            against = against + b * self.output_sums
        return cosine_of(against, own * self.output_squares)
