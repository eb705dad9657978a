"""EasyQuant: its search, its grids and its switches."""

import functools

import efficientquant as eq
import pytest
import torch
from efficientquant import search
from efficientquant.errors import NonFiniteError
from efficientquant.observers import MagnitudeObserver
from torch import nn


@pytest.fixture(scope="module")
def small():
    """Return a small classifier with all kinds of layers, and images."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.SiLU(),
        nn.Conv2d(8, 6, 1),
        nn.Flatten(),
        nn.Linear(6 * 64, 5),
    ).eval()
    model.requires_grad_(False)
    model.pretrained_cfg = {"input_size": (3, 8, 8)}
    return model, torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def quantized(small):
    """Return a function that quantizes the small model by a recipe, once for each."""
    return functools.cache(lambda recipe: eq.quantize(small[0], eq.get_recipe(recipe), small[1]))


@pytest.mark.parametrize("groups", [1, 2])
def test_moments_give_the_cosine_of_any_weight(groups):
    """The cosine from sums over rows is the cosine of the computed outputs, with and without a bias."""
    generator = torch.Generator().manual_seed(0)
    x, target = torch.randn(5000, 6, generator=generator), torch.randn(5000, 4, generator=generator)
    weight, bias = torch.randn(4, 6 // groups, generator=generator), torch.randn(4, generator=generator)
    moments = search.Moments.of(x, target, groups)
    for b in (None, bias):
        y = search.layer_output(x, weight, b, groups)
        expected = torch.nn.functional.cosine_similarity(y.double(), target.double(), dim=0)
        assert torch.allclose(moments.cosine(weight, b), expected, atol=1e-6)


def test_a_search_of_each_channel_is_the_brute_force(small, quantized):
    """The scales of all channels are those that a search of each channel alone finds."""
    model = quantized("easyquant:weight_bits=3:search_activations=false:rounds=1")
    weight = small[0][0].weight.detach() * (small[0][1].weight / (small[0][1].running_var + 1e-5).sqrt()).reshape(
        -1, 1, 1, 1
    )
    bias = small[0][1].bias
    x = nn.functional.unfold(small[1], 3, padding=1).transpose(1, 2).reshape(-1, 27)
    step = float(small[1].abs().max()) / 127
    x_quantized = (x / step).round() * step
    placed = model.weights["0.weight"]
    for channel in range(8):
        target = (x @ weight[channel].flatten() + bias[channel]).double()
        start = weight[channel].abs().max() / 3

        def cosine(factor, channel=channel, target=target, start=start):
            rounded = (weight[channel] / (start * factor)).round().clamp(-3, 3) * start * factor
            y = (x_quantized @ rounded.flatten() + bias[channel]).double()
            return float(y @ target / (y.norm() * target.norm()))

        best = max([1.0, *search.grid(0.5, 1.2, 100)], key=cosine)
        searched = float(placed.scale.flatten()[channel] / start)
        assert cosine(searched) == pytest.approx(cosine(best), rel=2e-7)


def test_a_tie_keeps_the_value_in_use():
    """A candidate within rounding noise of the current score does not replace it."""
    current = torch.tensor([0.5, 0.5], dtype=torch.float64)
    better = torch.tensor([0.5 * (1 + 0.9e-7), 0.5 * (1 + 1.1e-7)], dtype=torch.float64)
    assert search.choose(current, [current, better, better]).tolist() == [-1, 1]


def test_the_search_raises_its_own_score(quantized):
    """The cosine of every layer's output is not worse than with the scales of the largest magnitudes."""
    steps = quantized("easyquant:weight_bits=4:activation_bits=4:search_weights=false").manifest.steps
    assert len(steps) == 4
    assert all(step.best_score >= step.default_score for step in steps)
    assert any(step.best_score > step.default_score for step in steps)


@pytest.mark.parametrize(
    "options",
    ["search_weights=false", "search_activations=false", "rounds=1", "grid=code", "weight_bits=5", "activation_bits=5"],
)
def test_every_option_changes_the_numbers(small, quantized, replace_option, options):
    """Each option changes the logits of the model."""
    base = "easyquant:weight_bits=4:activation_bits=4"
    assert not torch.equal(quantized(base)(small[1]), quantized(replace_option(base, options))(small[1]))


