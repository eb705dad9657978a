"""RepQ-ViT: its sites, its reparameterization, its ranges and its switches."""

import dataclasses
import functools

import efficientquant as eq
import pytest
import torch
from efficientquant import Network, Workbench, search
from efficientquant.emulated.log_sqrt2 import LogSqrt2
from efficientquant.errors import LoweringError
from efficientquant.graph.blocks import Tap
from torch import nn

FOUR_BITS = "repq-vit:weight_bits=4:activation_bits=4"
COMMON_ZERO_POINTS = (0, 37, 128, 255)


class Attention(nn.Module):
    """A classifier with every kind of site: an attention, an MLP, a fold and a GroupNorm."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.SiLU())
        self.norm1, self.q, self.kv = nn.LayerNorm(8), nn.Linear(8, 8, bias=False), nn.Linear(8, 16)
        self.norm2, self.fc1, self.fc2 = nn.LayerNorm(8), nn.Linear(8, 12), nn.Linear(12, 8)
        self.norm3, self.fold = nn.LayerNorm(8), nn.Sequential(nn.Conv2d(8, 6, 1, bias=False), nn.BatchNorm2d(6))
        self.norm4, self.conv = nn.GroupNorm(1, 6), nn.Conv2d(6, 6, 1)
        self.head = nn.Linear(6, 5)
        self.pretrained_cfg = {"input_size": (3, 8, 8)}

    def forward(self, x):
        """Return the logits."""
        x = self.stem(x).flatten(2).transpose(1, 2)
        y = self.norm1(x)
        k, v = self.kv(y).chunk(2, -1)
        x = x + (self.q(y) @ k.transpose(1, 2)).softmax(-1) @ v
        x = x + self.fc2(nn.functional.silu(self.fc1(self.norm2(x))))
        x = self.fold(self.norm3(x).transpose(1, 2).reshape(-1, 8, 8, 8))
        return self.head(self.conv(self.norm4(x)).mean((2, 3)))


class NoSites(nn.Module):
    """Norms that have another reader, other channels or no parameters."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 2, stride=2)
        self.residual, self.bare = nn.LayerNorm(8), nn.LayerNorm(8, elementwise_affine=False)
        self.mixed, self.padded, self.active = nn.LayerNorm(8), nn.GroupNorm(1, 8), nn.LayerNorm(8)
        self.shared, self.grouped, self.good = nn.LayerNorm(8), nn.GroupNorm(2, 8), nn.LayerNorm(8)
        self.linear = nn.ModuleList([nn.Linear(8, 8) for _ in range(6)])
        self.pad, self.point = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.pretrained_cfg = {"input_size": (3, 8, 8)}

    def forward(self, x):
        """Return the logits."""
        x = self.conv(x)
        x = self.point(self.grouped(self.pad(self.padded(x))))
        x = x.flatten(2).transpose(1, 2)
        y = self.residual(x)
        x = y + self.linear[0](y)
        x = x + self.linear[1](self.bare(x))
        x = x + self.linear[2](self.mixed(x).transpose(1, 2).reshape(-1, 16, 8))
        x = x + self.linear[3](self.active(x).relu())
        x = x + self.linear[4](self.linear[4](self.shared(x)))
        return self.linear[5](self.good(x)).mean(1)


def prepared(model):
    """Return a model with norms that are not trivial."""
    generator = torch.Generator().manual_seed(3)
    for module in model.modules():
        if isinstance(module, (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm2d)) and module.weight is not None:
            module.weight.data = torch.rand(len(module.weight), generator=generator) * 4 + 0.1
            module.bias.data = torch.randn(len(module.bias), generator=generator)
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = torch.randn(module.num_features, generator=generator)
            module.running_var = torch.rand(module.num_features, generator=generator) + 0.5
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def small():
    """Return a small classifier with all kinds of sites, and images."""
    torch.manual_seed(0)
    return prepared(Attention()), torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def quantized(small):
    """Return a function that quantizes the small model by a recipe, once for each."""
    return functools.cache(lambda recipe: eq.quantize(small[0], eq.get_recipe(recipe), small[1]))


