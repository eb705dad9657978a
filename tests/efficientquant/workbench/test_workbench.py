"""The edits that a recipe can make on a workbench, and their order."""

from functools import partial

import efficientquant as eq
import pytest
import torch
from efficientquant import Granularity, Network, Workbench, primitives
from efficientquant.errors import RecipeOrderError
from efficientquant.graph.blocks import Tap
from efficientquant.observers import MagnitudeObserver, RangeObserver
from efficientquant.options import RangeRule, Scope
from efficientquant.primitives import spread_groups
from efficientquant.quantizers import ActivationQuantizer
from torch import nn

PER_CHANNEL = Granularity.PER_CHANNEL


@pytest.fixture(scope="module")
def small():
    """Return a MobileViT for small images, and images."""
    model = eq.create_model("mobilevit_xxs", "random", input_size=64)
    return model, eq.synthetic_images(eq.input_spec(model), 4)


@pytest.fixture(scope="module")
def only_bench(small):
    """Return the file's only workbench, since a capture takes a second."""
    return Workbench(*small, None)


@pytest.fixture
def bench(only_bench):
    """Return a workbench on which nothing is quantized."""
    only_bench.reset()
    return only_bench


def layer_of(bench, weight):
    return next(layer for layer in bench.layers if layer.weight == weight)


def round_affine(weight, bits, group_size=None):
    """Return affine codes, scales and zero-points of a weight (O, ...), per channel or group.

    Each range includes 0.
    """
    rows = weight.flatten(1)
    size = group_size or rows.shape[1]
    parts = rows.split(size, 1)
    low, high = (
        torch.stack([f(part, dim=1).clamp(*limit) for part in parts], 1)
        for f, limit in ((torch.amin, (None, 0)), (torch.amax, (0, None)))
    )
    scale = (high - low) / ((1 << bits) - 1)
    half = 1 << (bits - 1)
    zero = (-low / scale).round() - half
    spread = (spread_groups(values, size, weight.shape) for values in (scale, zero))
    wide, moved = spread
    codes = ((weight / wide).round() + moved).clamp(-half, half - 1).to(torch.int8)
    return codes, scale, zero.to(torch.int8)


@pytest.mark.parametrize(
    "name", ["stages.2.1.conv_kxk.conv.weight", "stages.0.0.conv2_kxk.conv.weight", "head.fc.weight"]
)
@pytest.mark.parametrize("group_size", [None, 32, 7])
def test_codes_that_a_method_chose_stand_for_the_weight(bench, name, group_size):
    """set_weight takes affine codes with one scale per channel or group of columns, and records their SQNR."""
    weight = bench.parameter(name).clone()
    codes, scale, zero = round_affine(weight, 4, group_size)
    if group_size is None:
        scale, zero = scale.flatten(), zero.flatten()
    bench.set_weight(name, codes, scale, zero, bits=4, group_size=group_size)
    approximation = bench.graph.get_submodule(f"{name}_dequantizer")()
    entry = bench.manifest.entries[name]
    assert (entry.bits, entry.is_symmetric) == (4, False)
    assert entry.granularity == ("per-channel" if group_size is None else f"groups of {group_size}")
    assert entry.sqnr_db == pytest.approx(primitives.sqnr_db(weight, approximation))
    assert entry.sqnr_db > 15
    steps = (
        scale.reshape(-1, *[1] * (weight.ndim - 1))
        if group_size is None
        else spread_groups(scale, group_size, weight.shape)
    )
    assert bool(((approximation - weight).abs() <= 0.501 * steps).all())
    assert torch.equal(bench.parameter(name), weight)


def test_smaller_groups_lose_less(bench):
    """The SQNR in the manifest grows as groups get smaller."""
    name = "stages.2.1.conv_kxk.conv.weight"
    sqnr = []
    for group_size in (432, 32, 8):
        codes, scale, zero = round_affine(bench.parameter(name), 4, group_size)
        bench.set_weight(name, codes, scale, zero, bits=4, group_size=group_size)
        sqnr.append(bench.manifest.entries[name].sqnr_db)
    assert sqnr == sorted(sqnr)


