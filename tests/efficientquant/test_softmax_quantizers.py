import math

import pytest
import torch
from efficientquant.errors import NonFiniteError
from efficientquant.softmax_quantizers import ExponentLog2, TwinUniform, UniformUnit, choose_twin_split
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as np_st

few = settings(max_examples=50, deadline=None, derandomize=True)

BITS = st.integers(2, 8)
EXPONENTS = np_st.arrays("float32", (16,), elements=st.floats(0, 150, width=32))
LINEAR = np_st.arrays("float32", (16,), elements=st.floats(0, 1, width=32)).map(torch.from_numpy)
PROBABILITIES = st.one_of(LINEAR, EXPONENTS.map(lambda e: torch.exp2(-torch.from_numpy(e))))


@st.composite
def twins(draw):
    bits = draw(BITS.filter(lambda b: b > 2))
    return TwinUniform(bits, 2.0 ** -draw(st.integers(1, bits - 1)))


QUANTIZERS = st.one_of(
    st.builds(ExponentLog2, BITS, st.sampled_from([1, 2])), st.builds(UniformUnit, BITS, st.booleans()), twins()
)


@few
@given(PROBABILITIES, QUANTIZERS)
def test_codes_are_a_fixed_point(probabilities, quantizer):
    """Quantizing dequantized probabilities gives the same probabilities."""
    once = quantizer.dequantize(quantizer.quantize(probabilities))
    assert torch.equal(quantizer.dequantize(quantizer.quantize(once)), once)


@few
@given(PROBABILITIES, QUANTIZERS)
def test_quantization_is_monotone_and_stays_in_range(probabilities, quantizer):
    """Results grow with the probability and stay in [0, 1], and codes are whole and within the width."""
    codes = quantizer.quantize(probabilities.sort().values)
    result = quantizer.dequantize(codes)
    assert torch.equal(codes, codes.round().clamp(0, (1 << quantizer.bits) - 1))
    assert bool((result.diff() >= 0).all() and (result >= 0).all() and (result <= 1).all())


@few
@given(LINEAR, BITS, st.booleans())
def test_uniform_errs_by_at_most_half_a_step(probabilities, bits, signed):
    """|â - a| <= s/2 over [0, 1], where s = 1 / top."""
    quantizer = UniformUnit(bits, signed)
    assert quantizer.top == (1 << (bits - signed)) - 1
    error = (quantizer.dequantize(quantizer.quantize(probabilities)) - probabilities).abs()
    assert float(error.max()) <= 0.5 / quantizer.top + 1e-6


@few
@given(PROBABILITIES, twins())
def test_twin_errs_by_at_most_half_the_step_of_its_range(probabilities, quantizer):
    """|â - a| <= s/2, with s = split/t up to the split and 1/t above it."""
    error = (quantizer.dequantize(quantizer.quantize(probabilities)) - probabilities).abs()
    step = torch.where(probabilities <= quantizer.split, quantizer.split, 1.0) / quantizer.top
    assert bool((error <= step * 0.5 + 1e-7).all())


@few
@given(st.floats(0, 1), BITS, st.sampled_from([1, 2]))
def test_exponents_err_by_at_most_half_an_exponent(position, bits, codes_per_octave):
    """Within the codes' reach the relative error is at most 2^(1/2s) - 1.

    That is 41 % for log2 and 19 % for log-√2.
    """
    reach = min(((1 << bits) - 1) / codes_per_octave, 120)  # float32 itself ends at 2^-149
    a = torch.exp2(torch.tensor([-position * reach]))
    quantizer = ExponentLog2(bits, codes_per_octave)
    error = (quantizer.dequantize(quantizer.quantize(a)) - a).abs() / a
    assert float(error) <= 2 ** (0.5 / codes_per_octave) - 1 + 1e-4


@few
@given(LINEAR, QUANTIZERS)
def test_more_than_one_counts_as_one(probabilities, quantizer):
    """A value above 1, as from a softmax's rounding error, gets the code of 1."""
    assert torch.equal(quantizer.quantize(probabilities + 1), quantizer.quantize(torch.ones(16)))


@pytest.mark.parametrize("quantizer", [ExponentLog2(8), UniformUnit(8), UniformUnit(8, signed=True)], ids=str)
def test_zero_and_one_are_exact(quantizer):
    """Zero and one decode exactly, so that a row of zeros stays zero."""
    assert quantizer.dequantize(quantizer.quantize(torch.tensor([0.0, 1.0]))).tolist() == [0.0, 1.0]


def test_twin_keeps_zero_split_and_one():
    """The ends of both ranges decode exactly: their codes are 0, t and, with the selecting bit, 2t + 1."""
    quantizer = TwinUniform(8, 0.125)
    ends = torch.tensor([0.0, 0.125, 1.0])
    assert quantizer.quantize(ends).tolist() == [0, 127, 255]
    assert quantizer.dequantize(quantizer.quantize(ends)).tolist() == ends.tolist()


@pytest.mark.parametrize("bits", [4, 8])
def test_more_bits_give_the_classic_log2_nothing(bits):
    """Four bits and eight bits of classic log2 give the same result for attention over 256 tokens."""
    attention = torch.randn(256, 256, generator=torch.Generator().manual_seed(0)).softmax(-1)
    widest = ExponentLog2(8)
    narrow = ExponentLog2(bits)
    assert torch.equal(narrow.dequantize(narrow.quantize(attention)), widest.dequantize(widest.quantize(attention)))


@pytest.mark.parametrize("with_values", [False, True])
def test_the_split_follows_the_attention(with_values):
    """Diffuse attention gets a smaller split than peaky attention, and splits are powers of two."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(64, 16, generator=generator) if with_values else None
    logits = torch.randn(64, 64, generator=generator)
    diffuse, peaky = (choose_twin_split((logits * sharpness).softmax(-1), 8, values) for sharpness in (0.3, 4.0))
    assert diffuse.split < peaky.split
    assert math.frexp(diffuse.split)[0] == math.frexp(peaky.split)[0] == 0.5  # powers of two


@pytest.mark.parametrize("quantizer", [ExponentLog2(8), UniformUnit(8), TwinUniform(8, 0.5)], ids=str)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_probabilities_that_are_not_finite_are_refused(quantizer, bad):
    """NaN and infinity have neither a code nor a split."""
    with pytest.raises(NonFiniteError, match="softmax"):
        quantizer.quantize(torch.tensor([0.5, bad]))
    with pytest.raises(NonFiniteError, match="softmax"):
        choose_twin_split(torch.tensor([[0.5, bad]]), 8)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ExponentLog2(9),
        lambda: ExponentLog2(8, 0),
        lambda: UniformUnit(1),
        lambda: TwinUniform(9, 0.5),
        lambda: TwinUniform(8, 1.0),
        lambda: TwinUniform(8, 0.0),
    ],
)
def test_impossible_parameters_are_refused(make):
    """A width outside 2 to 8, zero codes per octave and a split outside (0, 1) are refused."""
    with pytest.raises(ValueError, match=r"possible|between 0 and 1"):
        make()
