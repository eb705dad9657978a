"""Compensated rounding of whole networks, by the recipes that have it."""

import functools

import efficientquant as eq
import pytest
import torch
from efficientquant import Granularity, Network, Workbench
from efficientquant.errors import NonFiniteError, RecipeFormatError
from efficientquant.search import compensation
from torch import nn

W4 = "efficientquant-w4"


class Layers(nn.Module):
    """A classifier with every kind of convolution and linear, and an attention."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.grouped = nn.Conv2d(8, 12, 3, padding=2, dilation=2, groups=2)
        self.point = nn.Conv2d(12, 8, 1)
        self.qkv = nn.Linear(8, 24)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        """Return the logits."""
        x = self.depthwise(torch.relu(self.norm(self.stem(x))))
        x = self.point(nn.functional.silu(self.grouped(x))).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(x).chunk(3, -1)
        x = x + (q @ k.transpose(1, 2) / 8**0.5).softmax(-1) @ v
        return self.head(x.mean(1))


@pytest.fixture(scope="module")
def small():
    """Return the classifier, and images."""
    torch.manual_seed(0)
    model = Layers().eval()
    model.pretrained_cfg = {"input_size": (3, 16, 16)}
    return model, torch.randn(40, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def quantized(small):
    """Return a function that quantizes the classifier by a recipe, once for each."""
    return functools.cache(lambda recipe: eq.quantize(small[0], eq.get_recipe(recipe), small[1]))


def error(small, model):
    """Return the squared error of the logits on other images."""
    images = torch.randn(64, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return float((model(images) - small[0](images)).square().mean())


@pytest.mark.parametrize("recipe", [W4, "w4a8", "efficientquant:scope=conv+linear:weight_bits=3:group_size=8"])
def test_the_logits_are_closer_than_with_nearest_rounding(small, quantized, recipe):
    """On images that were not calibrated on, the error is at most half of nearest rounding's."""
    assert error(small, quantized(recipe)) < 0.5 * error(small, quantized(f"{recipe}:rounding=nearest"))


def test_every_layer_is_rounded_in_order(quantized):
    """Each layer has a step with both errors, and none is worse than nearest rounding."""
    steps = [step for step in quantized(W4).manifest.steps if step.name == compensation.STEP]
    assert [step.node for step in steps] == ["conv2d", "conv2d_1", "conv2d_2", "conv2d_3", "linear", "linear_1"]
    assert all(step.best_score <= step.default_score for step in steps)


@pytest.mark.parametrize("recipe", [W4, "w4a8"])
@pytest.mark.parametrize(
    "options",
    [
        "rounding=nearest",
        "ridge=0",
        "scale_search=false",
        "feedback=false",
        "descent=false",
        "bias=false",
        "activations_first=false",
        "group_size=4",
        "weight_bits=5",
    ],
)
def test_every_option_changes_the_numbers(small, quantized, recipe, options):
    """Each step that is left out, and each other option, changes the logits."""
    with torch.no_grad():
        logits = [quantized(name)(small[1]) for name in (recipe, f"{recipe}:{options}")]
    assert not torch.equal(*logits)


def test_the_seed_draws_the_rows(small, monkeypatch):
    """Where not all positions fit, another seed gives other weights, and the same seed the same."""
    monkeypatch.setattr("efficientquant.search.rows.DEFAULT_POSITIONS", 200)
    models = [eq.quantize(small[0], eq.get_recipe(f"{W4}:seed={seed}"), small[1]) for seed in (0, 0, 1)]
    codes = [torch.cat([weight.codes.flatten() for weight in model.weights.values()]) for model in models]
    assert torch.equal(codes[0], codes[1])
    assert not torch.equal(codes[0], codes[2])


@pytest.mark.parametrize("recipe", [W4, "w4a8", f"{W4}:rounding=compensated"])
def test_without_images_it_rounds_to_nearest_and_says_so(small, recipe):
    """Synthetic images teach a weight nothing: the codes are those of nearest rounding, and a note says why."""
    model = eq.quantize(small[0], eq.get_recipe(recipe))
    nearest = eq.quantize(small[0], eq.get_recipe(f"{recipe.partition(':')[0]}:rounding=nearest"))
    for name, weight in nearest.weights.items():
        assert torch.equal(model.weights[name].codes, weight.codes)
    assert [note for note in model.notes if "compensated rounding needs images" in note]
    assert model.provenance["calibration"]["images"] == 32
    assert not any("compensated" in note for note in nearest.notes)