def test_all_positions_are_the_sample_of_a_small_model(small, quantized):
    """Up to 33,000 positions of a layer, `rows=all` and the default are the same."""
    assert torch.equal(quantized("easyquant")(small[1]), quantized("easyquant:rows=all")(small[1]))


def test_a_sample_changes_the_numbers(small, quantized, monkeypatch):
    """Where not all positions are in it, `rows=all` and another seed give other numbers."""
    base = "easyquant:weight_bits=4:activation_bits=4:rounds=1"
    before = quantized(base)(small[1])
    monkeypatch.setattr("efficientquant.search.rows.DEFAULT_POSITIONS", 40)
    logits = [
        eq.quantize(small[0], eq.get_recipe(f"{base}:{options}"), small[1])(small[1])
        for options in ("rows=sampled", "rows=all", "seed=1")
    ]
    assert not torch.equal(logits[0], logits[1])
    assert not torch.equal(logits[0], logits[2])
    assert torch.equal(logits[1], before)


def test_the_codes_grid_searches_from_the_start_up(quantized):
    """In the grid of the authors' code, inputs get 1 to 1.25 times their first scale."""
    factors = [step.facts["input_factor"] for step in quantized("easyquant:grid=code").manifest.steps]
    assert all(1 <= factor < 1.25 for factor in factors)


def test_layers_with_one_position_are_named(quantized):
    """The weights' score of the authors' code sees only signs there, and a note names these layers."""
    [note] = [note for note in quantized("easyquant:grid=code").notes if note.startswith("grid=code")]
    assert note.endswith("single position: linear")
    for recipe in ("easyquant", "easyquant:grid=code:search_weights=false"):
        assert not any(note.startswith("grid=code") for note in quantized(recipe).notes)


def test_the_entropy_range_cuts_outliers():
    """A few values far from all others do not stretch the range, and an even distribution keeps its own."""
    even, outlying = MagnitudeObserver(), MagnitudeObserver()
    even(torch.linspace(0, 1, 100_000))
    outlying(torch.cat([torch.randn(100_000, generator=torch.Generator().manual_seed(0)), torch.tensor([80.0])]))
    assert even.entropy_range(8) > 0.95
    assert 2 < outlying.entropy_range(8) < 10


@pytest.mark.parametrize("target", ["onnxruntime-1.10", "rtx-3080", "agx-xavier", "jetson-nano"])
def test_every_target_holds_it(small, quantized, tmp_path, target):
    """The artifact agrees with the eager model on all kinds of targets."""
    artifact = eq.export_onnx(quantized("easyquant"), tmp_path / "model.onnx", target=target, images=small[1][:2])
    assert artifact.parity_max_abs < 1e-4


class Exponential(nn.Module):
    """An activation function that overflows above 88."""

    def forward(self, x):
        """Return e to the power of x."""
        return x.exp()


@pytest.mark.parametrize("grid", ["paper", "code"])
@pytest.mark.parametrize(("weight", "tensor"), [(3e38, "output of 'conv2d'"), (1e4, "input of 'linear'")])
def test_infinite_activations_are_refused(weight, tensor, grid):
    """The error names the tensor of the layer."""
    model = nn.Sequential(nn.Conv2d(3, 2, 1), Exponential(), nn.Flatten(), nn.Linear(2 * 16, 5)).eval()
    model[0].weight.data.fill_(weight)
    model.pretrained_cfg = {"input_size": (3, 4, 4)}
    with pytest.raises(NonFiniteError, match=f"the {tensor} holds NaN or infinity"):
        eq.quantize(model, eq.get_recipe(f"easyquant:grid={grid}"), torch.ones(2, 3, 4, 4))


def test_it_calibrates_on_fifty_images_by_default(small):
    """Data that were not drawn from, and synthetic images, are as many as the paper's."""
    quantized = eq.quantize(small[0], eq.get_recipe("easyquant:rounds=1:search_weights=false"))
    assert quantized.provenance["calibration"]["images"] == 50
    assert "calibrated on 50 synthetic images, since no data were given" in quantized.notes
