"""Learned factors of a layer's input channels."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from efficientquant.primitives import top_code
from efficientquant.search.candidates import TIE
from efficientquant.search.input_grids import InputGrid, round_through


@dataclasses.dataclass(frozen=True)
class LearnedFactors:
    """The best factors (C,), with two scores.

    `default` is the score of factors 1, `best` that of the best factors. A score is a mean squared error, and lower is
    better.
    """

    factors: Tensor
    default: float
    best: float


@dataclasses.dataclass(frozen=True)
class FactorSearch:
    """The rows of a layer whose input channels get factors α.

    The layer is a 1×1 convolution or a linear. The weight (O, C, ...) is multiplied by α and the inputs (R, C) are
    divided by it before both are quantized. `outputs` (R, O) are the float layer's. `lowest` and `highest` (C,) are the
    range of each channel, from which the inputs' scale follows. The weight has a symmetric scale per output channel.
    """

    weight: Tensor
    bias: Tensor | None
    inputs: Tensor
    outputs: Tensor
    lowest: Tensor
    highest: Tensor
    weight_bits: int
    activation_bits: int
    symmetric: bool

    def input_grid(self, factors: Tensor) -> InputGrid:
        """Return the codes of the inputs, divided by the factors."""
        lowest, highest = self.lowest * (1 / factors), self.highest * (1 / factors)
        return InputGrid.fit(lowest, highest, self.activation_bits, symmetric=self.symmetric)

    def errors(self, factors: Tensor) -> Tensor:
        """Return the output error (R, O) of the quantized layer."""
        x = self.input_grid(factors).round(self.inputs * (1 / factors))
        weight = self.weight.flatten(1) * factors
        top = top_code(self.weight_bits)
        scale = (weight.abs().amax(1, keepdim=True) / top).clamp_min(torch.finfo(weight.dtype).tiny)
        rounded = round_through(weight / scale).clamp(-top, top) * scale
        outputs = x @ rounded.T
        return (outputs if self.bias is None else outputs + self.bias) - self.outputs

    def learn(self, steps: int, rate: float) -> LearnedFactors:
        """Return the best factors of some steps of Adam, factors 1 included.

        Factors are exp(a), a starts at 0. All rows are in each step. The rate falls to 0 as a half cosine. Gradients
        pass through roundings, scores do not.
        """
        logarithms = torch.zeros(self.weight.shape[1], requires_grad=True)
        optimizer = torch.optim.Adam([logarithms], lr=rate)
        decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
        best_factors = torch.ones_like(logarithms)
        default = best = float("nan")
        for step in range(steps + 1):
            with torch.enable_grad():
                factors = logarithms.exp()
                errors = self.errors(factors)
                loss = errors.square().mean()
            score = float(errors.detach().double().square().mean())
            if step == 0:
                default = best = score
            elif best - score > TIE * best:
                best_factors, best = factors.detach().clone(), score
            if step < steps:
                (logarithms.grad,) = torch.autograd.grad(loss, [logarithms])
                optimizer.step()
                decay.step()
        return LearnedFactors(best_factors, default, best)