def test_a_weight_may_be_set_again_and_is_judged_by_the_float_one(bench):
    """A second quantization of a weight starts from the float weight and replaces the first."""
    name = bench.layers[0].weight
    bench.quantize_weight(name, 2, PER_CHANNEL)
    coarse = bench.manifest.entries[name].sqnr_db
    bench.quantize_weight(name, 8, PER_CHANNEL)
    assert bench.manifest.entries[name].sqnr_db > coarse + 20
    logits = [bench.record([Tap(bench.blocks[-1].output)], on=on)[0] for on in Network]
    assert 0 < float((logits[0] - logits[1]).abs().max()) < 0.05


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"codes": torch.zeros(16, 3, 3, 3)}, "codes are torch.float32"),
        ({"codes": torch.zeros(16, 3, 3, 2, dtype=torch.int8)}, r"not int8 \(16, 3, 3, 3\)"),
        ({"codes": torch.full((16, 3, 3, 3), 9, dtype=torch.int8)}, "codes from 9 to 9, not -8 to 7"),
        ({"scale": torch.ones(5)}, "5 values for a weight of 16 channels"),
        ({"scale": torch.zeros(16)}, "no positive number"),
        ({"scale": torch.ones(16, 3), "group_size": 8}, "16 × 4 groups"),
        ({"zero_point": torch.zeros(1, dtype=torch.int8)}, r"not int8 \(16, 1, 1, 1\)"),
    ],
)
def test_codes_that_do_not_fit_are_refused(bench, change, sentence):
    """Codes, scales and zero-points that do not fit are refused before anything is changed."""
    given = {"codes": torch.zeros(16, 3, 3, 3, dtype=torch.int8), "scale": torch.ones(16), "bits": 4} | change
    with pytest.raises(ValueError, match=sentence):
        bench.set_weight("stem.conv.weight", **given)
    assert bench.weights == {}


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_gets_a_bias(bias):
    """set_bias replaces a layer's bias, or adds a bias to a layer without one."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=bias), nn.Flatten(), nn.Linear(4 * 36, 5, bias=bias))
    model.pretrained_cfg = {"input_size": (3, 8, 8)}
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    bench = Workbench(model, images, None)
    for layer in bench.layers:
        before = bench.record([layer.output], on=Network.QUANTIZED)[0]
        old = bench.bias(layer)
        assert (old is not None) == bias
        value = torch.arange(float(before.shape[1])) + (0 if old is None else old)
        bench.set_bias(layer, value)
        after = bench.record([layer.output], on=Network.QUANTIZED)[0]
        shift = torch.arange(float(before.shape[1])).reshape(-1, *[1] * (before.ndim - 2))
        assert torch.allclose(after, before + shift, atol=1e-5)
        assert torch.equal(bench.bias(layer), value)


class Twice(nn.Module):
    """A classifier that calls the same convolution twice."""

    def __init__(self):
        super().__init__()
        self.same, self.head = nn.Conv2d(3, 3, 1), nn.Linear(3, 5)
        self.pretrained_cfg = {"input_size": (3, 8, 8)}

    def forward(self, x):
        """Return the logits."""
        return self.head(self.same(self.same(x)).mean((2, 3)))


def test_a_shared_bias_stays_that_of_the_others():
    """A layer whose bias others read gets its own, once."""
    bench = Workbench(Twice().eval(), torch.rand(2, 3, 8, 8), None)
    first, second, _ = bench.layers
    shared = bench.bias(first)
    for value in (torch.ones(3), torch.full((3,), 2.0)):
        bench.set_bias(first, value)
        assert torch.equal(bench.bias(first), value)
        assert torch.equal(bench.bias(second), shared)
        assert torch.equal(bench.parameter("same.bias"), shared)
    bench.set_bias(second, torch.zeros(3))
    assert [float(bench.bias(layer)[0]) for layer in (first, second)] == [2, 0]
    assert {name for name, _ in bench.graph.named_parameters() if "bias" in name} == {
        "same.bias",
        "same.conv2d_bias",
        "head.bias",
    }


def test_a_parameter_is_changed_in_float_before_it_is_quantized(bench):
    """A reparameterization of norm and linear keeps the logits, and is refused after quantization."""
    norm, linear = ("stages.2.1.transformer.0.norm1", "stages.2.1.transformer.0.attn.qkv")
    factor = torch.linspace(0.5, 2.0, 64)
    for name in (f"{norm}.weight", f"{norm}.bias"):
        bench.set_parameter(name, bench.parameter(name) / factor)
    bench.set_parameter(f"{linear}.weight", bench.parameter(f"{linear}.weight") * factor)
    logits = [bench.record([Tap(bench.blocks[-1].output)], on=on)[0] for on in Network]
    assert torch.allclose(logits[0], logits[1], atol=1e-5)
    bench.quantize_weight(f"{linear}.weight", 8, PER_CHANNEL)
    with pytest.raises(RecipeOrderError, match="already quantized"):
        bench.set_parameter(f"{linear}.weight", bench.parameter(f"{linear}.weight"))


def test_a_quantizer_at_an_operand_belongs_to_one_reader(bench):
    """A quantizer at one operand rounds each channel by its own step and does not affect other readers."""
    first, second = (layer_of(bench, f"stages.2.1.{name}.conv.weight") for name in ("conv_kxk", "conv_fusion"))
    raw = bench.record([first.input], on=Network.FLOAT)[0]
    steps = torch.linspace(0.1, 0.4, raw.shape[1])
    bench.quantize_activation(first.input, 4, steps, zero_point=-3, axis=1)
    rounded, untouched = bench.record([first.input, second.input], on=Network.QUANTIZED)
    wide = steps.reshape(-1, 1, 1)
    expected = (((raw / wide).round() - 3).clamp(-8, 7) + 3) * wide
    assert torch.allclose(rounded, expected, atol=1e-5)
    assert torch.allclose(untouched[:, : raw.shape[1]], raw, atol=1e-5)
    (site,) = bench.manifest.activation_sites
    assert (site.consumers, site.bits, site.zero_point, site.axis, len(site.scale)) == (("conv2d",), 4, -3, 1, 48)


def test_a_tap_may_be_quantized_again(bench):
    """The second quantizer at a tap replaces the first."""
    tap = bench.layers[3].input
    bench.quantize_activation(tap, 8, 0.5)
    bench.quantize_activation(tap, 8, 0.01, zero_point=5)
    bench.quantize_activation(Tap(bench.layers[6].node), 8, 0.01)
    assert [site.zero_point for site in bench.manifest.activation_sites] == [5, None]
    assert len({site.quantizer for site in bench.manifest.activation_sites}) == 2


def test_two_taps_cannot_share_a_quantizer(bench):
    """A quantizer's name that is taken at another tap or in the network is refused."""
    first, second = bench.layers[0].input, bench.layers[1].input
    bench.quantize_activation(first, 8, 0.5)
    for site in ("activation_quantizer_0", "stem"):
        with pytest.raises(ValueError, match="is not free"):
            bench.insert_quantizer(second, ActivationQuantizer(site, 0.5, 8))