def channel_scales(bench, site, on=Network.FLOAT):
    """Return a site's scales on a network."""
    rows = bench.record([site.norm.output], on=on, sample=search.Sample())[0].T.contiguous()
    channels = search.choose_uniform(rows, 8, "free", percentiles=True)
    return search.ChannelScales.of(channels.scale, channels.low, 8, mean=False)


def test_the_reparameterization_is_exact_in_float(small):
    """For any common zero-point the logits stay those of the eager model, whose batch norm is not folded."""
    model, images = small
    expected = model(images)
    bench = Workbench(model, images, None)
    sites = search.find_norm_sites(bench.graph)
    assert len(sites) == 4
    for zero_point in COMMON_ZERO_POINTS:
        bench.reset()
        for site in sites:
            dataclasses.replace(channel_scales(bench, site), common_zero_point=zero_point).apply(bench, site)
        bench.graph.recompile()
        assert torch.allclose(bench.graph(images), expected, atol=1e-5), zero_point


def test_one_scale_gives_the_codes_of_a_scale_per_channel(small):
    """With zero-point 0, the changed output has the codes of the channels' own quantizers, shifted."""
    bench = Workbench(*small, None)
    site = search.find_norm_sites(bench.graph)[0]
    scales = channel_scales(bench, site)
    [before] = bench.record([site.norm.output], on=Network.FLOAT)
    scales.apply(bench, site)
    [after] = bench.record([site.norm.output], on=Network.QUANTIZED)
    own = (before / scales.scale).round() + scales.zero_point
    codes = (after / scales.common_scale).round() + 128
    assert (codes != own).double().mean() < 1e-4  # where float rounding decides


def test_a_constant_channel_stays_exact(small):
    """A channel without a range gets a small share of the mean scale, and the logits stay."""
    model, images = small
    bench = Workbench(model, images, None)
    site = search.find_norm_sites(bench.graph)[0]
    bench.set_parameter(site.weight, bench.parameter(site.weight) * torch.tensor([0.0, 1, 1, 1, 1, 1, 1, 1]))
    bench.graph.recompile()
    expected = bench.graph(images)
    scales = channel_scales(bench, site, on=Network.QUANTIZED)
    scales.apply(bench, site)
    bench.graph.recompile()
    assert float(scales.ratio[0]) == pytest.approx(1e-6)
    assert torch.allclose(bench.graph(images), expected, atol=1e-5)


def test_only_norms_that_layers_alone_read_are_sites(small):
    """Other readers, padding, mixed channels, several groups, shared weights and missing parameters are no site."""
    torch.manual_seed(0)
    bench = Workbench(prepared(NoSites()), small[1][:2], None)
    assert [site.weight for site in search.find_norm_sites(bench.graph)] == ["good.weight"]
    bench = Workbench(*small, None)
    sites = search.find_norm_sites(bench.graph)
    assert [site.weight for site in sites] == [f"norm{index}.weight" for index in (1, 2, 3, 4)]
    readers = [[layer.weight for layer in site.layers] for site in sites]
    assert readers == [["q.weight", "kv.weight"], ["fc1.weight"], ["fold.0.weight"], ["conv.weight"]]


@pytest.mark.parametrize("name", ["mobilevit_xxs", "mobilevit_xs", "mobilevit_s", "mobilevitv2_050"])
def test_every_mobilevit_has_21_sites(name):
    """Nine blocks with two norms each, and the three last norms before the fold."""
    bench = Workbench(eq.create_model(name, "random", input_size=64), torch.zeros(1, 3, 64, 64), None)
    sites = search.find_norm_sites(bench.graph)
    convolutions = [site for site in sites if site.layers[0].window is not None]
    assert all(len(site.layers) == 1 for site in sites)
    assert (len(sites), len(convolutions)) == (21, 21 if name.startswith("mobilevitv2") else 3)


@pytest.mark.parametrize(
    "options",
    [
        "reparameterize=false",
        "log_sqrt2=false",
        "percentiles=false",
        "zero_point=mean",
        "symmetric=true",
        "as_published=true",
        "weight_bits=5",
        "activation_bits=5",
    ],
)
def test_every_option_changes_the_numbers(small, quantized, replace_option, options):
    """Each option changes the logits of the model."""
    assert not torch.equal(quantized(FOUR_BITS)(small[1]), quantized(replace_option(FOUR_BITS, options))(small[1]))


