"""Compensated rounding of one layer, against plain computations of the same."""

import numpy as np
import pytest
import torch
from efficientquant.options import Granularity
from efficientquant.primitives import choose_scale, quantize
from efficientquant.search.rounding import (
    DAMPING,
    DESCENTS,
    SPARSE_RIDGE,
    RoundingProblem,
    RoundingSteps,
    round_nearest,
    search_scales,
)
from efficientquant.search.rows import layer_output

NONE = RoundingSteps(ridge=0.0, scale_search=False, feedback=False, descent=False, bias=False)


def layer(groups, seed=0, rows=400):
    """Return correlated rows, noisier than those that the float outputs come from, and the layer."""
    generator = torch.Generator().manual_seed(seed)
    columns = 3 if groups == 6 else 12 // groups
    mixed = torch.randn(groups * columns, groups * columns, generator=generator)
    clean = torch.randn(rows, groups * columns, generator=generator) @ mixed + 1
    weight, bias = torch.randn(6, columns, generator=generator), torch.randn(6, generator=generator)
    noisy = clean + 0.5 * torch.randn(clean.shape, generator=generator)
    return noisy, layer_output(clean, weight, bias, groups), weight, bias


def problem(groups, **options):
    inputs, outputs, weight, bias = layer(groups, **options)
    return RoundingProblem(inputs.clone(), outputs.clone(), weight, bias, groups)


def decoded(rounded, group_size=None):
    """Return the weight that codes stand for."""
    codes = rounded.codes.double()
    scale = rounded.scale.double()
    steps = scale[:, None] if group_size is None else scale.repeat_interleave(group_size, 1)[:, : codes[0].numel()]
    return codes.flatten(1) * steps


def squared_error(groups, weight, bias):
    """Return a weight's squared error from the rows."""
    inputs, outputs, *_ = layer(groups)
    return float((layer_output(inputs.double(), weight, bias.double(), groups) - outputs).square().sum())


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("steps", [RoundingSteps(), RoundingSteps(bias=False), RoundingSteps(group_size=2), NONE])
def test_errors_are_those_of_the_rows(groups, steps):
    """Both errors come from sums, and are what the rows give."""
    _, _, weight, bias = layer(groups)
    rounded = problem(groups).round(3, steps)
    own = bias if rounded.bias is None else rounded.bias
    assert rounded.error == pytest.approx(squared_error(groups, decoded(rounded, steps.group_size), own), rel=1e-4)
    codes, scale = round_nearest(weight, 3, steps.group_size)
    nearest = decoded(type(rounded)(codes, scale, None, 0, 0), steps.group_size)
    assert rounded.nearest_error == pytest.approx(squared_error(groups, nearest, bias), rel=1e-4)


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_without_any_step_it_is_nearest_rounding(groups):
    """Codes, scales and bias stay those of the float weight."""
    weight = layer(groups)[2]
    rounded = problem(groups).round(4, NONE)
    codes, scale = round_nearest(weight, 4, None)
    assert torch.equal(rounded.codes, codes)
    assert torch.equal(rounded.scale, scale)
    assert rounded.bias is None
    assert torch.equal(scale, weight.double().abs().amax(1).div(7).float())


def test_nearest_rounding_is_that_of_the_primitives():
    """Values between two codes get the code of rounding=nearest."""
    weight = torch.randn(200, 10_000, generator=torch.Generator().manual_seed(0))
    codes, scale = round_nearest(weight, 8, None)
    expected = choose_scale(weight, 8, Granularity.PER_CHANNEL)
    assert torch.equal(scale, expected.flatten())
    assert torch.equal(codes, quantize(weight, expected, 8))


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("step", ["ridge", "scale_search", "feedback", "descent", "bias"])
def test_each_step_lowers_the_error(groups, step):
    """Without one of the steps, the errors of twenty layers add up to more.

    Feedback and descent are tried without each other, since either finds most of what the other does.
    """
    other = {"feedback": {"descent": False}, "descent": {"feedback": False}}.get(step, {})
    tried = RoundingSteps(**other), RoundingSteps(**other, **{step: 0.0 if step == "ridge" else False})
    layers = [problem(groups, seed=seed) for seed in range(20)]
    errors = [sum(layer.round(3, steps).error for layer in layers) for steps in tried]
    assert errors[0] < errors[1]


def test_it_is_never_worse_than_nearest():
    """Where all steps together do not help, nearest rounding stays."""
    for seed in range(30):
        rounded = problem(1, seed=seed, rows=8).round(2, RoundingSteps())
        assert rounded.error <= rounded.nearest_error


