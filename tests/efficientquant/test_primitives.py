import math

import pytest
import torch
from efficientquant import primitives as p
from efficientquant.errors import NonFiniteError
from efficientquant.recipe import Granularity
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as np_st

BITS = st.integers(2, 8)
GRANULARITIES = st.sampled_from(Granularity)
MAGNITUDES = st.sampled_from([1e-30, 1e-6, 1.0, 1e6, 1e30])
WEIGHTS = np_st.arrays("float32", (3, 4), elements=st.floats(-1, 1, width=32)).map(torch.from_numpy)
PROBABILITIES = np_st.arrays("float32", (16,), elements=st.floats(0, 1, width=32)).map(torch.from_numpy)
CODECS = st.one_of(
    st.builds(p.choose_log2_parameters, st.floats(0, 0.01), st.floats(0.1, 1), BITS, st.just(1e-5)),
    st.builds(p.DataFreeLog2, bits=BITS, octaves=st.integers(4, 24)),
)


@given(WEIGHTS, MAGNITUDES, BITS, GRANULARITIES)
def test_uniform_round_trip_errs_by_at_most_half_a_step(weight, magnitude, bits, granularity):
    """|x̂ - x| <= s/2 for every weight, however huge or tiny its scale."""
    weight = weight * magnitude
    scale = p.choose_scale(weight, bits, granularity)
    error = (p.dequantize(p.quantize(weight, scale, bits), scale) - weight).abs()
    assert bool((error <= scale * 0.5 * (1 + 1e-5)).all())


@given(WEIGHTS, MAGNITUDES, BITS, GRANULARITIES)
def test_uniform_codes_are_a_fixed_point(weight, magnitude, bits, granularity):
    """Quantizing a dequantized weight gives the same codes."""
    scale = p.choose_scale(weight * magnitude, bits, granularity)
    codes = p.quantize(weight * magnitude, scale, bits)
    assert torch.equal(p.quantize(p.dequantize(codes, scale), scale, bits), codes)


@given(WEIGHTS, BITS)
def test_uniform_quantization_is_monotone(weight, bits):
    """A larger weight never gets a smaller code under the same scale."""
    scale = p.choose_scale(weight, bits, Granularity.PER_TENSOR)
    codes = p.quantize(weight.flatten().sort().values, scale.flatten(), bits)
    assert bool((codes[1:] >= codes[:-1]).all())


def test_a_dead_channel_stays_zero():
    """A channel of zeros gets a finite scale above zero and comes back as zeros."""
    weight = torch.tensor([[0.0, 0.0], [1.0, -2.0]])
    scale = p.choose_scale(weight, 8, Granularity.PER_CHANNEL)
    assert scale.flatten().tolist() == [1.0, pytest.approx(2 / 127)]
    assert p.dequantize(p.quantize(weight, scale, 8), scale)[0].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_weight_that_is_not_finite_is_refused(bad):
    """NaN and infinity have no scale."""
    with pytest.raises(NonFiniteError, match="weight"):
        p.choose_scale(torch.tensor([[1.0, bad]]), 8, Granularity.PER_CHANNEL)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_softmax_range_that_is_not_finite_is_refused(bad):
    """NaN and infinity have no log2 parameters."""
    with pytest.raises(NonFiniteError, match="softmax"):
        p.choose_log2_parameters(0.0, bad, 8, 1e-5)


@given(PROBABILITIES, CODECS)
@settings(max_examples=200)
def test_log2_codes_are_a_fixed_point(probabilities, codec):
    """Quantizing dequantized probabilities gives the same probabilities."""
    once = codec.dequantize(codec.quantize(probabilities))
    twice = codec.dequantize(codec.quantize(once))
    assert torch.allclose(once, twice, rtol=1e-4, atol=2e-7)


@given(PROBABILITIES, CODECS)
def test_log2_quantization_is_monotone(probabilities, codec):
    """A larger probability never becomes a smaller one."""
    result = codec.dequantize(codec.quantize(probabilities.sort().values))
    assert bool((result.diff() >= 0).all())


@given(st.floats(0.0, 1.0), BITS)
def test_log2_relative_error_is_half_a_step(position, bits):
    """Inside the range the relative error of a + ε is at most 2^(Δ/2) - 1."""
    codec = p.choose_log2_parameters(1e-4, 1.0, bits, 1e-5)
    low, high = math.log2(1e-4 + codec.epsilon) + codec.step, math.log2(1.0 + codec.epsilon) - codec.step
    a = torch.tensor([2.0 ** (low + position * (high - low)) - codec.epsilon])
    error = (codec.dequantize(codec.quantize(a)) - a).abs() / (a + codec.epsilon)
    assert float(error) <= 2 ** (codec.step / 2) - 1 + 1e-4


def test_the_data_free_form_keeps_zero_and_one():
    """Form G maps 0 to 0 and 1 to 1 exactly, and everything below 2^-K to 0."""
    codec = p.DataFreeLog2(bits=8, octaves=20)
    a = torch.tensor([0.0, 2.0**-21, 1.0])
    assert codec.dequantize(codec.quantize(a)).tolist() == [0.0, 0.0, 1.0]


ATTENTION = {  # (tokens, logit scale): SQNR of form A and of form G in dB, quantization.md
    (256, 1.0): (39.6, 36.0),
    (256, 4.0): (37.6, 36.0),
    (64, 4.0): (37.8, 36.0),
    (16, 4.0): (37.9, 36.1),
}


@pytest.mark.parametrize(("tokens", "sharpness"), ATTENTION)
def test_attention_output_keeps_the_tabulated_sqnr(tokens, sharpness):
    """Forms A and G keep the attention output within 0.5 dB of the design's table."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(64, tokens, tokens, generator=generator) * sharpness
    attention = logits.softmax(-1)
    values = torch.randn(64, tokens, 32, generator=generator)
    low, high = (float(bound) for bound in attention.aminmax())
    codecs = (p.choose_log2_parameters(low, high, 8, 1e-5), p.DataFreeLog2(bits=8, octaves=20))
    found = [p.sqnr_db(attention @ values, c.dequantize(c.quantize(attention)) @ values) for c in codecs]
    assert found == pytest.approx(ATTENTION[tokens, sharpness], abs=0.5)
