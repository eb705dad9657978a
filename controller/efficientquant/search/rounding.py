"""Rounding of a layer's weight for the smallest error of its output.

The layer's inputs come from the quantized network, so that its weight also corrects earlier errors. The weight is
refitted to these inputs and rounded as in GPTQ (Frantar et al. 2023, https://arxiv.org/abs/2210.17323). Then each code
moves while the others stay, as in QuantEase (Behdin et al. 2023, https://arxiv.org/abs/2309.01885).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from efficientquant.options import Granularity
from efficientquant.primitives import choose_scale, quantize, shape_scale, spread_groups, top_code
from efficientquant.search.candidates import choose, grid
from efficientquant.search.rows import split_groups

SCALE_FACTORS = grid(0.3, 1.05, 31)
# Of the mean squared input: added to the problem's diagonal before errors are fed back.
DAMPING = 1e-2
# A layer with few rows is held nearer its float weight: by this much where it has as many columns as rows.
SPARSE_RIDGE = 0.2
# Times that each code may move.
DESCENTS = 3
# The inputs' elements that are computed with in float64 at once.
CHUNK_ELEMENTS = 1 << 22
# Columns whose errors are fed back together to all later ones.
CHUNK_COLUMNS = 128


@dataclasses.dataclass(frozen=True)
class RoundingSteps:
    """The steps of compensated rounding, each of which can be left out.

    `ridge` holds the refitted weight near its float value, and 0 leaves out the refit. `scale_search` searches scales
    by the error of nearest rounding. `feedback` corrects later columns for the rounding of earlier ones. `descent`
    moves single codes where that lowers the error. `bias` moves the mean output to that of the float layer.
    `group_size` columns share a scale.
    """

    ridge: float = 0.03
    scale_search: bool = True
    feedback: bool = True
    descent: bool = True
    bias: bool = True
    group_size: int | None = None


@dataclasses.dataclass(frozen=True)
class RoundedWeight:
    """A weight's int8 codes (O, ...), its scales and the layer's bias.

    `scale` is (O,), or (O, groups). `error` is the layer's squared error over all rows, `nearest_error` that of the
    float weight rounded to nearest. `bias` is None where the layer keeps its own. `is_solved` is false where the refit
    or the feedback was left out, because its equations are singular.
    """

    codes: Tensor
    scale: Tensor
    bias: Tensor | None
    error: float
    nearest_error: float
    is_solved: bool = True


class RoundingProblem:
    """The squared error of a layer as a function of its weight.

    `inputs` (R, G·I) are rows of the quantized network, `outputs` (R, O) those of the float layer, bias included. Both
    are finite, and are overwritten. The weight is (O, ...), and the G groups of a grouped convolution are G problems.
    All sums are in float64.
    """

    def __init__(self, inputs: Tensor, outputs: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> None:
        self._weight, self._groups, self._rows = weight, groups, len(inputs)
        self._bias = torch.zeros(len(weight)) if bias is None else bias
        x = split_groups(inputs, 1, groups).movedim(1, 0)
        y = split_groups(outputs, 1, groups).movedim(1, 0)
        self._input_mean, self._output_mean = _means(x, y)
        x -= self._input_mean.float()[:, None]
        y -= self._output_mean.float()[:, None]
        self._squares, self._products = _sums(x, x), _sums(x, y)
        # The reference for errors: differences to it are computed from the sums, without loss of digits.
        self._float = self._columns(weight)
        self._float_error = _squared_error(x, y, self._float)
        self._is_solved = True

    def round(self, bits: int, steps: RoundingSteps) -> RoundedWeight:
        """Return the rounded weight, or nearest rounding where that is better."""
        target = self._refit(steps.ridge) if steps.ridge > 0 else self._float
        rows = self._as_rows(target)
        importance = self._as_rows(self._squares.diagonal(dim1=1, dim2=2)[:, :, None].expand_as(target))
        scale = search_scales(rows, importance, bits, steps.group_size, SCALE_FACTORS if steps.scale_search else [])
        step = self._columns(self._spread(scale, steps.group_size))
        codes = self._feed_back(target, step, bits) if steps.feedback else _nearest(target, step, bits)
        if steps.descent:
            codes = self._descend(codes, target, step, bits, steps.ridge)
        bias = self._best_bias(codes * step) if steps.bias else None
        error = self._error(codes * step, bias)
        nearest, nearest_scale = round_nearest(self._weight, bits, steps.group_size)
        nearest_step = self._columns(self._spread(nearest_scale, steps.group_size))
        nearest_error = self._error(self._columns(nearest) * nearest_step, None)
        if error < nearest_error:
            whole = self._as_rows(codes).reshape(self._weight.shape).char()
            return RoundedWeight(whole, scale, bias, error, nearest_error, self._is_solved)
        return RoundedWeight(nearest, nearest_scale, None, nearest_error, nearest_error, self._is_solved)

    def _refit(self, ridge: float) -> Tensor:
        """Return the weight with the smallest error, held near the float weight.

        A group whose equations are singular keeps the float weight.
        """
        hold = self._hold(ridge)
        factor, is_solved = self._factor(self._squares + hold)
        refitted = torch.cholesky_solve(self._products + hold @ self._float, factor)
        return refitted.where(is_solved, self._float)

    def _hold(self, ridge: float) -> Tensor:
        """Return what the refit adds to the squares, (G, I, I)."""
        mean = self._squares.diagonal(dim1=1, dim2=2).mean(1)
        columns = self._squares.shape[1]
        share = max(ridge, SPARSE_RIDGE * columns / self._rows)
        hold = (share * mean).where(mean > 0, 1.0)[:, None, None]
        return hold * torch.eye(columns, dtype=torch.float64)

    def _feed_back(self, target: Tensor, step: Tensor, bits: int) -> Tensor:
        """Return codes (G, I, O), column by column.

        The most important inputs come first. The error of each is fed back to the columns that follow.
        """
        order, factor = self._feedback_order()
        w, s = target.gather(1, order[..., None].expand_as(target)), step.gather(1, order[..., None].expand_as(step))
        codes = torch.empty_like(w)
        columns = w.shape[1]
        for begin in range(0, columns, CHUNK_COLUMNS):
            end = min(begin + CHUNK_COLUMNS, columns)
            errors = torch.empty_like(w[:, begin:end])
            for place in range(begin, end):
                code = _nearest(w[:, place], s[:, place], bits)
                error = (w[:, place] - code * s[:, place]) / factor[:, place, place, None]
                codes[:, place], errors[:, place - begin] = code, error
                w[:, place + 1 : end] -= factor[:, place, place + 1 : end, None] * error[:, None]
            w[:, end:] -= factor[:, begin:end, end:].mT @ errors
        return torch.empty_like(codes).scatter_(1, order[..., None].expand_as(codes), codes)

    def _descend(self, codes: Tensor, target: Tensor, step: Tensor, bits: int, ridge: float) -> Tensor:
        """Return codes (G, I, O), each moved to its best value.

        They move in turns, while all others stay. The error is what the refit makes smallest.
        """
        squares = self._squares + self._hold(ridge)
        weight = codes * step
        for _ in range(DESCENTS):
            slope = squares @ (target - weight)
            for begin in range(0, codes.shape[1], CHUNK_COLUMNS):
                chunk = slice(begin, min(begin + CHUNK_COLUMNS, codes.shape[1]))
                before, near, fall = weight[:, chunk].clone(), squares[:, chunk, chunk], slope[:, chunk]
                for place, column in enumerate(range(chunk.start, chunk.stop)):
                    best = weight[:, column] + fall[:, place] / near[:, place, place, None]
                    moved = _nearest(best, step[:, column], bits) * step[:, column]
                    fall -= near[:, :, place, None] * (moved - weight[:, column])[:, None]
                    weight[:, column] = moved
                # The chunk's own part of the slope is up to date, the others follow.
                change = squares[:, :, chunk] @ (weight[:, chunk] - before)
                change[:, chunk] = 0
                slope -= change
        return _nearest(weight, step, bits)

    def _feedback_order(self) -> tuple[Tensor, Tensor]:
        """Return the columns' order (G, I), and the inverse's factor.

        The factor is 1 in a group whose equations are singular, so that nothing is fed back.
        """
        squares = self._squares.clone()
        diagonal = squares.diagonal(dim1=1, dim2=2)
        mean = diagonal.mean(1, keepdim=True)
        mean = mean.where(mean > 0, 1.0)
        diagonal.copy_(diagonal.where(diagonal > 0, mean))
        order = diagonal.argsort(dim=1, descending=True, stable=True)
        diagonal += DAMPING * mean
        squares = squares.gather(1, order[..., None].expand_as(squares))
        squares = squares.gather(2, order[:, None].expand_as(squares))
        inverse = torch.cholesky_inverse(self._factor(squares)[0])
        return order, self._factor(inverse, upper=True)[0]

    def _factor(self, matrix: Tensor, *, upper: bool = False) -> tuple[Tensor, Tensor]:
        """Return each group's Cholesky factor (G, I, I), and whether it exists.

        It is 1 where it does not exist.
        """
        factor, info = torch.linalg.cholesky_ex(matrix, upper=upper)
        is_solved = (info == 0)[:, None, None]
        self._is_solved &= bool(is_solved.all())
        return factor.where(is_solved, torch.eye(matrix.shape[1], dtype=matrix.dtype)), is_solved

    def _best_bias(self, weight: Tensor) -> Tensor:
        """Return the bias (O,) with which mean outputs are the float layer's."""
        return (self._output_mean - torch.einsum("gi,gio->go", self._input_mean, weight)).flatten().float()

    def _error(self, weight: Tensor, bias: Tensor | None) -> float:
        """Return a weight's squared error over all rows."""
        change = weight - self._float
        slope = self._squares @ self._float - self._products
        error = self._float_error + float((change * (self._squares @ change + 2 * slope)).sum())
        shift = (self._bias if bias is None else bias).double() - self._best_bias(weight).double()
        return max(error, 0.0) + self._rows * float(shift.square().sum())

    def _columns(self, weight: Tensor) -> Tensor:
        """Return a weight as columns (G, I, O / G) in float64."""
        return split_groups(weight.flatten(1).double(), 0, self._groups).mT.contiguous()

    def _as_rows(self, columns: Tensor) -> Tensor:
        """Return columns (G, I, O / G) as rows (O, I)."""
        return columns.mT.flatten(0, 1)

    def _spread(self, scale: Tensor, group_size: int | None) -> Tensor:
        shape = self._weight.shape
        if group_size is not None:
            return spread_groups(scale, group_size, shape)
        return shape_scale(scale, shape).expand(shape)