def test_feedback_is_that_of_a_plain_implementation():
    """Codes are those of the method written down column by column, with an inverse that shrinks."""
    inputs, _, weight, _ = layer(1)
    x = inputs.double().numpy()
    x -= x.mean(0)
    squares = x.T @ x
    order = np.argsort(-squares.diagonal(), kind="stable")
    squares = squares[order][:, order] + DAMPING * squares.diagonal().mean() * np.eye(12)
    scale = np.abs(weight.double().numpy()).max(1) / 3
    scale = scale.astype(np.float32).astype(np.float64)
    w = weight.double().numpy()[:, order].copy()
    inverse = np.linalg.inv(squares)
    codes = np.zeros_like(w)
    for place in range(12):
        codes[:, place] = np.clip(np.round(w[:, place] / scale), -3, 3)
        error = (w[:, place] - codes[:, place] * scale) / inverse[place, place]
        w -= error[:, None] * inverse[place][None]
        inverse -= np.outer(inverse[place], inverse[place]) / inverse[place, place]
    rounded = problem(1).round(3, RoundingSteps(ridge=0.0, scale_search=False, descent=False))
    assert rounded.error < rounded.nearest_error  # so it is not nearest rounding
    assert np.array_equal(rounded.codes.numpy()[:, order], codes)


def test_descent_is_that_of_a_plain_implementation():
    """Each code in turn takes the value with the smallest error, found by trying all."""
    inputs, _, weight, _ = layer(1)
    x = inputs.double().numpy()
    x -= x.mean(0)
    squares = x.T @ x
    squares += SPARSE_RIDGE * 12 / 400 * squares.diagonal().mean() * np.eye(12)
    codes, scale = (part.double().numpy() for part in round_nearest(weight, 3, None))
    for _ in range(DESCENTS):
        for place in range(12):
            tries = np.repeat(codes[None], 7, 0)
            tries[:, :, place] = np.arange(-3, 4)[:, None]
            off = tries * scale[:, None] - weight.double().numpy()
            best = np.einsum("toi,ij,toj->to", off, squares, off).argmin(0)
            codes[:, place] = best - 3
    rounded = problem(1).round(3, RoundingSteps(ridge=0.0, scale_search=False, feedback=False))
    assert rounded.error < rounded.nearest_error
    assert np.array_equal(rounded.codes.numpy(), codes)


def test_few_rows_hold_the_weight_nearer():
    """With half as many rows as columns, more than `ridge` holds the weight."""
    inputs, outputs, weight, _ = layer(1, rows=6)
    x, y = inputs.double(), outputs.double()
    x, y = x - x.mean(0), y - y.mean(0)
    squares = x.T @ x
    hold = SPARSE_RIDGE * 2 * squares.diagonal().mean()
    solution = torch.linalg.solve(squares + hold * torch.eye(12), x.T @ y + hold * weight.double().T).T
    steps = RoundingSteps(ridge=0.01, scale_search=False, feedback=False, descent=False)
    rounded = problem(1, rows=6).round(8, steps)
    assert float((decoded(rounded) - solution).abs().max()) <= float(rounded.scale.max()) / 2 * 1.01
    assert float((solution - weight).abs().max()) > float(rounded.scale.max())


def test_blocks_of_columns_change_no_code(monkeypatch):
    """Errors that are fed back, and slopes, are the same in blocks."""
    whole = problem(1).round(3, RoundingSteps())
    monkeypatch.setattr("efficientquant.search.rounding.CHUNK_COLUMNS", 5)
    assert torch.equal(problem(1).round(3, RoundingSteps()).codes, whole.codes)


def test_parts_of_rows_change_no_code(monkeypatch):
    """Sums over a few rows at a time are those of all rows."""
    whole = problem(2).round(3, RoundingSteps())
    monkeypatch.setattr("efficientquant.search.rounding.CHUNK_ELEMENTS", 100)
    parts = problem(2).round(3, RoundingSteps())
    assert torch.equal(parts.codes, whole.codes)
    assert parts.error == pytest.approx(whole.error, rel=1e-9)


def test_the_refit_is_the_ridge_solution():
    """With eight bits and no other step, the weight is close to the solution of the normal equations."""
    inputs, outputs, weight, _ = layer(1)
    x, y = inputs.double(), outputs.double()
    x, y = x - x.mean(0), y - y.mean(0)
    squares = x.T @ x
    hold = 0.5 * squares.diagonal().mean()
    solution = torch.linalg.solve(squares + hold * torch.eye(12), x.T @ y + hold * weight.double().T).T
    rounded = problem(1).round(8, RoundingSteps(ridge=0.5, scale_search=False, feedback=False, descent=False))
    assert float((decoded(rounded) - solution).abs().max()) <= float(rounded.scale.max()) / 2 * 1.01
    assert float((solution - weight).abs().max()) > float(rounded.scale.max())


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_the_bias_keeps_the_mean_output(groups):
    """The mean output of each channel is the float layer's."""
    inputs, outputs, *_ = layer(groups)
    rounded = problem(groups).round(3, RoundingSteps())
    result = layer_output(inputs.double(), decoded(rounded), rounded.bias.double(), groups)
    assert torch.allclose(result.mean(0), outputs.double().mean(0), atol=1e-5)


