"""HyQ: its factors, its sites, its softmax and its switches."""

import dataclasses
import functools

import efficientquant as eq
import onnx
import pytest
import torch
from efficientquant import search
from efficientquant.emulated.channel_multiply import ChannelMultiply
from efficientquant.emulated.integer_softmax import LinearExponential
from efficientquant.errors import LoweringError, RecipeFormatError
from efficientquant.quantizers import AffineQuantizer
from efficientquant.sites.inverted_residuals import find_inverted_residuals
from efficientquant.workbench import Workbench
from torch import nn

FEW = "alpha_steps=30:alpha_rate=0.05"
BASE = f"hyq:{FEW}"


class Hybrid(nn.Module):
    """An inverted residual, and an attention on its pixels."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, stride=2)
        self.expand = nn.Conv2d(8, 16, 1, bias=False)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.project = nn.Conv2d(16, 8, 1)
        self.norm = nn.LayerNorm(8)
        self.qkv = nn.Linear(8, 24)
        self.last = nn.LayerNorm(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        """Return the logits."""
        x = self.stem(x)
        y = nn.functional.silu(self.depthwise(nn.functional.silu(self.expand(x))))
        x = (x + self.project(y)).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        x = x + (q @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.head(self.last(x).mean(1))


class Attention(nn.Module):
    """An attention on pixels, whose output nothing reads."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Conv2d(3, 24, 1)

    def forward(self, x):
        """Return the logits."""
        q, k, v = self.qkv(x).flatten(2).transpose(1, 2).chunk(3, -1)
        return ((q @ k.transpose(-2, -1)).softmax(-1) @ v).mean(1)


