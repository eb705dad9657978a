"""PTQ4ViT's twin-uniform quantizers: their values, their split and their distances."""

import pytest
import torch
from efficientquant.emulated.twin import TwinUniformActivation, TwinUniformSoftmax

SILU, GELU = -0.278465, -0.169971


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("split", [1.0, 0.5, 2.0**-4, 2.0**-19])
def test_a_softmax_has_no_more_values_than_codes(bits, split):
    """At most 2^bits different values come out, all in [0, 1] and each within half of its own step."""
    quantizer = TwinUniformSoftmax("", bits, split)
    x = torch.cat([torch.linspace(0, 1, 20_001), torch.linspace(0, split, 20_001)])
    y = quantizer(x)
    top = 2 ** (bits - 1) - 1
    step = torch.where(x < split, split / top, 1 / top)
    assert len(y.unique()) <= 2**bits
    assert float(y.min()) == 0
    assert float(y.max()) == 1
    assert bool(((y - x).abs() <= step / 2 + 1e-6).all())


@pytest.mark.parametrize("split", [1.0, 0.5, 2.0**-4])
def test_a_softmax_code_decodes_to_itself(split):
    """q(dq(q)) = q for all codes, except that of the split, which belongs to the second range."""
    quantizer = TwinUniformSoftmax("", 8, split)
    codes = quantizer.codes(torch.linspace(0, 1, 100_001)).unique()
    codes = codes[quantizer.decode(codes) != split]
    assert torch.equal(quantizer.codes(quantizer.decode(codes)), codes)


def test_a_value_just_above_a_small_split_is_zero():
    """Where the split is below half of the second step, the quantizer is not monotone, by its definition."""
    quantizer = TwinUniformSoftmax("", 8, 2.0**-8)
    below, above = quantizer(torch.tensor([2.0**-8 * 0.999, 2.0**-8]))
    assert float(below) == pytest.approx(2.0**-8)
    assert float(above) == 0


def test_the_published_softmax_adds_the_split():
    """Each result of the authors' form is larger by the split."""
    x = torch.linspace(0, 1, 101)
    ours, published = (TwinUniformSoftmax("", 8, 0.25, as_published=value)(x) for value in (False, True))
    assert torch.allclose(published, ours + 0.25)


@pytest.mark.parametrize("split", [1.0, 0.5, 2.0**-6, 2.0**-9])
def test_the_ranges_touch_at_the_split(split):
    """A value on the other side of the split is one moved code, and any other distance counts its steps."""
    quantizer = TwinUniformSoftmax("", 8, split)
    at = torch.tensor([split])
    below = torch.nextafter(at, torch.tensor([0.0]))
    codes, others = quantizer.codes(at), quantizer.codes(below)
    assert float(quantizer.steps_between(codes, others)) == 1
    assert float(quantizer.steps_between(others, codes)) == -1
    far = quantizer.codes(torch.tensor([0.0]))
    assert float(quantizer.steps_between(codes, far)) == 128
    assert float(quantizer.steps_between(torch.tensor([3.0]), torch.tensor([1.0]))) == 2


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("minimum", [SILU, GELU])
def test_an_activation_has_two_to_the_bits_values(bits, minimum):
    """The codes are exactly 2^bits, each decodes to itself, and the last below zero is the minimum."""
    quantizer = TwinUniformActivation("", bits, 0.03, minimum)
    x = torch.linspace(-1, 5, 50_001)
    y = quantizer(x)
    codes = quantizer.codes(x)
    half = 2 ** (bits - 1)
    assert len(y.unique()) == len(codes.unique()) == 2**bits
    assert (float(codes.min()), float(codes.max())) == (-half, half - 1)
    assert float(y.min()) == pytest.approx(minimum)
    assert torch.equal(quantizer.codes(y), codes)
    inside = (x >= minimum) & (x <= 0.03 * (half - 1))
    step = torch.where(x < 0, -minimum / half, 0.03)
    assert bool(((y - x).abs() <= step / 2 + 1e-6)[inside].all())


def test_codes_of_an_activation_are_neighbours_across_zero():
    """A value on the other side of zero gets the same code or the next."""
    quantizer = TwinUniformActivation("", 8, 0.03, SILU)
    codes = quantizer.codes(torch.tensor([-1e-9, 1e-9]))
    assert float(quantizer.steps_between(codes[:1], codes[1:])) == 0