@pytest.mark.parametrize("groups", [1, 6])
def test_dead_and_constant_inputs_are_harmless(groups):
    """Inputs that never change, all or some of them, leave finite weights of the same layer."""
    inputs, _, weight, bias = layer(groups)
    for dead in (slice(0, 1), slice(None)):
        still = inputs.clone()
        still[:, dead] = 2.0
        outputs = layer_output(still, weight, bias, groups)
        rounded = RoundingProblem(still.clone(), outputs.clone(), weight, bias, groups).round(4, RoundingSteps())
        own = bias if rounded.bias is None else rounded.bias
        result = layer_output(still.double(), decoded(rounded), own.double(), groups)
        assert float((result - outputs).square().mean()) < 0.05 * float(outputs.double().var(0).mean()) + 1e-10


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_the_size_of_the_values_changes_no_code(groups):
    """Rows whose squares exceed float32 give the same codes."""
    inputs, outputs, weight, bias = layer(groups)
    large = 2.0**66
    rounded = RoundingProblem(inputs * large, outputs * large, weight, bias * large, groups).round(3, RoundingSteps())
    expected = problem(groups).round(3, RoundingSteps())
    assert torch.equal(rounded.codes, expected.codes)
    assert torch.equal(rounded.scale, expected.scale)
    assert rounded.error == expected.error * large**2


def test_sums_are_in_float64():
    """A tiny ridge has a solution although float32 sums are singular."""
    inputs = torch.randn(5000, 12, generator=torch.Generator().manual_seed(0))
    inputs[:, 6:] = inputs[:, :6]
    weight = torch.randn(6, 12, generator=torch.Generator().manual_seed(1))
    rounded = RoundingProblem(inputs.clone(), inputs @ weight.T, weight, None, 1).round(3, RoundingSteps(ridge=1e-8))
    assert rounded.is_solved
    assert rounded.error < rounded.nearest_error


def test_singular_equations_leave_out_the_refit(monkeypatch):
    """Equal inputs without a ridge keep the float weight, and the result says so."""
    monkeypatch.setattr("efficientquant.search.rounding.SPARSE_RIDGE", 0.0)
    inputs = torch.tensor([2.0, -2.0, 2.0, -2.0])[:, None].expand(-1, 12).clone()
    weight = layer(1)[2]
    outputs = inputs @ weight.T
    results = [
        RoundingProblem(inputs.clone(), outputs.clone(), weight, None, 1).round(
            3, RoundingSteps(ridge=ridge, descent=False)
        )
        for ridge in (1e-17, 0.0)
    ]
    assert torch.equal(results[0].codes, results[1].codes)
    assert [result.is_solved for result in results] == [False, True]


def test_a_channel_of_zeros_stays_one():
    """Its codes are zero and its bias is the mean."""
    inputs, outputs, weight, bias = layer(1)
    weight[2], outputs[:, 2] = 0, bias[2]
    rounded = RoundingProblem(inputs, outputs, weight, bias, 1).round(4, RoundingSteps())
    assert not rounded.codes[2].any()
    assert float(rounded.scale[2]) == 1
    assert float(rounded.bias[2]) == pytest.approx(float(bias[2]), abs=1e-5)


@pytest.mark.parametrize("group_size", [None, 1, 4, 5, 12, 20])
def test_scales_belong_to_groups_of_columns(group_size):
    """A scale is the best factor of its own columns, also in a last group that is shorter."""
    weight = layer(1)[2].double()
    importance = torch.rand(weight.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    factors = [0.5, 0.75, 1.0]
    scales = search_scales(weight, importance, 3, group_size, factors)
    size = group_size or 12
    for row in range(len(weight)):
        for place, begin in enumerate(range(0, 12, size)):
            w, share = weight[row, begin : begin + size], importance[row, begin : begin + size]
            candidates = [(w.abs().max() / 3 * factor).float().double() for factor in factors]
            errors = [float((share * ((w / s).round().clamp(-3, 3) * s - w).square()).sum()) for s in candidates]
            own = scales[row] if group_size is None else scales[row, place]
            assert float(own) == float(candidates[int(np.argmin(errors))])
