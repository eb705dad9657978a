"""HyQ's integer softmax: its lines, and its distance to the exact softmax."""

import math

import pytest
import torch
from efficientquant.emulated.integer_softmax import OFFSET, SLOPE, LinearExponential


def exponential(x):
    """Return HyQ's exponential of x ≤ 0, behind a largest logit 0."""
    return LinearExponential(-1)(torch.cat([torch.zeros(1), x])).exp()[1:]


def test_the_line_has_two_values_at_minus_ln_two():
    """At -ln 2 the exponential jumps between 0.4735 and 0.4849."""
    right, left = exponential(torch.tensor([-math.log(2) + 1e-6, -math.log(2) - 1e-6])).tolist()
    assert right == pytest.approx(0.4735, abs=1e-4)
    assert left == pytest.approx(0.4849, abs=1e-4)


def test_each_octave_is_the_line_halved():
    """Within n octaves below the largest logit, e is the line's value times 2^-n."""
    remainders = torch.linspace(-0.69, 0.0, 50)
    for n in range(6):
        e = exponential(remainders - n * math.log(2) - 1e-5)
        assert torch.allclose(e, (SLOPE * (remainders - 1e-5) + OFFSET) * 2.0**-n, rtol=1e-4)


@pytest.mark.parametrize("dim", [-1, 1])
def test_rows_are_shares_close_to_the_softmax(dim):
    """Rows sum to 1, and no probability is further from the exact softmax than the line from e^x."""
    logits = torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(0)) * 4
    shares = LinearExponential(dim)(logits).softmax(dim)
    assert torch.allclose(shares.sum(dim), torch.ones(4, 16), atol=1e-6)
    x = torch.linspace(-20, 0, 5001)
    line = float((exponential(x) / x.exp()).log().abs().max())
    exact = logits.softmax(dim)
    assert 0.02 < line < 0.06
    # Numerator and sum err by the line's error each.
    assert float((shares / exact).log().abs().max()) <= 2 * line


def test_a_shift_of_the_logits_changes_nothing():
    """Only distances to the largest logit count, however small the others are."""
    logits = torch.tensor([[0.0, -1.5, -200.0]])
    shares = LinearExponential(-1)(logits).softmax(-1)
    assert torch.allclose(LinearExponential(-1)(logits + 8).softmax(-1), shares, atol=1e-6)
    assert float(shares[0, 2]) == pytest.approx(0.0, abs=1e-30)
