"""The log-√2 quantizer: its values, its round trips and its zero."""

import pytest
import torch
from efficientquant.emulated.log_sqrt2 import LogSqrt2


def all_values(quantizer):
    return quantizer.decode(torch.arange(quantizer.top + 1, dtype=torch.float32))


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("scale", [1.0, 0.7, 2.0**-11])
def test_the_values_are_powers_of_the_root_of_two(bits, scale):
    """There are 2^bits values: 0, and s · 2^(-⌈q/2⌉), times √2 for an odd q."""
    values = all_values(LogSqrt2("site", scale, bits)).double()
    expected = [scale * 2.0 ** -((q + 1) // 2) * 2.0 ** (0.5 * (q % 2)) for q in range(2**bits - 1)]
    assert len(set(values.tolist())) == 2**bits
    assert torch.allclose(values[:-1], torch.tensor(expected, dtype=torch.float64), rtol=2e-5, atol=1e-42)
    assert values[-1] == 0


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("as_published", [False, True])
def test_every_code_comes_back(bits, as_published):
    """A code's value gets that code again."""
    quantizer = LogSqrt2("site", 0.9, bits, as_published=as_published)
    codes = torch.arange(quantizer.top + 1, dtype=torch.float32)
    assert torch.equal(quantizer.codes(quantizer.decode(codes)), codes)


@pytest.mark.parametrize("bits", [4, 8])
def test_zero_stays_zero(bits):
    """Zero is exactly 0, the smallest numbers have no NaN, and values above s become s."""
    quantizer = LogSqrt2("site", 0.5, bits)
    rounded = quantizer(torch.tensor([0.0, 1e-45, 1e-38, 0.5, 1.0]))
    assert torch.isfinite(rounded).all()
    assert rounded[0] == 0
    assert rounded[3:].tolist() == [0.5, 0.5]


def test_the_relative_error_is_at_most_a_quarter_of_an_octave():
    """Between the largest and the smallest value, rounding changes a value by a factor of 2^(1/4) at most."""
    x = torch.logspace(-4, 0, 10_000)
    ratio = (LogSqrt2("site", 1.0, 8)(x) / x).log2().abs()
    assert 0.249 < float(ratio.max()) <= 0.25 + 1e-4


def test_published_codes_hold_one_value_more():
    """As published there are 2^bits values and a zero, which start half a step lower."""
    ours, published = LogSqrt2("site", 1.0, 4), LogSqrt2("site", 1.0, 4, as_published=True)
    assert len(set(all_values(published).tolist())) == 2**4 + 1
    x = torch.tensor([2.0**-7.5])
    assert (float(ours(x)), float(published(x))) == (0.0, pytest.approx(2.0**-7.5))


def test_the_rounding_is_monotone():
    """A larger probability never gets a smaller value."""
    rounded = LogSqrt2("site", 0.8, 8)(torch.linspace(0, 1, 100_001))
    assert bool((rounded.diff() >= 0).all())


def test_subnormal_numbers_are_one_step_from_zero():
    """A runtime that flushes subnormal numbers moves a code by one step."""
    quantizer = LogSqrt2("site", 1.0, 8)
    codes = quantizer.codes(torch.tensor([1e-39, 0.5]))
    flushed = quantizer.codes(torch.tensor([0.0, 0.5]))
    assert float(quantizer.steps_between(codes, flushed).abs().max()) <= 1


def test_a_scale_that_the_logarithm_cannot_hold_is_refused():
    """The scale is at least 2^-64, which also keeps NaN out."""
    for scale in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="at least 2"):
            LogSqrt2("site", scale, 8)
