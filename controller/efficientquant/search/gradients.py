"""Gradients of a float network, and the errors that they weigh."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 — torch's own name for it

from efficientquant.graph.blocks import Tap
from efficientquant.options import Network
from efficientquant.primitives import require_finite
from efficientquant.workbench.recording import Loss, Sample

if TYPE_CHECKING:
    from efficientquant.workbench import Workbench

# The rms of a gradient is compared with that of rounding noise at so many positions.
NOISE_POSITIONS = 256
PART = 1 << 18  # elements


@dataclasses.dataclass(frozen=True)
class SiteGradient:
    """The gradient (R, C) at the sampled positions of a tensor.

    `rms` is its root mean square and `noise` that of a gradient that would be zero without rounding.
    """

    values: Tensor
    rms: float
    noise: float

    def exceeds_noise(self, ratio: float) -> bool:
        """Tell whether the gradient is at least `ratio` times its noise.

        A gradient of 0 never is.
        """
        return self.rms > 0 and self.rms >= ratio * self.noise

    @property
    def weights(self) -> Tensor:
        """The gradient divided by its rms."""
        return self.values / self.rms


def sampled_label_loss(seed: int) -> Loss:
    """Return the cross-entropy with labels that the float network's softmax draws.

    Its squared gradient estimates the diagonal of the Fisher information. Each image has one label. The loss is for one
    pass over the images, since it draws the labels in their order.
    """
    generator = torch.Generator().manual_seed(seed)

    def loss(logits: Tensor, expected: Tensor) -> Tensor:
        require_finite(expected, "the float network's logits")
        labels = torch.multinomial(expected.detach().softmax(-1), 1, generator=generator).flatten()
        return F.cross_entropy(logits, labels, reduction="sum")

    return loss


def divergence(logits: Tensor, expected: Tensor) -> Tensor:
    """Return Σ KL(p, q) for the logits of q and p."""
    return F.kl_div(logits.log_softmax(-1), expected.detach().log_softmax(-1), reduction="sum", log_target=True)


def fisher_gradients(workbench: "Workbench", samples: Mapping[Tap, Sample], seed: int) -> dict[Tap, SiteGradient]:
    """Return a sampled-label loss's gradients at taps.

    They are the float network's. Each tap has its sample of positions. There is one backward pass for each different
    sample, and one more for the noise, which is the gradient of KL(p, p).
    """
    taps = list(samples)
    sample = Sample(NOISE_POSITIONS, seed)
    noise = dict(zip(taps, map(_rms, _gradients(workbench, taps, divergence, sample)), strict=True))
    gradients: dict[Tap, SiteGradient] = {}
    for sample in dict.fromkeys(samples.values()):
        alike = [tap for tap in taps if samples[tap] == sample]
        for tap, values in zip(alike, _gradients(workbench, alike, sampled_label_loss(seed), sample), strict=True):
            gradients[tap] = SiteGradient(values, _rms(values), noise[tap])
    return gradients


def _gradients(workbench: "Workbench", taps: list[Tap], loss: Loss, sample: Sample) -> list[Tensor]:
    return workbench.gradients(taps, loss, on=Network.FLOAT, sample=sample)


def _rms(x: Tensor) -> float:
    return math.sqrt(float(x.square().sum(dtype=torch.float64)) / x.numel())


def column_errors(outputs: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
    """Return Σ (weight × (output - target))² of each column.

    All are (R, O). The sum is in float64. It overwrites the outputs. Without weights they are all 1.
    """
    return torch.stack([squares.sum(0) for squares in _squares(outputs, targets, weights)]).sum(0)


def matrix_errors(outputs: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
    """Return Σ (weight × (output - target))² of each matrix.

    All are (P, R, M). The sum is in float64. It overwrites the outputs. Without weights they are all 1.
    """
    return torch.cat([squares.sum((1, 2)) for squares in _squares(outputs, targets, weights)])


def _squares(outputs: Tensor, targets: Tensor, weights: Tensor | None) -> Iterator[Tensor]:
    """Yield the weighted squares in parts that fit into a cache."""
    size = max(1, PART // outputs[0].numel())
    for start in range(0, len(outputs), size):
        part = slice(start, start + size)
        difference = outputs[part].sub_(targets[part])
        yield (difference if weights is None else difference.mul_(weights[part])).square_().double()
