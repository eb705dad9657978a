import ast
import math
from pathlib import Path

import efficientquant as eq
import pytest
import torch
from efficientquant.errors import NonFiniteError, UnknownRecipeError
from efficientquant.paper import as_printed
from efficientquant.primitives import sqnr_db

SOURCES = Path(eq.__file__).parent.parent
# SQNR of the attention output in dB, from the design's table: tokens, deviation of the logits.
TABLE = {(256, 1.0): -32.5, (256, 3.0): -30.8, (64, 2.0): -25.7, (16, 2.0): -16.1}


def test_every_probability_gets_the_top_code():
    """The printed Eq. 4-5 is a constant function that gives all below 1 - ε code 255, whatever the range."""
    for smallest in (1e-30, 1e-6, 1e-3, 0.4):
        codec = as_printed.choose_log2(smallest, 1.0)
        probabilities = torch.logspace(math.log10(smallest), -1e-4, 1000)
        assert codec.zero_point > 0
        assert set(codec.quantize(probabilities).tolist()) == {255.0}


@pytest.mark.parametrize(("tokens", "deviation"), TABLE)
def test_the_attention_output_is_noise(tokens, deviation):
    """What the printed quantizer leaves of an attention's output is within 0.5 dB of the design's table."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(8192 // tokens, tokens, tokens, generator=generator) * deviation
    attention = logits.softmax(-1)
    values = torch.randn(8192 // tokens, tokens, 32, generator=generator)
    low, high = (float(bound) for bound in attention.aminmax())
    codec = as_printed.choose_log2(low, high)
    sqnr = sqnr_db(attention @ values, codec.dequantize(codec.quantize(attention)) @ values)
    assert sqnr == pytest.approx(TABLE[tokens, deviation], abs=0.5)


@pytest.mark.parametrize("bits", [8, 6, 4])
def test_weights_are_shifted_and_saturated(bits):
    """The printed Eq. 1-3 gives W - Wmin, with all above the range's middle on one value."""
    weight = torch.randn(16, 8, 3, 3, generator=torch.Generator().manual_seed(0))
    printed = as_printed.quantize_weight(weight, bits)
    low, high = (float(bound) for bound in weight.aminmax())
    step = (high - low) / ((1 << bits) - 1)
    unsaturated = weight < high + low - 2 * step  # there W - Wmin is still below the top code
    assert bool(((printed - (weight - low))[unsaturated].abs() <= step).all())
    assert len(printed[weight > high + low + step].unique()) == 1
    assert -21 < sqnr_db(weight, printed) < -2


def test_degenerate_weights():
    """A constant weight gives zeros, and NaN is refused."""
    assert not as_printed.quantize_weight(torch.ones(2, 2)).any()
    with pytest.raises(NonFiniteError):
        as_printed.quantize_weight(torch.tensor([[math.nan]]))


def test_only_the_audit_uses_the_printed_formulas():
    """No other file of the product imports as_printed, and none reads it from the package."""
    users = set()
    for path in SOURCES.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [getattr(node, "module", None) or ""] if isinstance(node, ast.ImportFrom) else []
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            if any("as_printed" in name for name in modules + names):
                users.add(path.name)
    assert users == {"audit.py"}


def test_there_is_no_recipe_of_that_name():
    """`as-printed` is refused as a recipe, and the error names the command that has it."""
    with pytest.raises(UnknownRecipeError, match="'efficientquant audit'"):
        eq.get_recipe("as-printed")
    assert "as-printed" not in eq.list_recipes()