@pytest.mark.parametrize(("zero_point", "smallest"), [(None, -7.0), (0, -8.0)])
def test_symmetric_codes_leave_out_the_smallest(bench, zero_point, smallest):
    """Below 8 bits a symmetric quantizer has 2^bits - 1 codes, and with a zero-point it has 2^bits."""
    layer = bench.layers[1]
    bench.quantize_activation(layer.input, 4, 0.01, zero_point=zero_point)
    bench.set_parameter(bench.layers[0].weight, bench.parameter(bench.layers[0].weight) * 0)
    bench.set_bias(bench.layers[0], torch.full((16,), -1.0))  # SiLU(-1) is -0.27
    (rounded,) = bench.record([layer.input], on=Network.QUANTIZED)
    assert rounded.unique().tolist() == pytest.approx([smallest / 100])


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"scale": 0.0}, "no positive number"),
        ({"scale": torch.ones(3)}, "3 scales without an axis"),
        ({"scale": 1.0, "zero_point": 200}, "-128 to 127 are possible"),
    ],
)
def test_parameters_that_no_quantizer_has_are_refused(bench, given, sentence):
    """Zero scales, several scales without an axis, and a zero-point outside the codes are refused."""
    with pytest.raises(ValueError, match=sentence):
        bench.quantize_activation(bench.layers[0].input, 8, **given)


