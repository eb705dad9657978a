"""The compared methods on two trained models, against min-max ranges and nearest rounding."""

import functools
import math

import digits
import efficientquant as eq
import pytest
import torch

METHODS = ("easyquant", "ptq4vit", "repq-vit", "q-hyvit", "hyq")
# Fewer steps than by default, for time.
OPTIONS = {"hyq": "alpha_steps=60:"}
# HyQ's attention maps have 16 values, whatever the width, and three of 797 images change from one draw of calibration
# images to the next. So its average is judged.
DRAWS = {"hyq": (0, 1, 2)}
MIN_MAX = "int8:range_rule=minmax:output_bits=none:rounding=nearest"
MODELS = {digits.MODEL: digits.WEIGHTS, digits.MODEL_V2: digits.WEIGHTS_V2}


@pytest.fixture(scope="module")
def hits(tmp_path_factory):
    """Return a function that gives a quantized model's hits.

    They are the share of draws in which each test image was classified right.
    """
    folder = tmp_path_factory.mktemp("digits")
    digits.save_npz(folder)

    @functools.cache
    def of(name, method, bits):
        model = eq.create_model(name, MODELS[name])
        train, test = (eq.open_images(folder / f"{part}.npz", eq.input_spec(model)) for part in ("train", "test"))
        recipe = eq.get_recipe(f"{method}:{OPTIONS.get(method, '')}weight_bits={bits}:activation_bits={bits}")
        rights = []
        for draw in DRAWS.get(method, (0,)):
            quantized = eq.quantize(model, recipe, train.sample(recipe.calibration_images, draw))
            rights.append(torch.cat([quantized(images).argmax(1) == labels for images, labels in test.batches()]))
        return torch.stack(rights).float().mean(0)

    return of


def gain(hits, name, method, bits):
    """Return the gain in top-1 over min-max, and its standard error."""
    difference = hits(name, method, bits) - hits(name, MIN_MAX, bits)
    return float(difference.mean()), float(difference.std()) / math.sqrt(len(difference))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("method", METHODS)
def test_four_bits_are_better(hits, name, method):
    """With 4 bits each method beats min-max by more than two standard errors."""
    better, error = gain(hits, name, method, 4)
    assert better > 2 * error


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("method", METHODS)
def test_eight_bits_are_no_worse(hits, name, method):
    """With 8 bits no method loses more than one standard error to min-max."""
    better, error = gain(hits, name, method, 8)
    assert better >= -error