@pytest.mark.parametrize(
    ("recipe", "images"),
    [("efficientquant", 32), (W4, 256), ("w4a8", 256), (f"{W4}:weight_bits=7", 32), (f"{W4}:rounding=nearest", 32)],
)
def test_it_takes_256_images(recipe, images):
    """Compensation takes 256 images by default, all else 32."""
    assert eq.get_recipe(recipe).calibration_images == images


def test_eight_bits_can_be_compensated_too(small, quantized):
    """With rounding=compensated, also the widest weights make up for errors."""
    assert error(small, quantized("int8:rounding=compensated")) < error(small, quantized("int8"))
    assert not [step for step in quantized("int8").manifest.steps if step.name == compensation.STEP]


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ("int8:ridge=0", "'ridge': it has no effect without compensated rounding; leave it out, or use"),
        ("efficientquant-w4:rounding=nearest:feedback=false", "'feedback': it has no effect without"),
        ("efficientquant-w4:ridge=2", "'ridge': 2.0; 0 to 1 are possible"),
        ("efficientquant-w4:group_size=0", "'group_size': 0; 1 and more are possible, or none"),
        ("int8:granularity=per-tensor:group_size=4", "'group_size': a weight has one scale"),
        ("int8:granularity=per-tensor:rounding=compensated", "'rounding': a weight has one scale"),
    ],
)
def test_impossible_options_are_refused(recipe, words):
    """The sentence names the option and what to do."""
    with pytest.raises(RecipeFormatError, match=words):
        eq.get_recipe(recipe)


def test_one_scale_per_tensor_is_rounded_to_nearest(quantized):
    """With granularity=per-tensor, auto does not compensate."""
    model = quantized("int8:weight_bits=4:granularity=per-tensor")
    assert not model.manifest.steps
    assert all(weight.scale.numel() == 1 for weight in model.weights.values())


def test_progress_counts_the_layers(small):
    """Each layer moves the progress on."""
    seen = []
    eq.quantize(small[0], eq.get_recipe(W4), small[1], progress=lambda *moved: seen.append(moved))
    assert [round(6 * fraction) for phase, fraction in seen if phase == "round weights"] == [1, 2, 3, 4, 5, 6]


class Embedded(Layers):
    """The classifier with a linear that reads constants only."""

    def __init__(self):
        super().__init__()
        self.table, self.position = nn.Parameter(torch.randn(1, 6)), nn.Linear(6, 3)

    def forward(self, x):
        """Return the logits."""
        return super().forward(x + self.position(self.table)[..., None, None])


def test_weights_that_read_constants_come_first(small):
    """Later layers see them rounded, and the progress counts them."""
    torch.manual_seed(0)
    model, seen = Embedded().eval(), []
    model.pretrained_cfg = small[0].pretrained_cfg
    rounded = eq.quantize(model, eq.get_recipe(W4), small[1], progress=lambda *moved: seen.append(moved))
    step = next(step for step in rounded.manifest.steps if step.node == "linear_2")
    with torch.no_grad():
        difference = rounded(small[1]).double() - model(small[1])
    assert "position.weight" in rounded.weights
    assert step.best_score == pytest.approx(float(difference.square().sum()), rel=1e-3)
    assert [round(7 * fraction) for phase, fraction in seen if phase == "round weights"] == [2, 3, 4, 5, 6, 7]


def test_singular_equations_are_noted(small, monkeypatch):
    """Equal input channels with a tiny ridge are rounded all the same, and a note names the layer."""
    monkeypatch.setattr("efficientquant.search.rounding.SPARSE_RIDGE", 0.0)
    images = small[1].mean(1, keepdim=True).expand(-1, 3, -1, -1).contiguous()
    model = eq.quantize(small[0], eq.get_recipe(f"{W4}:ridge=1e-17"), images)
    notes = [note for note in model.notes if "singular" in note]
    assert len(notes) == 1
    assert "conv2d," in notes[0] or "conv2d;" in notes[0]
    assert bool(torch.isfinite(model(small[1])).all())


