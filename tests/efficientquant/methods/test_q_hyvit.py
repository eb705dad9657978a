"""Q-HyViT: its candidates, its search, its switches and its artifacts."""

import functools
import re

import efficientquant as eq
import pytest
import torch
from efficientquant import search
from efficientquant.emulated.channel_multiply import ChannelMultiply
from efficientquant.errors import LoweringError
from efficientquant.methods import q_hyvit
from efficientquant.quantizers import code_quantizers
from efficientquant.search.reconstruction import FACTORS
from torch import nn

BASE = "q-hyvit:weight_bits=4:activation_bits=4:rounds=1"
FOLDED = "q-hyvit:bridge=false:rounds=1"
SEARCH = "scale search"


class Hybrid(nn.Module):
    """Two convolutions, an attention over the pixels with two heads, and a convolution."""

    def __init__(self, channels):
        super().__init__()
        self.conv_kxk = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.conv_1x1 = nn.Conv2d(channels, channels, 1)
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.conv_proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x):
        """Return a picture of the same shape."""
        y = self.conv_1x1(nn.functional.silu(self.conv_kxk(x)))
        tokens = y.flatten(2).transpose(1, 2)
        batch, count, channels = tokens.shape
        qkv = self.qkv(self.norm(tokens)).reshape(batch, count, 3, 2, channels // 2).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        mixed = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        tokens = tokens + self.proj(mixed.transpose(1, 2).reshape(batch, count, channels))
        return self.conv_proj(tokens.transpose(1, 2).reshape(x.shape))


@pytest.fixture(scope="module")
def small():
    """Return a small hybrid whose channels differ in range, and images."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.SiLU(),
        nn.Conv2d(8, 8, 1),
        Hybrid(8),
        nn.SiLU(),
        nn.Flatten(),
        nn.Linear(8 * 36, 5),
    ).eval()
    model.requires_grad_(False)
    spread = torch.logspace(-1, 1, 8)
    for layer in (model[0], model[2]):
        layer.weight *= spread.reshape(-1, 1, 1, 1)
    model[3].conv_kxk.weight /= spread.reshape(-1, 1, 1, 1)
    model[3].qkv.weight[:4] *= 4
    model.pretrained_cfg = {"input_size": (3, 6, 6)}
    return model, torch.randn(16, 3, 6, 6, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def quantized(small):
    """Return a function that quantizes the small model by a recipe, once for each."""
    return functools.cache(lambda recipe: eq.quantize(small[0], eq.get_recipe(recipe), small[1]))


def searched(model):
    return [step for step in model.manifest.steps if step.name == SEARCH]


def candidates(low, high, bits=8):
    return search.find_spans(torch.tensor(low), torch.tensor(high), bits, split=True, asymmetric=True)


def test_candidates_are_both_granularities_and_schemes():
    """The default's step is max / (2^(b-1) - 0.5), and each other kind holds its channels' ends."""
    low, high = [-1.0, -0.5, 0.2], [2.0, 4.0, 0.6]
    spans = candidates(low, high)
    kinds = [(span.scheme, span.is_split) for span in spans]
    assert kinds == [("symmetric", False), ("symmetric", True), ("asymmetric", False), ("asymmetric", True)]
    assert float(spans[0].steps) == pytest.approx(4 / 127.5)
    assert spans[2].zero_point == spans[3].zero_point == round(255 / 5) - 128
    for span in spans:
        reach = torch.tensor([-128 - span.zero_point, 127 - span.zero_point]).outer(span.steps.expand(3))
        assert (reach[0] <= torch.tensor(low).clamp_max(0) + span.steps / 2).all()
        assert (reach[1] >= torch.tensor(high) - span.steps / 2).all()


@pytest.mark.parametrize(
    ("low", "high"), [([0.0, 0.0], [1.0, 0.0]), ([-1e-4, 0.0], [1.0, 2.0]), ([-3.0, -1.0], [-1.0, 0.0])]
)
def test_a_zero_point_at_an_end_gives_finite_steps(low, high):
    """Steps are positive for channels of zeros, and where the zero-point leaves no code beyond it."""
    for span in candidates(low, high):
        assert torch.isfinite(span.steps).all()
        assert (span.steps > 0).all()


def test_zeros_have_the_default_candidate_only():
    """An input that is always zero has no range to choose from."""
    [span] = candidates([0.0, 0.0], [0.0, 0.0])
    assert (float(span.steps), span.zero_point) == (1, 0)


def test_a_depthwise_weight_takes_the_factors_exactly():
    """Its codes are the same bit by bit, and the output agrees to 1e-6."""
    generator = torch.Generator().manual_seed(0)
    value, x = torch.randn(6, 1, 3, 3, generator=generator), torch.randn(2, 6, 5, 5, generator=generator)
    _, split, *_ = candidates([-1.0, -2, -3, -4, -5, -600], [1.0] * 6)
    weight = search.SplitWeight(value, 6, 8)
    codes, scale = weight.quantize(candidates([-1.0], [1.0])[0], 0.9)
    split_codes, split_scale = weight.quantize(split, 0.9)
    assert torch.equal(codes, split_codes)
    before = nn.functional.conv2d(x, codes * scale, groups=6)
    factors = ChannelMultiply(1 / split.ratios, -3)
    after = nn.functional.conv2d(factors(x), split_codes * split_scale, groups=6)
    assert torch.allclose(before, after, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_the_search_finds_the_best_input(groups):
    """No kind and no factor of the input is better for the weight in use, and stopping early changes nothing."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 8, generator=generator) * torch.logspace(-1, 1, 8)
    value, gradients = torch.randn(4, 8 // groups, generator=generator), torch.randn(200, 4, generator=generator)
    targets = search.layer_output(x, value, None, groups)
    spans = search.find_spans(x.amin(0), x.amax(0), 4, split=True, asymmetric=True)
    weight = search.SplitWeight(value, groups, 4)
    problem = search.LayerSearch(weight, spans, x, search.Goal(targets, gradients))
    default, best = problem.run(2)

    def score(span, factor, weight_factor):
        codes, scale = weight.quantize(span, weight_factor)
        inputs = span.codes(x, span.steps * factor) * span.mean * factor
        errors = search.layer_output(inputs, codes * scale, None, groups) - targets
        return float((errors * gradients).double().square().sum())

    assert score(spans[0], 1.0, 1.0) == pytest.approx(default, rel=1e-4)
    assert score(problem.span, problem.input_factor, problem.weight_factor) == pytest.approx(best, rel=1e-4)
    smallest = min(score(span, factor, problem.weight_factor) for span in spans for factor in FACTORS)
    assert best <= smallest * (1 + 1e-4)
    assert best < default


def test_no_layer_is_worse_than_its_default(quantized):
    """Every layer and product records its scores, and those of a bridge block are the block's."""
    steps = searched(quantized(BASE))
    assert len(steps) == 10
    assert all(step.best_score <= step.default_score for step in steps)
    assert any(step.best_score < step.default_score for step in steps)
    scored_at = {step.node: step.facts.get("scored_at") for step in steps}
    assert scored_at["conv2d_2"] == scored_at["conv2d_3"] == "conv2d_3"


@pytest.mark.parametrize(
    "options",
    [
        "granularity=false",
        "scheme=false",
        "bridge=false",
        "symmetric=true",
        "rounds=3",
        "weight_bits=5",
        "activation_bits=5",
    ],
)
def test_every_option_changes_the_numbers(small, quantized, replace_option, options):
    """Each option changes the logits of the model."""
    assert not torch.equal(quantized(BASE)(small[1]), quantized(replace_option(BASE, options))(small[1]))


@pytest.mark.parametrize(("limit", "value"), [("POSITIONS", 40), ("ELEMENTS", 1000)])
def test_a_sample_changes_the_numbers(small, quantized, monkeypatch, limit, value):
    """Where not all positions or images are in it, `rows=all` gives other numbers."""
    before = quantized(f"{BASE}:rows=all")(small[1])
    monkeypatch.setattr(q_hyvit, limit, value)
    sampled, whole = (
        eq.quantize(small[0], eq.get_recipe(f"{BASE}:rows={rows}"), small[1])(small[1]) for rows in ("sampled", "all")
    )
    assert not torch.equal(sampled, whole)
    assert torch.equal(whole, before)


def test_switches_limit_the_kinds(quantized):
    """Without a switch no site has what it allows."""
    for options, allowed in (("granularity=false", {"tensor"}), ("scheme=false", {"symmetric"})):
        key = "granularity" if "granularity" in options else "scheme"
        kinds = [step.facts[key] for step in searched(quantized(f"{BASE}:{options}"))]
        assert {kind for each in kinds for kind in ([each] if isinstance(each, str) else each)} == allowed


def test_the_convolution_before_takes_the_factors(small, quantized, monkeypatch):
    """Where no function stands between, its scales and bias replace the multiplication, and its codes stay."""
    folded = quantized(FOLDED)
    facts = {step.node: step.facts["factors"] for step in searched(folded) if "factors" in step.facts}
    assert facts["conv2d_2"] == "folded"
    monkeypatch.setattr(q_hyvit, "_find_folded", lambda *_: {})
    plain = eq.quantize(small[0], eq.get_recipe(FOLDED), small[1])
    assert all(torch.equal(weight.codes, plain.weights[name].codes) for name, weight in folded.weights.items())
    factors = plain.module.get_submodule("input_factors_conv2d_2").factors.reshape(-1, 1, 1, 1)
    assert torch.allclose(folded.weights["2.weight"].scale, plain.weights["2.weight"].scale * factors)
    assert torch.allclose(folded(small[1]), plain(small[1]), rtol=1e-5, atol=1e-5)


def test_factors_cancel_without_quantizers(small, quantized):
    """With the inputs in float, the network differs from the float one by the weights' rounding only."""
    model = quantized("q-hyvit")
    quantizers = code_quantizers(model.module).values()
    for quantizer in quantizers:
        quantizer.enabled = False
    try:
        logits, expected = model(small[1]), small[0](small[1])
    finally:
        for quantizer in quantizers:
            quantizer.enabled = True
    assert float((logits - expected).norm() / expected.norm()) < 0.02


def test_multiplies_are_counted(quantized):
    """The note and the manifest have the number of multiplications that are in the network."""
    model = quantized(BASE)
    modules = sum(isinstance(module, ChannelMultiply) for module in model.module.modules())
    recorded = sum(step.name == "input multiply" for step in model.manifest.steps)
    [note] = [note for note in model.notes if "factor per channel" in note]
    folded = sum(step.facts.get("factors") == "folded" for step in searched(model))
    assert [int(number) for number in re.findall(r"\d+", note)] == [modules, folded]
    assert modules == recorded > 0


def test_a_model_without_sites_says_so(small):
    """A CNN has neither a bridge block nor a product, and is quantized all the same."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)).eval()
    model.pretrained_cfg = {"input_size": (3, 6, 6)}
    result = eq.quantize(model, eq.get_recipe("q-hyvit:rounds=1"), small[1])
    assert "bridge did nothing: the model has no bridge block" in result.notes
    assert any("product of two activations" in note for note in result.notes)
    assert len(searched(result)) == 2


def test_a_weight_of_two_layers_keeps_its_default(small):
    """The weight is not searched, and both inputs have one step."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.SiLU(), nn.Conv2d(3, 3, 3, padding=1), nn.Flatten())
    model[2].weight = model[0].weight
    model.append(nn.Linear(108, 5)).eval()
    model.pretrained_cfg = {"input_size": (3, 6, 6)}
    result = eq.quantize(model, eq.get_recipe(BASE), small[1])
    shared = searched(result)[:2]
    assert [(step.facts["weight_factor"], step.facts["granularity"]) for step in shared] == [(1.0, "tensor")] * 2


@pytest.mark.parametrize("recipe", ["q-hyvit", BASE])
@pytest.mark.parametrize("target", ["onnxruntime", "onnxruntime-1.10", "jetson-nano"])
def test_onnx_runtime_holds_it(small, quantized, tmp_path, target, recipe):
    """The artifact agrees with the eager model, multiplications and steps per head included."""
    artifact = eq.export_onnx(quantized(recipe), tmp_path / "model.onnx", target=target, images=small[1][:2])
    assert artifact.parity_max_abs < 1e-4


@pytest.mark.parametrize("target", ["rtx-3080", "agx-xavier"])
def test_tensorrt_holds_the_symmetric_variant(small, quantized, tmp_path, target):
    """The refusal of zero-points names the variant, which is exported with its multiplications."""
    with pytest.raises(LoweringError, match="q-hyvit:symmetric=true"):
        eq.export_onnx(quantized("q-hyvit"), tmp_path / "model.onnx", target=target)
    variant = quantized("q-hyvit:symmetric=true")
    assert any(step.name == "input multiply" for step in variant.manifest.steps)
    artifact = eq.export_onnx(variant, tmp_path / "model.onnx", target=target, images=small[1][:2])
    assert artifact.parity_max_abs < 1e-4


def test_the_result_follows_from_the_seed(small, monkeypatch):
    """The same seed gives the same logits and codes, another one looks at other positions."""
    monkeypatch.setattr(q_hyvit, "POSITIONS", 40)
    monkeypatch.setattr(q_hyvit, "ELEMENTS", 1500)
    first, again, other = (eq.quantize(small[0], eq.get_recipe(f"{BASE}:seed={seed}"), small[1]) for seed in (0, 0, 1))
    assert torch.equal(first(small[1]), again(small[1]))
    assert all(torch.equal(weight.codes, again.weights[name].codes) for name, weight in first.weights.items())
    assert not torch.equal(first(small[1]), other(small[1]))


def test_all_positions_are_the_sample_of_a_small_model(small, quantized):
    """Where everything fits, `rows=all` and the default are the same."""
    assert torch.equal(quantized(BASE)(small[1]), quantized(f"{BASE}:rows=all")(small[1]))