def round_nearest(weight: Tensor, bits: int, group_size: int | None) -> tuple[Tensor, Tensor]:
    """Return int8 codes (O, ...) and scales by the largest weight."""
    if group_size is None:
        scale = choose_scale(weight, bits, Granularity.PER_CHANNEL)
        return quantize(weight, scale, bits), scale.flatten()
    rows = weight.flatten(1).double()
    scale = search_scales(rows, torch.ones_like(rows), bits, group_size, [])
    step = spread_groups(scale, group_size, rows.shape)
    return _nearest(rows, step, bits).reshape(weight.shape).char(), scale


def search_scales(rows: Tensor, importance: Tensor, bits: int, group_size: int | None, factors: list[float]) -> Tensor:
    """Return scales of rows (O, I), or of groups of columns.

    A candidate is a factor times max|W| / (2^(bits-1) - 1), and the best one has the smallest error of nearest
    rounding, weighed by importance (O, I). Without factors it is the largest weight's. Returns float32, (O,) or
    (O, groups).
    """
    top = top_code(bits)
    size = rows.shape[1] if group_size is None else min(group_size, rows.shape[1])
    padding = (0, -rows.shape[1] % size)
    weights, shares = (functional.pad(x, padding).reshape(len(x), -1, size) for x in (rows, importance))
    largest = weights.abs().amax(2)
    start = (largest / top).clamp_min(torch.finfo(torch.float32).tiny).where(largest > 0, 1.0)

    def errors(scale: Tensor) -> Tensor:
        step = scale.double()[..., None]
        rounded = _nearest(weights, step, bits) * step
        return (shares * (rounded - weights).square()).sum(2)

    scale = start.float()
    candidates = [(start * factor).float() for factor in factors]
    index = choose(-errors(scale), (-errors(candidate) for candidate in candidates))
    for place, candidate in enumerate(candidates):
        scale = candidate.where(index == place, scale)
    return scale if group_size is not None else scale[:, 0]


