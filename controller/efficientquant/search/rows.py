"""Layers computed from rows of their inputs, and their similarity."""

import sys

import torch
from torch import Tensor

from efficientquant.workbench.recording import DEFAULT_POSITIONS, Sample

# The elements of a layer's rows (R, I): 256 MiB in float32.
MOST_ELEMENTS = 1 << 26


def sample_rows(weight: Tensor, groups: int, seed: int, *, whole: bool = False) -> Sample:
    """Return a sample of a layer's positions that fits into memory.

    There are at most 33,000 positions, fewer for large kernels, and all with `whole`.
    """
    columns = weight[0].numel() * groups
    positions = min(DEFAULT_POSITIONS, MOST_ELEMENTS // columns)
    return Sample(sys.maxsize if whole else positions, seed)


def split_groups(x: Tensor, dim: int, groups: int) -> Tensor:
    """Split dimension `dim` of length G·n into (G, n)."""
    return x.reshape(*x.shape[:dim], groups, -1, *x.shape[dim + 1 :])


def layer_output(rows: Tensor, weight: Tensor, bias: Tensor | None, groups: int = 1) -> Tensor:
    """Return a layer's outputs (R, O) from im2col rows (R, I)."""
    matrix = weight.flatten(1)
    if groups == 1:
        y = rows @ matrix.T
    else:
        y = torch.einsum("rgi,goi->rgo", split_groups(rows, 1, groups), split_groups(matrix, 0, groups)).flatten(1)
    return y if bias is None else y + bias


def cosine(x: Tensor, target: Tensor) -> Tensor:
    """Return the cosine similarity of two tensors, summed in float64."""
    return cosine_of((x.double() * target).sum(), x.double().square().sum() * target.double().square().sum())


def cosine_per_image(x: Tensor, target: Tensor, images: Tensor, dim: int | None) -> Tensor:
    """Return the mean over images of the cosine similarity.

    `x` and `target` are (R, O). With dim=0 it is that of each channel (O,), with dim=None that of all channels.
    """
    count = int(images.max()) + 1

    def total(values: Tensor) -> Tensor:
        values = values.double() if dim == 0 else values.double().sum(1)
        return torch.zeros(count, *values.shape[1:], dtype=torch.float64).index_add_(0, images, values)

    similarities = cosine_of(total(x * target), total(x.square()) * total(target.square()))
    return similarities.mean(0)


def cosine_of(product: Tensor, squares: Tensor) -> Tensor:
    """Return product / √squares, and 0 where a vector is zero."""
    return torch.where(squares > 0, product / squares.clamp_min(1e-300).sqrt(), 0.0)
