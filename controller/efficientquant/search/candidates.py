"""Candidates of a search, and the choice among them."""

from collections.abc import Iterable

import torch
from torch import Tensor

# A candidate has to be better by more than this share of the score: rounding noise decides no tie.
TIE = 1e-7


def grid(low: float, high: float, points: int) -> list[float]:
    """Return evenly spaced factors, both ends included."""
    return torch.linspace(low, high, points, dtype=torch.float64).tolist()


def choose(current: Tensor, scores: Iterable[Tensor]) -> Tensor:
    """Return the index of each channel's best candidate.

    It is -1 where the value in use stays. `current` (...) are the scores of the values in use, `scores` those of each
    candidate. Higher is better.
    """
    best = current.double()
    index = torch.full(best.shape, -1)
    for place, score in enumerate(scores):
        is_better = score.double() - best > TIE * best.abs()
        best = torch.where(is_better, score.double(), best)
        index = torch.where(is_better, place, index)
    return index
