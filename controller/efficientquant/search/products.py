"""Products of two activations, computed from sampled rows of the first."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from efficientquant.search.gradients import matrix_errors
from efficientquant.workbench.recording import Sample


@dataclasses.dataclass(frozen=True)
class ProductRows:
    """Sampled rows of a product, with their weights.

    `operands` are (P, R, K) and (P, K, M). P counts the matrices, and R the sampled rows of each. Where a matrix has
    fewer rows, the others have weight 0. `weights` (P, R, M) or (P, R, 1) are the rows' weights, `targets` (P, R, M)
    the product's results. `heads` (P,) numbers the head of each matrix, and there are `head_count` of them.
    """

    operands: tuple[Tensor, Tensor]
    weights: Tensor
    targets: Tensor
    heads: Tensor
    head_count: int

    @classmethod
    def of(cls, first: Tensor, second: Tensor, sample: Sample, weights: Tensor | None) -> ProductRows:
        """Sample the rows of whole operands.

        They are (..., N, K) and (..., K, M). `weights` (positions, M) belong to the same sample of the product's
        positions, and are all 1 if there are none. The third dimension from the end has the heads, if there are four.
        """
        batch = (first[..., 0, 0] + second[..., 0, 0]).shape
        rows = first.shape[-2]
        first = first.expand(*batch, *first.shape[-2:]).reshape(-1, first.shape[-1])
        second = second.expand(*batch, *second.shape[-2:]).flatten(0, -3)
        positions = sample.draw(len(first))
        count = len(second)
        most, slots = _slots(positions // rows, count)
        x = first.new_zeros(count * most, first.shape[-1]).index_copy_(0, slots, first[positions])
        x = x.reshape(count, most, -1)
        given = x.new_ones(len(positions), 1) if weights is None else weights
        packed = x.new_zeros(count * most, given.shape[1]).index_copy_(0, slots, given).reshape(count, most, -1)
        heads = batch[-1] if len(batch) > 1 else 1
        return cls((x, second), packed, x @ second, torch.arange(count) % heads, heads)

    def errors(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the weighted squared error of each head for other operands."""
        errors = matrix_errors(first @ second, self.targets, self.weights)
        return errors.reshape(-1, self.head_count).sum(0)


def _slots(matrices: Tensor, count: int) -> tuple[int, Tensor]:
    """Return the number of rows per matrix, and each position's row.

    `matrices` (positions,) are sorted.
    """
    counts = torch.bincount(matrices, minlength=count)
    starts = counts.cumsum(0) - counts
    most = int(counts.max())
    return most, matrices * most + torch.arange(len(matrices)) - starts[matrices]
