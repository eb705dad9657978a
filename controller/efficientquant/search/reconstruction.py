"""Searches for the quantizers with the smallest weighted error of an output."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from efficientquant.options import Granularity
from efficientquant.primitives import choose_scale, top_code
from efficientquant.search.candidates import grid
from efficientquant.search.spans import Span, improve

# The elements that are scored at once, so that they stay in the processor's cache.
CHUNK = 1 << 17
FACTORS = grid(0.01, 1.2, 100)


class SplitWeight:
    """A layer's weight (O, I, …), quantized behind factors of its inputs.

    Its step is max / (2^(bits-1) - 0.5) for each output channel.
    """

    def __init__(self, value: Tensor, groups: int, bits: int) -> None:
        self.value, self.groups, self._bits = value, groups, bits

    @property
    def window(self) -> int:
        """The number of kernel elements."""
        return self.value[0, 0].numel()

    def ratios(self, span: Span) -> Tensor:
        """Return the span's ratios in a shape that broadcasts against the weight."""
        if not span.is_split:
            return self.value.new_ones([1] * self.value.ndim)
        by_group = span.ratios.reshape(self.groups, 1, -1).expand(-1, len(self.value) // self.groups, -1)
        return by_group.reshape(*self.value.shape[:2], *[1] * (self.value.ndim - 2))

    def quantize(self, span: Span, factor: float) -> tuple[Tensor, Tensor]:
        """Return codes and scale (O, 1, …) of weight times ratios.

        A depthwise weight has one input channel, so its scale takes the ratio and its codes stay.
        """
        ratios = self.ratios(span)
        is_depthwise = self.groups > 1 and self.value.shape[1] == 1
        value = self.value if is_depthwise else self.value * ratios
        top = top_code(self._bits)
        scale = choose_scale(value, self._bits, Granularity.PER_CHANNEL) * (top / (top + 0.5) * factor)
        codes = (value / scale).round().clamp(-top - 1, top).to(torch.int8)
        return codes, scale * ratios if is_depthwise else scale

    def matrix(self, span: Span, factor: float) -> Tensor:
        """Return the quantized weight as (G, I, O)."""
        codes, scale = self.quantize(span, factor)
        return (codes * scale).reshape(self.groups, len(codes) // self.groups, -1).transpose(1, 2).contiguous()


@dataclasses.dataclass(frozen=True)
class Goal:
    """The place where a layer's error counts.

    It is the layer's own output, or a later one. `targets` and `gradients` are rows (R, O) there. `rest` computes such
    rows from the layer's rows, in the same order. An image has `positions` of them.
    """

    targets: Tensor
    gradients: Tensor
    rest: Callable[[Tensor], Tensor] | None = None
    positions: int = 1


class LayerSearch:
    """The search of a layer's two quantizers.

    It looks at rows (R, I) of the input. Without `rest`, targets are those of the layer without bias.
    """

    def __init__(self, weight: SplitWeight, spans: Sequence[Span], rows: Tensor, goal: Goal) -> None:
        self._weight, self._spans, self._rest = weight, spans, goal.rest
        self.span, self.input_factor, self.weight_factor = spans[0], 1.0, 1.0
        targets, gradients = goal.targets, goal.gradients
        if goal.rest is None:
            # Rows that weigh most come first, so that a bad candidate is left early.
            order = gradients.square().sum(1).argsort(descending=True, stable=True)
            rows, targets, gradients = rows[order], targets[order], gradients[order]
        size = min(CHUNK // max(rows.shape[1], targets.shape[1]), -(-len(rows) // 8))
        size = max(1, size // goal.positions) * goal.positions
        ends = size * len(targets) // len(rows)
        parts = [
            part.reshape(len(part), weight.groups, -1).transpose(0, 1).contiguous() for part in torch.split(rows, size)
        ]
        self._chunks = list(zip(parts, torch.split(targets, ends), torch.split(gradients, ends), strict=True))

    def run(self, rounds: int, *, weight: bool = True) -> tuple[float, float]:
        """Search weight and input in turns and return first and last score."""
        default = best = self._score_input([self._weight.matrix(self.span, 1.0)], (0, 1.0), math.inf)
        for turn in range(rounds):
            coded = [self._coded(x, self.span, self.input_factor) for x, _, _ in self._chunks]
            factor, best = improve(best, FACTORS if weight else [], partial(self._score_weight, coded))
            if factor is None and turn > 0:
                break  # the same weight as a round before, so the same input
            self.weight_factor = factor or self.weight_factor
            matrices = [self._weight.matrix(span, self.weight_factor) for span in self._spans]
            candidates = itertools.product(range(len(matrices)), FACTORS)
            choice, best = improve(best, candidates, partial(self._score_input, matrices))
            if choice is not None:
                self.span, self.input_factor = self._spans[choice[0]], choice[1]
        return default, best

    def outputs(self) -> Iterator[Tensor]:
        """Yield the quantized layer's rows without bias.

        They are in order for a layer with `rest`.
        """
        matrix = self._weight.matrix(self.span, self.weight_factor)
        for x, _, _ in self._chunks:
            codes = self._coded(x, self.span, self.input_factor)
            yield _multiply(codes, matrix, self.span.mean * self.input_factor)

    def _score_weight(self, coded: Sequence[Tensor], factor: float, limit: float) -> float:
        return self._score(coded, self._weight.matrix(self.span, factor), self.span.mean * self.input_factor, limit)

    def _score_input(self, matrices: Sequence[Tensor], candidate: tuple[int, float], limit: float) -> float:
        place, factor = candidate
        span = self._spans[place]
        coded = (self._coded(x, span, factor) for x, _, _ in self._chunks)
        return self._score(coded, matrices[place], span.mean * factor, limit)

    def _score(self, coded: Iterable[Tensor], matrix: Tensor, step: float, limit: float) -> float:
        total = 0.0
        for codes, (_, targets, gradients) in zip(coded, self._chunks, strict=False):
            y = _multiply(codes, matrix, step)
            total += _sum_of_squares(y if self._rest is None else self._rest(y), targets, gradients)
            if total >= limit:
                break
        return total

    def _coded(self, x: Tensor, span: Span, factor: float) -> Tensor:
        steps = span.steps * factor
        if span.is_split:
            steps = steps.repeat_interleave(self._weight.window).reshape(len(x), 1, -1)
        return span.codes(x, steps)


def _multiply(codes: Tensor, matrix: Tensor, step: float) -> Tensor:
    """Return a layer's rows (R, O).

    Its codes are (G, R, I), and the matrix is (G, I, O).
    """
    y = (codes @ matrix).mul_(step)
    return y[0] if len(y) == 1 else y.transpose(0, 1).flatten(1)


def _sum_of_squares(result: Tensor, target: Tensor, gradient: Tensor) -> float:
    return float((result - target).mul_(gradient).double().square_().sum())


class ProductSearch:
    """The search of a product's two quantizers, on whole operands (N, …).

    Several steps belong to heads, the third dimension from the end.
    """

    def __init__(self, spans: Sequence[Sequence[Span]], operands: Sequence[Tensor], gradient: Tensor) -> None:
        self._options = spans
        self.spans, self.factors = [options[0] for options in spans], [1.0, 1.0]
        size = max(1, min(CHUNK * len(gradient) // gradient.numel(), -(-len(gradient) // 8)))
        parts = zip(*(torch.split(tensor, size) for tensor in (*operands, gradient)), strict=True)
        self._chunks = [((a, b), a @ b, g) for a, b, g in parts]

    def run(self, rounds: int) -> tuple[float, float]:
        """Search both operands in turns and return first and last score."""
        default = best = self._score(0, self._others(0), (self.spans[0], 1.0), math.inf)
        for _ in range(rounds):
            before = best
            for side in (0, 1):
                candidates = itertools.product(self._options[side], FACTORS)
                choice, best = improve(best, candidates, partial(self._score, side, self._others(side)))
                if choice is not None:
                    self.spans[side], self.factors[side] = choice
            if best == before:
                break
        return default, best

    def _others(self, side: int) -> list[Tensor]:
        """Return the quantized chunks of the other operand."""
        other = 1 - side
        return [_rounded(pair[other], self.spans[other], self.factors[other]) for pair, _, _ in self._chunks]

    def _score(self, side: int, others: Sequence[Tensor], candidate: tuple[Span, float], limit: float) -> float:
        total = 0.0
        for (pair, target, gradient), other in zip(self._chunks, others, strict=True):
            own = _rounded(pair[side], *candidate)
            total += _sum_of_squares(own @ other if side == 0 else other @ own, target, gradient)
            if total >= limit:
                break
        return total


def _rounded(x: Tensor, span: Span, factor: float) -> Tensor:
    steps = span.steps * factor
    steps = steps.reshape(-1, 1, 1) if span.is_split else steps
    return span.codes(x, steps).mul_(steps)