def test_the_seed_alone_draws_the_positions():
    """The same seed gives the same logits, and another one looks at other positions of a large tensor."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), nn.Flatten(), nn.Linear(4 * 62 * 62, 5)).eval()
    model.pretrained_cfg = {"input_size": (3, 64, 64)}
    images = torch.randn(12, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    recipes = [eq.get_recipe(name) for name in ("repq-vit", "repq-vit", "repq-vit:seed=1")]
    first, again, other = (eq.quantize(model, recipe, images)(images) for recipe in recipes)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_convolution_inputs_keep_8_bits(quantized):
    """Linears, products and softmaxes have the recipe's bits, inputs of convolutions 8."""
    table = quantized(FOUR_BITS).bit_table()
    assert (table["conv inputs"], table["linear inputs"], table["product inputs"]) == ("8", "4", "4")
    assert (table["conv weights"], table["softmax"]) == ("4 per-channel", "4 LogSqrt2")


def test_the_common_zero_point_is_signed_zero_or_the_mean(quantized):
    """Behind a norm signed zero-points are 0 by default, and elsewhere they are what the range needs."""
    for recipe, is_zero in (("repq-vit", True), ("repq-vit:zero_point=mean", False)):
        model = quantized(recipe)
        steps = [step for step in model.manifest.steps if step.name == "reparameterization"]
        assert len(steps) == 4
        assert all(step.facts["zero_point"] == 0 for step in steps) is is_zero
        assert sum(len(step.facts["layers"]) for step in steps) == 5
        assert any(site.zero_point for site in model.manifest.activation_sites)


def test_the_symmetric_variant_has_no_zero_point(quantized):
    """With symmetric=true no activation and no weight has a zero-point."""
    model = quantized("repq-vit:symmetric=true")
    assert not any(site.zero_point for site in model.manifest.activation_sites)
    assert all(weight.zero_point is None for weight in model.weights.values())


@pytest.mark.parametrize("form", ["affine", "symmetric", "free"])
def test_ranges_are_the_percentiles_with_the_smallest_error(form):
    """Scales are those of a brute-force search over torch's quantiles."""
    x = torch.randn(5, 4000, generator=torch.Generator().manual_seed(0)).pow(3) + 4
    uniform = search.choose_uniform(x, 6, form, percentiles=True)
    for row, scale in zip(x.double(), uniform.scale, strict=True):
        errors = {}
        for share in (0.999, 0.9999, 0.99999):
            low, high = row.quantile(1 - share), row.quantile(share)
            if form == "symmetric":
                step, zero, bottom, top = row.abs().quantile(share) / 31, 0.0, -31, 31
            else:
                low, high = (low, high) if form == "free" else (low.clamp_max(0), high.clamp_min(0))
                step, bottom, top = (high - low) / 63, 0, 63
                zero = (-low / step).round()
            decoded = (((row / step).round() + zero).clamp(bottom, top) - zero) * step
            errors[float(step)] = float((decoded - row).square().sum())
        assert float(scale) == pytest.approx(min(errors, key=errors.get), rel=1e-5)


def test_an_affine_range_contains_zero():
    """Zero is a value of an affine quantizer, whatever the range, and a row of zeros has scale 1."""
    x = torch.stack([torch.linspace(2, 3, 100), torch.linspace(-3, -2, 100), torch.zeros(100)])
    uniform = search.choose_uniform(x, 4, "affine", percentiles=False)
    assert uniform.zero_point.tolist() == [-8, 7, -8]
    assert uniform.scale.tolist() == pytest.approx([0.2, 0.2, 1.0])
    assert float(uniform.errors(x)[2]) == 0


