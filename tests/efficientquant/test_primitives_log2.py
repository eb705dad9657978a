import math

import pytest
import torch
from efficientquant import primitives as p
from efficientquant.errors import NonFiniteError
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as np_st

few = settings(max_examples=50, deadline=None, derandomize=True)

BITS = st.integers(2, 8)
EXPONENTS = np_st.arrays("float32", (16,), elements=st.floats(0, 150, width=32))
LINEAR = np_st.arrays("float32", (16,), elements=st.floats(0, 1, width=32)).map(torch.from_numpy)
# Probabilities of all magnitudes, down to where float32 ends, and exact zeros.
PROBABILITIES = st.one_of(LINEAR, EXPONENTS.map(lambda e: torch.exp2(-torch.from_numpy(e))))
CALIBRATED = st.builds(
    p.choose_log2_parameters, st.floats(0, 0.01), st.floats(0.011, 1), BITS, st.sampled_from([1e-30, 1e-9, 1e-5, 0.1])
)
DATA_FREE = st.builds(p.DataFreeLog2, bits=BITS, octaves=st.integers(1, 100))
CODECS = st.one_of(CALIBRATED, DATA_FREE)


@few
@given(PROBABILITIES, CODECS)
def test_log2_codes_are_a_fixed_point(probabilities, codec):
    """Quantizing dequantized probabilities gives the same codes."""
    codes = codec.quantize(probabilities)
    assert torch.equal(codec.quantize(codec.dequantize(codes)), codes)


@few
@given(DATA_FREE)
def test_every_code_of_the_data_free_form_is_its_own(codec):
    """All 2^bits codes survive a round trip, also the code of 2^-K, which may decode to less than 2^-K."""
    codes = torch.arange(1 << codec.bits, dtype=torch.float32)
    assert torch.equal(codec.quantize(codec.dequantize(codes)), codes)


@few
@given(PROBABILITIES, CODECS)
def test_log2_quantization_is_monotone_and_stays_in_range(probabilities, codec):
    """Results grow with the probability and are never negative, and codes are whole and within the width."""
    ordered = probabilities.sort().values
    codes = codec.quantize(ordered)
    result = codec.dequantize(codes)
    assert bool((result.diff() >= 0).all())
    assert torch.equal(codes, codes.round().clamp(0, (1 << codec.bits) - 1))
    assert bool(torch.isfinite(result).all() and (result >= 0).all())


@few
@given(st.floats(0, 0.01), st.floats(0.011, 1), st.floats(0, 1), BITS)
def test_calibrated_relative_error_is_half_a_step(smallest, largest, position, bits):
    """Within the calibrated range the relative error of a + ε is at most 2^(Δ/2) - 1."""
    codec = p.choose_log2_parameters(smallest, largest, bits, 1e-5)
    a = torch.tensor([smallest + position * (largest - smallest)])
    error = (codec.dequantize(codec.quantize(a)) - a).abs() / (a + codec.epsilon)
    assert float(error) <= (2 ** (codec.step / 2) - 1) * (1 + 1e-3) + 1e-6


@few
@given(st.floats(0, 1), BITS, st.integers(1, 100))
def test_data_free_relative_error_is_half_a_step(position, bits, octaves):
    """From 2^-K to 1 the relative error is at most 2^(Δ/2) - 1."""
    codec = p.DataFreeLog2(bits=bits, octaves=octaves)
    a = torch.exp2(torch.tensor([-position * octaves], dtype=torch.float64))
    error = (codec.dequantize(codec.quantize(a)) - a).abs() / a
    assert float(error) <= (2 ** (codec.step / 2) - 1) * (1 + 1e-3)


def test_the_data_free_form_keeps_zero_and_one():
    """Form G maps 0 to 0 and 1 to 1 exactly, and everything below 2^-K to 0."""
    codec = p.DataFreeLog2(bits=8, octaves=20)
    a = torch.tensor([0.0, 2.0**-21, 1.0])
    assert codec.dequantize(codec.quantize(a)).tolist() == [0.0, 0.0, 1.0]


@pytest.mark.parametrize("form", ["A", "G"])
def test_a_dead_row_stays_dead(form):
    """All-zero probabilities decode to zero, up to half a step of ε, since ε is removed again."""
    codec = p.choose_log2_parameters(0.0, 1.0, 8, 1e-5) if form == "A" else p.DataFreeLog2(bits=8, octaves=20)
    restored = codec.dequantize(codec.quantize(torch.zeros(4)))
    assert float(restored.max()) <= 1e-5 * (2 ** (codec.step / 2) - 1 + 1e-6)


@pytest.mark.parametrize(("smallest", "largest"), [(1.0, 1.0), (0.0, 0.0), (1e-30, 1e-30), (0.25, 0.25)])
def test_a_range_of_one_value_has_parameters(smallest, largest):
    """A softmax of one token or of zeros gets a finite positive step and keeps its value within it."""
    codec = p.choose_log2_parameters(smallest, largest, 8, 1e-5)
    restored = float(codec.dequantize(codec.quantize(torch.tensor([largest]))))
    assert 0 < codec.step < math.inf
    assert restored == pytest.approx(largest, rel=codec.step, abs=1e-5 * codec.step)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_probabilities_that_are_not_finite_are_refused(bad):
    """NaN and infinity have neither log2 parameters nor codes."""
    with pytest.raises(NonFiniteError, match="softmax"):
        p.choose_log2_parameters(0.0, bad, 8, 1e-5)
    for codec in (p.choose_log2_parameters(0.0, 1.0, 8, 1e-5), p.DataFreeLog2(bits=8, octaves=20)):
        with pytest.raises(NonFiniteError, match="softmax"):
            codec.quantize(torch.tensor([0.5, bad]))
