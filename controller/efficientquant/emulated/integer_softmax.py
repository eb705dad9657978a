"""HyQ's softmax, whose exponential an integer unit can compute."""

import torch
from torch import Tensor, nn

from efficientquant.primitives import LN2

SLOPE = 0.7158
OFFSET = 0.9697


class LinearExponential(nn.Module):
    """The logarithm of HyQ's exponential, which goes in front of a softmax.

    With x ≤ 0 the distance to the largest logit of its row, n = floor(-x / ln 2) and r = x + n·ln 2, the exponential is
    e = (0.7158·r + 0.9697)·2^-n. The softmax of log e is e / Σe, so the network keeps its softmax. The logits are
    quantized before. e falls from 0.4849 to 0.4735 at x = -ln 2, as published: it is not monotone.
    """

    emulates = "integer softmax"

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, logits: Tensor) -> Tensor:
        """Return log e of the logits, in their shape."""
        x = logits - logits.amax(self.dim, keepdim=True)
        halvings = torch.floor(x * (-1.0 / LN2))
        remainder = x + halvings * LN2
        return torch.log(remainder * SLOPE + OFFSET) - halvings * LN2
