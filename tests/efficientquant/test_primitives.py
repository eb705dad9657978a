import math

import pytest
import torch
from efficientquant import primitives as p
from efficientquant.errors import NonFiniteError
from efficientquant.options import Granularity
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as np_st

LARGEST = torch.finfo(torch.float32).max
TINIEST_NORMAL = torch.finfo(torch.float32).tiny

few = settings(max_examples=50, deadline=None, derandomize=True)  # the same examples in every run, so no flaky CI

BITS = st.integers(2, 8)
GRANULARITIES = st.sampled_from(Granularity)
MAGNITUDES = st.sampled_from([1e-45, 1e-38, 1e-30, 1e-6, 1.0, 1e6, 1e30, LARGEST])
SHARES = np_st.arrays("float32", (3, 4), elements=st.floats(-1, 1, width=32)).map(torch.from_numpy)
WEIGHTS = st.builds(torch.mul, SHARES, MAGNITUDES)


@few
@given(WEIGHTS, BITS, GRANULARITIES)
def test_uniform_round_trip_errs_by_at_most_half_a_step(weight, bits, granularity):
    """|x̂ - x| <= s/2 for every weight, from the smallest to the largest float."""
    scale = p.choose_scale(weight, bits, granularity)
    approximation = p.dequantize(p.quantize(weight, scale, bits), scale)
    assert bool(torch.isfinite(approximation).all())
    error = (approximation.double() - weight.double()).abs()
    assert bool((error <= scale.double() * 0.5 * (1 + 1e-4)).all())


@few
@given(WEIGHTS, BITS, GRANULARITIES)
def test_uniform_codes_are_a_fixed_point(weight, bits, granularity):
    """Quantizing a dequantized weight gives the same codes."""
    scale = p.choose_scale(weight, bits, granularity)
    codes = p.quantize(weight, scale, bits)
    assert torch.equal(p.quantize(p.dequantize(codes, scale), scale, bits), codes)


@few
@given(WEIGHTS, BITS, GRANULARITIES)
def test_uniform_codes_are_symmetric_and_use_the_whole_range(weight, bits, granularity):
    """The largest magnitude gets the top code, negated weights get negated codes, and no code is larger."""
    scale = p.choose_scale(weight, bits, granularity)
    codes, mirrored = (p.quantize(w, scale, bits) for w in (weight, -weight))
    top = (1 << (bits - 1)) - 1
    assert torch.equal(mirrored, -codes)
    assert int(codes.abs().max()) <= top
    if float(weight.abs().max()) >= TINIEST_NORMAL * top:  # below, the scale is held above zero
        assert int(codes.abs().max()) == top


@few
@given(WEIGHTS, BITS)
def test_uniform_quantization_is_monotone(weight, bits):
    """A larger weight never gets a smaller code under the same scale."""
    scale = p.choose_scale(weight, bits, Granularity.PER_TENSOR).flatten()
    codes = p.quantize(weight.flatten().sort().values, scale, bits).int()
    assert bool((codes.diff() >= 0).all())


@few
@given(SHARES, st.sampled_from([1e-38, 1e-6, 1.0, 1e38]), BITS)
def test_values_beyond_the_range_saturate(x, scale, bits):
    """Values beyond the scale's range get codes within ±top, without wrapping around."""
    codes = p.quantize(x * LARGEST, torch.tensor([scale]), bits).int()
    assert int(codes.abs().max()) <= (1 << (bits - 1)) - 1
    assert bool((codes * x.sign() >= 0).all())


@few
@given(SHARES, BITS)
def test_a_channel_keeps_its_own_scale(weight, bits):
    """A channel's scale does not depend on other channels, and per tensor is per channel of one row."""
    together = p.choose_scale(weight, bits, Granularity.PER_CHANNEL)
    assert together.shape == (3, 1)
    for channel in range(3):
        alone = p.choose_scale(weight[channel : channel + 1], bits, Granularity.PER_CHANNEL)
        assert torch.equal(alone[0], together[channel])
    flat = p.choose_scale(weight.reshape(1, -1), bits, Granularity.PER_CHANNEL)
    assert torch.equal(flat, p.choose_scale(weight, bits, Granularity.PER_TENSOR))


@pytest.mark.parametrize("granularity", Granularity)
def test_dead_channels_stay_zero(granularity):
    """A channel of zeros, or a whole tensor of them, gets scale 1 and comes back as exact zeros."""
    weight = torch.tensor([[0.0, 0.0], [1.0, -2.0]])
    scale = p.choose_scale(weight, 8, granularity)
    expected = [1.0, 2 / 127] if granularity is Granularity.PER_CHANNEL else [2 / 127]
    assert scale.flatten().tolist() == pytest.approx(expected)
    assert p.dequantize(p.quantize(weight, scale, 8), scale)[0].tolist() == [0.0, 0.0]
    assert p.choose_scale(torch.zeros(2, 3, 1, 1), 8, granularity).unique().tolist() == [1.0]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_weight_that_is_not_finite_is_refused(bad):
    """NaN and infinity have neither a scale nor a code."""
    weight = torch.tensor([[1.0, bad]])
    with pytest.raises(NonFiniteError, match="a weight"):
        p.choose_scale(weight, 8, Granularity.PER_CHANNEL)
    with pytest.raises(NonFiniteError):
        p.quantize(weight, torch.ones(1, 1), 8)


@pytest.mark.parametrize("bits", [1, 9, 16])
def test_widths_that_int8_cannot_hold_are_refused(bits):
    """Widths outside 2 to 8 are refused: nine bits would wrap around in int8, one bit has only zero."""
    with pytest.raises(ValueError, match="2 to 8"):
        p.choose_scale(torch.ones(1, 1), bits, Granularity.PER_CHANNEL)
    with pytest.raises(ValueError, match="2 to 8"):
        p.choose_log2_parameters(0.0, 1.0, bits, 1e-5)


@pytest.mark.parametrize(
    ("approximation", "expected"),
    [([1.0, 2.0], math.inf), ([1.1, 2.2], 20.0), ([0.0, 0.0], 0.0), ([math.nan, 2.0], math.nan)],
)
def test_sqnr_is_signal_over_noise(approximation, expected):
    """Noise of a tenth of the amplitude is 20 dB, equal tensors are infinite, and NaN stays NaN."""
    sqnr = p.sqnr_db(torch.tensor([1.0, 2.0]), torch.tensor(approximation))
    assert sqnr == pytest.approx(expected, abs=1e-4, nan_ok=True)


def test_each_channel_has_its_own_sqnr():
    """The SQNR of a channel depends on that channel alone, also where it is all zeros."""
    reference = torch.tensor([[1.0, 2.0], [0.0, 0.0], [0.0, 0.0]])
    approximation = torch.tensor([[1.1, 2.2], [0.0, 0.0], [0.5, 0.0]])
    assert p.channel_sqnr_db(reference, approximation) == pytest.approx([20.0, math.inf, -math.inf], abs=1e-4)
