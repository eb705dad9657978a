"""HyQ's log2 map: its codes, its zero and its 17th value."""

import pytest
import torch
from efficientquant.emulated.log2_map import Log2Map


def test_codes_are_powers_of_two_and_the_last_is_zero():
    """The codes 0 to 14 are exactly 2^-q, and the code 15 is exactly 0."""
    values = Log2Map("map").decode(torch.arange(16.0))
    assert values.tolist() == [2.0**-q for q in range(15)] + [0.0]


@pytest.mark.parametrize("as_published", [False, True])
def test_codes_come_back_from_their_values(as_published):
    """Quantizing a decoded code gives the code."""
    quantizer = Log2Map("map", as_published=as_published)
    codes = torch.arange(quantizer.zero_code + 1.0)
    assert torch.equal(quantizer.codes(quantizer.decode(codes)), codes)


def test_small_probabilities_are_zero():
    """Zero and everything below 2^-14.5 become 0, what lies just above becomes 2^-14."""
    split = 2.0**-14.5
    p = torch.tensor([0.0, 1e-38, 2.0**-15, split * (1 - 1e-4), split * (1 + 1e-4)])
    assert Log2Map("map")(p).tolist() == [0.0, 0.0, 0.0, 0.0, 2.0**-14]


def test_rounding_is_that_of_the_exponent():
    """The relative error is at most √2 - 1, and the map is monotone with values at most 1."""
    p = torch.linspace(2.0**-14, 1.0, 10_001)
    values = Log2Map("map")(p)
    assert float((values / p - 1).abs().max()) <= 2**0.5 - 1 + 1e-6
    assert bool((values.diff() >= 0).all())
    assert float(values.max()) == 1.0


def test_the_published_map_has_a_value_more():
    """As published, 2^-15 stays, and below 2^-15.5 is zero: 17 values."""
    quantizer = Log2Map("map", as_published=True)
    p = torch.tensor([2.0**-15, 2.0**-15.6, 0.0])
    assert quantizer(p).tolist() == [2.0**-15, 0.0, 0.0]
    values = quantizer(torch.cat([torch.zeros(1), 2.0 ** -torch.arange(0, 20, 0.01)]))
    assert len(values.unique()) == 17
    assert len(Log2Map("map")(2.0 ** -torch.arange(0, 20, 0.01)).unique()) == 16