@pytest.fixture(scope="module")
def small():
    """Return a small hybrid with uneven channels, and images."""
    torch.manual_seed(0)
    model = Hybrid().eval()
    model.requires_grad_(False)
    for layer in (model.stem, model.depthwise):
        layer.weight *= torch.logspace(-1.2, 0.8, len(layer.weight)).reshape(-1, 1, 1, 1)
    model.qkv.weight[:16] *= 4
    model.pretrained_cfg = {"input_size": (3, 8, 8)}
    return model, torch.randn(20, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def quantized(small):
    """Return a function that quantizes the small model by a recipe, once for each."""
    return functools.cache(lambda recipe: eq.quantize(small[0], eq.get_recipe(recipe), small[1]))


@pytest.fixture(scope="module")
def variant(quantized):
    """Return the variant that TensorRT can hold."""
    return quantized(f"{BASE}:{eq.get_recipe('hyq').tensorrt_variant}")


@pytest.fixture(scope="module")
def plain():
    """Return a CNN without inverted residual, softmax and norm, and images."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Flatten(), nn.Linear(8 * 36, 5)).eval()
    model.pretrained_cfg = {"input_size": (3, 8, 8)}
    return model, torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def factor_search():
    """Return a search with uneven input channels."""
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(6, 10, 1, 1, generator=generator), torch.randn(6, generator=generator)
    inputs = torch.randn(400, 10, generator=generator) * torch.logspace(-1, 1, 10)
    outputs = inputs @ weight.flatten(1).T + bias
    lowest, highest = inputs.aminmax(dim=0)
    return search.FactorSearch(weight, bias, inputs, outputs, lowest, highest, 8, 8, symmetric=False)


def steps_of(model, name):
    return [step for step in model.manifest.steps if step.name == name]


def modules_of(model, kind):
    return [module for module in model.module.modules() if isinstance(module, kind)]


def test_factors_of_one_are_no_qads(small, quantized):
    """Without a step of Adam, α stays 1 and the logits are those without QADS, bit for bit."""
    without = quantized("hyq:qads=false")
    start = quantized("hyq:alpha_steps=0")
    assert torch.equal(start(small[1]), without(small[1]))
    assert [step.facts["multiplications"] for step in steps_of(start, "QADS")] == [0, 0]
    assert not modules_of(start, ChannelMultiply)


@pytest.mark.parametrize("rate", [0.05, 1.0])
def test_the_best_factors_are_never_worse(factor_search, rate):
    """The recorded scores are those of the true rounding, and the best is not above that of α = 1."""
    learned = factor_search.learn(40, rate)
    for score, factors in ((learned.default, torch.ones(10)), (learned.best, learned.factors)):
        errors = factor_search.errors(factors)
        assert score == float(errors.double().square().mean())
    assert learned.best <= learned.default
    assert bool((learned.factors > 0).all())


def test_learned_factors_lower_the_error(factor_search):
    """On channels of very different ranges, the error falls by more than a fifth."""
    learned = factor_search.learn(100, 0.05)
    assert learned.best < 0.8 * learned.default


def test_a_common_factor_changes_nothing(factor_search):
    """Factors times a power of two have the same error."""
    factors = torch.linspace(0.5, 2, 10)
    assert torch.allclose(factor_search.errors(factors), factor_search.errors(4 * factors), atol=1e-6)


def test_the_score_is_that_of_the_network(small, quantized):
    """The error of the placed convolution on its float inputs is the recorded one, up to the sample."""
    model, images = small
    quantized_model = quantized(BASE)
    bench = Workbench(model, images, None)
    half = bench.halve_images(0)[1]
    expand = next(layer for layer in bench.layers if layer.weight == "expand.weight")
    x, y = bench.record([expand.input, expand.output], on=eq.Network.FLOAT, feed=bench.feed(half))
    modules = quantized_model.module.graph.find_nodes(op="call_module")
    multiplication = next(node for node in modules if node.target == "inverse_alpha_0")
    multiply = quantized_model.module.get_submodule(multiplication.target)
    quantizer = quantized_model.module.get_submodule(next(iter(multiplication.users)).target)
    weight = quantized_model.weights["expand.weight"].dequantize()
    error = nn.functional.conv2d(quantizer(multiply(x)), weight) - y
    assert steps_of(quantized_model, "QADS")[0].best_score == pytest.approx(float(error.square().mean()), rel=1e-5)


def test_scaled_weights_and_inputs_are_the_same_function(small, quantized):
    """Without rounding, W·α on x/α is the float network."""
    model, _ = small
    quantized_model = quantized(BASE)
    assert len(modules_of(quantized_model, ChannelMultiply)) == 2
    for name, place in (("expand", 0), ("project", 1)):
        layer = getattr(model, name)
        multiply = quantized_model.module.get_submodule(f"inverse_alpha_{place}")
        alpha = 1 / multiply.factors
        x = torch.randn(4, layer.in_channels, 5, 5, generator=torch.Generator().manual_seed(2))
        y = nn.functional.conv2d(multiply(x), layer.weight * alpha, layer.bias)
        assert torch.allclose(y, layer(x), atol=1e-5)
        ratio = quantized_model.weights[f"{name}.weight"].dequantize() / (layer.weight * alpha)
        assert float((ratio - 1).abs().median()) < 0.02


@pytest.mark.parametrize(("name", "convolutions", "norms"), [("mobilevit_xxs", 14, 21), ("mobilevitv2_050", 12, 21)])
def test_sites_are_those_of_the_mobilevits(name, convolutions, norms):
    """Inverted residuals and norms on the residual stream are found in both families."""
    bench = Workbench(eq.create_model(name, "random", input_size=64), torch.zeros(1, 3, 64, 64), None)
    layers = [layer.weight for residual in bench.inverted_residuals for layer in residual]
    assert len(set(layers)) == convolutions
    assert all(weight.endswith(("conv1_1x1.conv.weight", "conv3_1x1.conv.weight")) for weight in layers)
    assert len(bench.stream_norms) == norms
    assert len(bench.attention_maps) == (9 if name == "mobilevit_xxs" else 0)


def graph_of(*modules):
    model = nn.Sequential(*modules).eval()
    model.pretrained_cfg = {"input_size": (8, 6, 6)}
    return Workbench(model, torch.zeros(1, 8, 6, 6), None).graph


def test_what_is_no_inverted_residual_is_not_found():
    """A missing function, a full convolution and a stride make no inverted residual."""
    first, last = nn.Conv2d(8, 8, 1), nn.Sequential(nn.Conv2d(8, 4, 1), nn.Flatten())
    depthwise = nn.Conv2d(8, 8, 3, groups=8)
    assert len(find_inverted_residuals(graph_of(first, nn.ReLU6(), depthwise, nn.Hardswish(), last))) == 1
    assert not find_inverted_residuals(graph_of(first, depthwise, nn.SiLU(), last))
    assert not find_inverted_residuals(graph_of(first, nn.SiLU(), depthwise, last))
    assert not find_inverted_residuals(graph_of(first, nn.SiLU(), nn.Conv2d(8, 8, 3), nn.SiLU(), last))
    assert not find_inverted_residuals(graph_of(nn.Conv2d(8, 8, 1, 2), nn.SiLU(), depthwise, nn.SiLU(), last))


def test_norm_inputs_have_power_of_two_steps(quantized):
    """Each channel's step is 1, 2, 4 or 8 eighths of the tensor's, and the error falls."""
    model = quantized(BASE)
    plain = {site.node: site for site in model.manifest.activation_sites if site.axis is None}
    sites = [site for site in model.manifest.activation_sites if site.axis is not None]
    assert len(sites) == 2
    for site, step in zip(sites, steps_of(model, "PTF"), strict=True):
        ratios = {round(scale / min(site.scale), 3) for scale in site.scale}
        assert ratios <= {1, 2, 4, 8}
        assert site.node not in plain
        assert step.best_score < step.default_score
        assert sum(step.facts["channels"].values()) == 8


def test_the_error_of_norm_inputs_is_that_of_the_network(small, quantized):
    """The recorded error is that of the placed quantizers, also where they are symmetric with few codes."""
    model = quantized(f"{BASE}:symmetric=true:activation_bits=3")
    bench = Workbench(*small, None)
    taps = [norm.operands[0] for norm in bench.stream_norms]
    inputs = bench.record(taps, on=eq.Network.FLOAT, feed=bench.feed(bench.halve_images(0)[0]))
    placed = [module for module in modules_of(model, AffineQuantizer) if module.axis is not None]
    for x, quantizer, step in zip(inputs, placed, steps_of(model, "PTF"), strict=True):
        assert step.best_score == pytest.approx(float((quantizer(x) - x).double().square().sum()), rel=1e-5)


def test_every_input_and_map_is_quantized(quantized):
    """The bit table has 8 bits at all inputs, 4 at the map, and the norms' inputs and logits."""
    table = quantized(BASE).bit_table()
    assert table["conv weights"] == table["linear weights"] == "8 per-channel"
    assert table["conv inputs"] == table["linear inputs"] == table["product inputs"] == "8"
    assert table["softmax"] == "4 Log2Map"
    assert table["other activations"] == "8, at 3 places"
    assert quantized(f"{BASE}:log2_map=false").bit_table()["softmax"] == "8 uniform"


@pytest.mark.parametrize(
    "options",
    [
        "qads=false",
        "ptf=false",
        "linear_softmax=false",
        "log2_map=false",
        "symmetric=true",
        "weight_bits=5",
        "activation_bits=5",
        "alpha_steps=5",
        "alpha_rate=0.01",
        "seed=1",
    ],
)
def test_every_option_changes_the_numbers(small, quantized, replace_option, options):
    """Each option changes the logits of the model."""
    without = ("alpha_steps", "alpha_rate") if options == "qads=false" else ()
    assert not torch.equal(quantized(BASE)(small[1]), quantized(replace_option(BASE, options, without))(small[1]))


def test_the_published_map_changes_the_numbers():
    """As published, 2^-15 is not zero, which moves the logits of a model that ends in a product."""
    torch.manual_seed(0)
    model = Attention().eval()
    model.pretrained_cfg = {"input_size": (3, 8, 8)}
    images = torch.randn(4, 3, 8, 8) * 3
    logits = [eq.quantize(model, eq.get_recipe(f"hyq{end}"), images)(images) for end in ("", ":as_published=true")]
    assert not torch.equal(*logits)
    assert torch.allclose(*logits, atol=1e-2)


@pytest.mark.parametrize("options", ["alpha_steps=-1", "alpha_rate=0"])
def test_impossible_options_are_refused(options):
    """An option outside its range is an error."""
    with pytest.raises(RecipeFormatError):
        eq.get_recipe(f"hyq:{options}")


def test_a_step_without_site_is_noted(plain):
    """A model without inverted residual, norm and softmax gets a note for each step."""
    model = eq.quantize(plain[0], eq.get_recipe("hyq"), plain[1])
    for step in ("QADS", "PTF", "integer softmax", "log2 map"):
        assert any(note.startswith(f"{step} did nothing") for note in model.notes)
        assert [dataclasses.asdict(recorded)["facts"] for recorded in steps_of(model, step)] == [{"sites": 0}]


def test_logits_have_eight_bits_at_every_width(quantized):
    """The integer softmax reads 8-bit logits, also where inputs have 4 bits."""
    model = quantized(f"{BASE}:activation_bits=4")
    bits = [module.bits for module in modules_of(model, AffineQuantizer)]
    assert set(bits) == {4, 8}
    assert bits.count(8) == len(modules_of(model, LinearExponential)) > 0


def test_few_images_are_halved_with_a_note(small, quantized):
    """With fewer than 200 images the halves are disjoint, and the note counts them."""
    assert any(note.startswith("20 images were halved: 10 for ranges and 10 for α") for note in quantized(BASE).notes)
    bench = Workbench(*small, None)
    halves = [torch.cat(list(half)) for half in bench.halve_images(0)]
    assert [len(half) for half in halves] == [10, 10]
    together = torch.cat(halves)
    assert torch.equal(together.sum((1, 2, 3)).sort().values, small[1].sum((1, 2, 3)).sort().values)
    single = Workbench(small[0], small[1][:1], None).halve_images(0)
    assert [len(half) for half in single] == [1, 1]


def test_multiplications_are_counted(quantized, small, tmp_path):
    """One for each convolution with factors is in the file, the steps and a note."""
    model = quantized(BASE)
    assert sum(step.facts["multiplications"] for step in steps_of(model, "QADS")) == 2
    assert any("2 multiplications by 1/α" in note for note in model.notes)
    artifact = eq.export_onnx(model, tmp_path / "model.onnx", target="onnxruntime", images=small[1][:2])
    names = [tensor.name for tensor in onnx.load(artifact.path).graph.initializer]
    assert sum("inverse_alpha" in name for name in names) == 2


@pytest.mark.parametrize("target", ["onnxruntime", "onnxruntime-1.10"])
@pytest.mark.parametrize("options", ["", ":linear_softmax=false", ":log2_map=false", ":symmetric=true"])
def test_onnx_runtime_holds_it(small, quantized, tmp_path, target, options):
    """The artifact agrees with the eager model."""
    path = tmp_path / "model.onnx"
    artifact = eq.export_onnx(quantized(BASE + options), path, target=target, images=small[1][:2])
    assert artifact.parity_max_abs < 1e-4


def test_tensorrt_is_offered_the_variant(quantized, variant, small, tmp_path):
    """TensorRT refuses zero-points with the variant's name, and holds that variant."""
    path = tmp_path / "model.onnx"
    with pytest.raises(LoweringError, match=r"quantize with hyq:.*alpha_steps=30:.*ptf=false:symmetric=true"):
        eq.export_onnx(quantized(BASE), path, target="rtx-3080")
    assert not path.exists()
    assert eq.export_onnx(variant, path, target="rtx-3080", images=small[1][:2]).parity_max_abs < 1e-4


def test_norms_with_channel_scales_are_refused_too(quantized, tmp_path):
    """Without zero-points, PTF alone is what TensorRT cannot hold."""
    with pytest.raises(LoweringError, match=r"more than one scale.* quantize with .*:ptf=false:.*symmetric=true"):
        eq.export_onnx(quantized(f"{BASE}:symmetric=true"), tmp_path / "model.onnx", target="rtx-3080")


def test_symmetric_quantizers_have_no_zero_point(variant):
    """In the symmetric variant every activation has zero-point 0 and one scale."""
    assert all(site.zero_point is None and site.axis is None for site in variant.manifest.activation_sites)


def test_the_seed_decides_everything(small, quantized, tmp_path):
    """The same seed gives the same file."""
    again = eq.quantize(small[0], eq.get_recipe(BASE), small[1])
    files = [tmp_path / name for name in ("first.onnx", "second.onnx")]
    for model, path in zip((quantized(BASE), again), files, strict=True):
        eq.export_onnx(model, path, target="onnxruntime", images=small[1][:1])
    assert files[0].read_bytes() == files[1].read_bytes()