def _means(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean rows (G, I) and (G, O), in float64."""
    total_x, total_y = (torch.zeros(len(rows), rows.shape[2], dtype=torch.float64) for rows in (x, y))
    for first, second in _double_parts(x, y):
        total_x += first.sum(1)
        total_y += second.sum(1)
    return total_x / x.shape[1], total_y / y.shape[1]


def _sums(x: Tensor, y: Tensor) -> Tensor:
    """Return xᵀ·y (G, I, O) of rows, in float64."""
    total = torch.zeros(len(x), x.shape[2], y.shape[2], dtype=torch.float64)
    for first, second in _double_parts(x, y):
        total += first.mT @ second
    return total


def _squared_error(x: Tensor, y: Tensor, weight: Tensor) -> float:
    """Return Σ (x·weight - y)² of rows, in float64."""
    return sum(float((first @ weight).sub_(second).square_().sum()) for first, second in _double_parts(x, y))


def _double_parts(x: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the same rows of both tensors in float64, some at once."""
    rows = max(1, CHUNK_ELEMENTS // (len(x) * max(x.shape[2], y.shape[2])))
    for first, second in zip(torch.split(x, rows, 1), torch.split(y, rows, 1), strict=True):
        yield first.double(), second.double()


def _nearest(values: Tensor, step: Tensor, bits: int) -> Tensor:
    top = top_code(bits)
    return (values / step).round_().clamp_(-top, top)