def test_activations_after_weights_need_a_named_network(bench):
    """Once a weight is quantized, a recipe has to name the network that calibrates its activations."""
    bench.quantize_weight(bench.layers[0].weight, 2, PER_CHANNEL)
    tap = bench.layers[1].input
    with pytest.raises(RecipeOrderError, match=r"on=Network\.FLOAT or on=Network\.QUANTIZED"):
        bench.observe([tap], RangeObserver)
    with pytest.raises(RecipeOrderError):
        bench.quantize_activations(Scope.CONV, 8, None, RangeRule.MINMAX)
    ranges = [bench.observe([tap], RangeObserver, on=on)[0].largest for on in Network]
    assert ranges[0] != ranges[1]
    fresh = [bench.record([tap], on=on)[0].max().item() for on in Network]
    assert ranges == pytest.approx(fresh)


def test_an_observer_may_have_arguments(bench):
    """Observers are made by a callable, which can pass them arguments."""

    class Counter(RangeObserver):
        def __init__(self, axis):
            super().__init__()
            self.axis = axis

    (counter,) = bench.observe([bench.layers[0].input], partial(Counter, 1))
    assert (counter.axis, counter.largest > 0) == (1, True)


def test_reset_goes_back_to_the_float_network(bench):
    """After reset, the network and the manifest are those of the float model."""
    before = bench.manifest.to_dict()
    bench.quantize_activations(Scope.CONV, 8, 8, RangeRule.MINMAX)
    bench.quantize_weights(Scope.CONV, 4, PER_CHANNEL)
    bench.reset()
    logits = [bench.record([Tap(bench.blocks[-1].output)], on=on)[0] for on in Network]
    assert torch.equal(*logits)
    assert torch.equal(bench.graph(next(iter(bench.images))), logits[0])
    assert (bench.manifest.to_dict(), bench.weights) == (before, {})
    bench.observe([bench.layers[0].input], MagnitudeObserver)  # no weight is quantized any more


def test_what_a_recipe_reads_and_gives_are_copies(bench):
    """Changing a tensor that was read from the workbench, or given to it, changes no network."""
    layer = bench.layers[0]
    before = bench.record([layer.output], on=Network.FLOAT)[0]
    bench.parameter(layer.weight).mul_(3)
    bench.bias(layer).add_(100)
    bias = torch.ones(16)
    bench.set_bias(layer, bias)
    bias.fill_(7)
    assert torch.equal(bench.bias(layer), torch.ones(16))
    codes, scale, zero = torch.ones(16, 3, 3, 3, dtype=torch.int8), torch.ones(16), torch.zeros(16, dtype=torch.int8)
    bench.set_weight(layer.weight, codes, scale, zero, bits=8)
    quantized = bench.record([layer.output], on=Network.QUANTIZED)[0]
    for tensor in (codes, scale, zero, bench.parameter(layer.weight)):
        tensor.fill_(5)
    assert torch.equal(bench.record([layer.output], on=Network.QUANTIZED)[0], quantized)
    assert torch.equal(bench.record([layer.output], on=Network.FLOAT)[0], before)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (torch.ones(7), r"float32 \(16,\), not torch.float32 \(7,\)"),
        (torch.ones(1, 16), r"not torch.float32 \(1, 16\)"),
        (torch.ones(16).double(), r"not torch.float64 \(16,\)"),
        (torch.full((16,), torch.nan), "NaN or infinity"),
    ],
)
def test_a_bias_or_parameter_that_does_not_fit_is_refused(bench, value, sentence):
    """A bias or parameter with a wrong shape or type, or with NaN, is refused."""
    layer = bench.layers[0]
    with pytest.raises(ValueError, match=sentence):
        bench.set_bias(layer, value)
    with pytest.raises(ValueError, match=sentence):
        bench.set_parameter("stem.conv.bias", value)


def test_only_weights_have_codes_and_a_scale_may_be_a_number(bench):
    """set_weight refuses a bias and an unknown name, and takes one number as a scale."""
    codes = torch.zeros(16, dtype=torch.int8)
    with pytest.raises(ValueError, match=r"'stem.conv.bias' has shape \(16,\) and is no weight"):
        bench.set_weight("stem.conv.bias", codes, 0.5, bits=8)
    with pytest.raises(ValueError, match=r"no parameter 'stem\.colour'"):
        bench.set_weight("stem.colour", codes, 0.5, bits=8)
    bench.set_weight("stem.conv.weight", torch.ones(16, 3, 3, 3, dtype=torch.int8), 0.5, bits=8)
    assert bench.manifest.entries["stem.conv.weight"].granularity == "per-tensor"