def test_a_norm_and_its_reader_may_be_in_different_blocks():
    """A norm that ends a block changes the layer of the next one, whose input has the norm's scale."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.GroupNorm(1, 8), nn.Conv2d(8, 6, 1), nn.SiLU(), nn.Flatten(), nn.Linear(6 * 36, 5)
    )
    model = prepared(model)
    model.pretrained_cfg = {"input_size": (3, 8, 8)}
    images = torch.randn(16, 3, 8, 8)
    quantized = eq.quantize(model, eq.get_recipe("repq-vit"), images)
    [step] = [step for step in quantized.manifest.steps if step.name == "reparameterization"]
    assert step.best_score > 0
    scales = [site.scale for site in quantized.manifest.activation_sites if site.zero_point == 0]
    assert pytest.approx(step.facts["scale"], rel=1e-6) in scales
    assert torch.allclose(quantized(images), model(images), atol=0.1)


def test_missing_sites_are_noted():
    """A model without norms, products and softmaxes is quantized, and the manifest says what had no site."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5)).eval()
    model.pretrained_cfg = {"input_size": (3, 8, 8)}
    quantized = eq.quantize(model, eq.get_recipe("repq-vit"), torch.randn(4, 3, 8, 8))
    missing = [step.name for step in quantized.manifest.steps if step.facts.get("sites") == 0]
    assert missing == ["reparameterization", "product ranges", "log-√2 quantization"]
    assert sum("did nothing" in note for note in quantized.notes) == 3
    assert quantized.bit_table()["conv inputs"] == "8"


def test_a_softmax_is_quantized_once(small, quantized):
    """The product behind a softmax reads its quantizer, and gets one for the other operand only."""
    product = Workbench(*small, None).products[-1].node
    for recipe, form in (("repq-vit", "LogSqrt2"), ("repq-vit:log_sqrt2=false", "uniform")):
        model = quantized(recipe)
        [site] = model.manifest.softmax_sites
        assert (site.bits, site.form) == (8, form)
        assert Tap(product, 0).find(model.module).target == site.quantizer_name


@pytest.mark.parametrize(
    ("recipe", "target"),
    [
        ("repq-vit", "onnxruntime"),
        (FOUR_BITS, "onnxruntime-1.10"),
        ("repq-vit:log_sqrt2=false:zero_point=mean", "onnxruntime"),
        ("repq-vit:symmetric=true", "rtx-3080"),
        ("repq-vit:symmetric=true:log_sqrt2=false", "agx-xavier"),
        ("repq-vit:symmetric=true", "agx-xavier"),
    ],
)
def test_targets_hold_what_they_can(small, quantized, tmp_path, recipe, target):
    """The artifact agrees with the eager model, with zero-points on ONNX Runtime and without on TensorRT."""
    artifact = eq.export_onnx(quantized(recipe), tmp_path / "model.onnx", target=target, images=small[1][:4])
    assert artifact.parity_max_abs < 1e-4


def test_tensorrt_refuses_zero_points_and_names_the_variant(quantized, tmp_path):
    """The sentence of the refusal names the symmetric variant."""
    with pytest.raises(LoweringError, match="repq-vit:symmetric=true"):
        eq.export_onnx(quantized("repq-vit"), tmp_path / "model.onnx", target="rtx-3080")
    assert not (tmp_path / "model.onnx").exists()


class TalkingHeads(nn.Module):
    """An attention whose heads are mixed by a convolution behind the softmax."""

    def __init__(self):
        super().__init__()
        self.stem, self.qk, self.head = nn.Conv2d(3, 8, 2, 2), nn.Linear(8, 16), nn.Linear(8, 5)
        self.mix = nn.Conv2d(2, 2, 1)
        self.pretrained_cfg = {"input_size": (3, 8, 8)}

    def forward(self, x):
        """Return the logits."""
        x = self.stem(x).flatten(2).transpose(1, 2)
        q, k = (part.unflatten(2, (2, 4)).transpose(1, 2) for part in self.qk(x).chunk(2, -1))
        attention = self.mix((q @ k.transpose(2, 3)).softmax(-1))
        values = x.unflatten(2, (2, 4)).transpose(1, 2)
        return self.head((attention @ values).transpose(1, 2).flatten(2).mean(1))


def test_a_layer_that_reads_a_softmax_keeps_its_quantizer():
    """A layer behind a softmax adds no quantizer of its own."""
    torch.manual_seed(0)
    model, images = TalkingHeads().eval(), torch.randn(4, 3, 8, 8)
    quantized = eq.quantize(model, eq.get_recipe("repq-vit"), images)
    kept = [module for module in quantized.module.modules() if isinstance(module, LogSqrt2)]
    assert len(kept) == 1
    assert sum(step.name == "log-√2 quantization" for step in quantized.manifest.steps) == 1
    plain = eq.quantize(model, eq.get_recipe("repq-vit:log_sqrt2=false"), images)
    assert not torch.equal(quantized(images), plain(images))