@pytest.mark.parametrize(("module", "node"), [("norm", "conv2d"), ("depthwise", "conv2d_1")])
def test_infinite_rows_are_refused(small, module, node):
    """The error names the layer whose output overflows."""
    torch.manual_seed(0)
    model = Layers().eval()
    model.pretrained_cfg = small[0].pretrained_cfg
    model.get_submodule(module).weight.data.fill_(3e38)
    with pytest.raises(NonFiniteError, match=f"the output of '{node}' holds NaN or infinity"):
        eq.quantize(model, eq.get_recipe(f"{W4}:softmax_bits=none"), small[1])


def test_images_follow_where_they_fit(small):
    """Some images wait while tensors are large, and each gets the values of a whole pass."""
    bench = Workbench(*small, None)
    layers = [layer for block in bench.blocks for layer in block.layers]
    passage = bench.passage(0, 12 * 4 * 2 * 2 * 12 * 64)
    counts = []
    for layer in layers:
        passage.join(layer.node)
        counts.append(passage.count)
        for tap, on in ((layer.output, Network.FLOAT), (layer.input, Network.QUANTIZED)):
            rows = torch.cat([values.clone() for values, _ in passage.advance(tap, on)]).flatten(1)
            (whole,) = bench.record([tap], on=on)
            assert len(rows) == passage.count
            assert float((rows[:, None] - whole.flatten(1)).abs().amax(2).amin(1).max()) < 1e-5
        if layer.node == "conv2d_1":
            bench.quantize_weight(layer.weight, 3, Granularity.PER_CHANNEL)
            bench.set_bias(layer, torch.ones(8))
    assert counts[0] < counts[-1] == 40
    assert counts == sorted(counts)


@pytest.mark.parametrize("name", ["mobilevit_xxs", "mobilevitv2_050", "levit_128s", "edgenext_xx_small"])
def test_a_passage_computes_what_the_network_does(name):
    """At every layer, and with layers that were edited before, it has the values of a whole pass."""
    model = eq.create_model(name, "random", input_size=None if name.startswith("levit") else 64)
    images = torch.rand(3, *eq.input_spec(model).shape, generator=torch.Generator().manual_seed(0))
    bench = Workbench(model, images, None)
    passage = bench.passage(0, 1 << 30)
    layers = [layer for block in bench.blocks for layer in block.layers]
    for layer in layers:
        passage.join(layer.node)
        (_,) = passage.advance(layer.output, Network.FLOAT)
        ((values, count),) = passage.advance(layer.input, Network.QUANTIZED)
        assert count == 3
        if layer is layers[len(layers) // 2] or layer is layers[-1]:
            (whole,) = bench.record([layer.input], on=Network.QUANTIZED)
            assert torch.allclose(values, whole, atol=1e-4)
        bench.quantize_weight(layer.weight, 6, Granularity.PER_CHANNEL)


@pytest.mark.parametrize(
    ("recipe", "target"),
    [
        (W4, "onnxruntime"),
        (W4, "jetson-nano"),
        ("w4a8", "rtx-3080"),
        (f"{W4}:group_size=4", "agx-xavier"),
        ("w4a8:group_size=4", "jetson-nano"),
    ],
)
def test_targets_hold_it(small, quantized, tmp_path, recipe, target):
    """The artifact agrees with the eager model, biases included."""
    artifact = eq.export_onnx(quantized(recipe), tmp_path / "model.onnx", target=target, images=small[1][:2])
    assert artifact.parity_max_abs < 1e-4


class Unusual(nn.Module):
    """A classifier with the convolutions that stay in float."""

    def __init__(self):
        super().__init__()
        self.same, self.valid = nn.Conv2d(3, 4, 3, padding="same"), nn.Conv2d(4, 4, 3, padding="valid")
        self.larger, self.head = nn.ConvTranspose2d(4, 4, 2, stride=2), nn.Linear(4, 5)
        self.pretrained_cfg = {"input_size": (3, 8, 8)}

    def forward(self, x):
        """Return the logits."""
        return self.head(self.larger(self.valid(self.same(x))).mean((2, 3)))


@pytest.mark.parametrize("recipe", [W4, "int8", "easyquant"])
def test_some_convolutions_stay_in_float(recipe):
    """String padding and transposed convolutions are not quantized."""
    model = eq.quantize(Unusual().eval(), eq.get_recipe(recipe), torch.rand(4, 3, 8, 8))
    assert set(model.weights) == {"head.weight"}
