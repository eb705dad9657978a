import pytest
import torch
from efficientquant import primitives as p
from efficientquant.graph.capture import capture, fold_batch_norm
from efficientquant.options import Granularity
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as np_st
from torch import nn

few = settings(max_examples=50, deadline=None, derandomize=True)
WEIGHTS = np_st.arrays("float64", (4, 6), elements=st.floats(-1, 1)).map(torch.from_numpy)
FACTORS = np_st.arrays("float64", (4, 1), elements=st.floats(1e-6, 1e6) | st.floats(-1e6, -1e-6)).map(torch.from_numpy)


def codes(weight, granularity):
    return p.quantize(weight, p.choose_scale(weight, 8, granularity), 8).int()


def fold(factors):
    """Return a model of conv and batch norm, its folded graph, and the weight before and after."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, eps=0.0)).eval()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor(factors))
        model[1].bias.fill_(0.25)
    graph = capture(model, (3, 8, 8))
    fold_batch_norm(graph)
    return model, graph, model[0].weight.detach(), graph.get_parameter("0.weight").detach()


POWERS = [2.0**exponent * sign for exponent, sign in zip(range(-12, 12, 3), [1, -1] * 4, strict=True)]


def test_folding_commutes_with_per_channel_codes():
    """With powers of two as f, W·f has the codes of W, negated where f is negative."""
    _, _, before, after = fold(POWERS)
    signs = torch.tensor(POWERS).sign().int().reshape(-1, 1, 1, 1)
    assert torch.equal(codes(after, Granularity.PER_CHANNEL), codes(before, Granularity.PER_CHANNEL) * signs)


def test_folding_does_not_commute_with_per_tensor_codes():
    """With one scale for all channels, folding changes most codes and costs the worst channel 20 dB."""
    _, _, before, after = fold(POWERS)
    changed = codes(after, Granularity.PER_TENSOR) != codes(before, Granularity.PER_TENSOR)
    assert float(changed.float().mean()) > 0.5
    worst = {
        granularity: min(p.channel_sqnr_db(after, p.dequantize(p.quantize(after, scale, 8), scale)))
        for granularity in Granularity
        for scale in [p.choose_scale(after, 8, granularity)]
    }
    assert worst[Granularity.PER_TENSOR] < worst[Granularity.PER_CHANNEL] - 20


@few
@given(WEIGHTS, FACTORS)
def test_any_factor_leaves_per_channel_codes(weight, factors):
    """Codes of W·f and W differ only in f's sign, except for values halfway between two codes."""
    scale = p.choose_scale(weight, 8, Granularity.PER_CHANNEL)
    assume(bool((weight.abs().amax(1) > 1e-3).all()))
    between = ((weight / scale).abs() % 1 - 0.5).abs() < 1e-9
    moved = codes(weight * factors, Granularity.PER_CHANNEL) - codes(weight, Granularity.PER_CHANNEL) * factors.sign()
    assert bool((moved == 0)[~between].all())


@pytest.mark.parametrize("granularity", Granularity)
def test_a_channel_that_batch_norm_switched_off_is_exactly_its_offset(granularity):
    """A channel with γ = 0 has a finite scale and codes of zero, and its output is β."""
    _, graph, _, after = fold([0.0] + [1.0] * 7)
    scale = p.choose_scale(after, 8, granularity)
    restored = p.dequantize(p.quantize(after, scale, 8), scale)
    assert bool(torch.isfinite(scale).all() and (scale > 0).all())
    assert restored[0].unique().tolist() == [0.0]
    with torch.no_grad():
        assert graph(torch.randn(2, 3, 8, 8))[:, 0].unique().tolist() == [0.25]


def test_folding_leaves_what_the_model_computes():
    """The folded graph computes the eager model's output to float rounding, with factors over seven decades."""
    model, graph, _, _ = fold(POWERS)
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(graph(images), model(images), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution_that_is_used_twice_keeps_its_batch_norms(bias):
    """Two norms behind one shared weight cannot both be folded into it."""
    torch.manual_seed(0)
    shared = nn.Conv2d(4, 4, 3, padding=1, bias=bias)
    norms = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
    for norm in norms:
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.2, 2.0)
    model = nn.Sequential(shared, norms[0], nn.ReLU(), shared, norms[1]).eval()
    graph = capture(model, (4, 8, 8))
    fold_batch_norm(graph)
    images = torch.randn(2, 4, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(graph(images), model(images), rtol=1e-5, atol=1e-5)
