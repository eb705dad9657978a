"""PTQ4ViT: its search, its weights of errors, its sites and its switches."""

import functools

import efficientquant as eq
import pytest
import torch
from efficientquant import search
from efficientquant.errors import LoweringError
from efficientquant.workbench import Workbench
from torch import nn

LOW = "ptq4vit:weight_bits=4:activation_bits=4"


class Attention(nn.Module):
    """Self-attention with one linear for queries, keys and values."""

    def __init__(self, heads, interleaved=False):
        super().__init__()
        self.heads, self.interleaved = heads, interleaved
        self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x):
        """Return the attention's output (N, tokens, 8)."""
        batch, tokens, _ = x.shape
        if self.interleaved:
            q, k, v = self.qkv(x).reshape(batch, tokens, self.heads, -1).transpose(1, 2).chunk(3, -1)
        else:
            q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        attention = (q @ k.transpose(-2, -1)).softmax(-1)
        return self.proj((attention @ v).transpose(1, 2).reshape(batch, tokens, 8))


class Hybrid(nn.Module):
    """A convolution, a transformer block and a head."""

    def __init__(self, stride=2, interleaved=False):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, stride, 1), nn.LayerNorm(8)
        self.attention = Attention(2, interleaved)
        self.fc1, self.activation, self.fc2 = nn.Linear(8, 16), nn.SiLU(), nn.Linear(16, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, images):
        """Return the logits (N, 5)."""
        x = self.stem(images).flatten(2).transpose(1, 2)
        x = x + self.attention(self.norm(x))
        x = x + self.fc2(self.activation(self.fc1(x)))
        return self.head(x.mean(1))


def make(module):
    torch.manual_seed(0)
    model = module().eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data *= 3  # so that the attention is not even
    model.requires_grad_(False)
    model.pretrained_cfg = {"input_size": (3, 8, 8)}
    return model


@pytest.fixture(scope="module")
def images():
    return torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def model():
    return make(Hybrid)


@pytest.fixture(scope="module")
def quantized(model, images):
    """Return a function that quantizes the hybrid by a recipe, once for each."""
    return functools.cache(lambda recipe: eq.quantize(model, eq.get_recipe(recipe), images))


def test_each_search_lowers_its_own_error(quantized):
    """The weighted error of each place is not larger than with the steps of the largest magnitudes."""
    steps = quantized(LOW).manifest.steps
    assert len(steps) == 6 + 2
    assert all(step.best_score <= step.default_score for step in steps)
    assert sum(step.best_score < step.default_score for step in steps) > 4


@pytest.mark.parametrize(
    "options",
    [
        "twin_softmax=false",
        "twin_activation=false",
        "gradient=mse",
        "rounds=1",
        "per_head=false",
        "conv_inputs=true",
        "as_published=true",
        "weight_bits=5",
        "activation_bits=5",
        "seed=1",
    ],
)
def test_every_option_changes_the_numbers(images, quantized, replace_option, options):
    """Each option changes the logits of the model."""
    assert not torch.equal(quantized(LOW)(images), quantized(replace_option(LOW, options))(images))


def test_all_positions_are_the_sample_of_a_small_model(images, quantized):
    """Up to 33,000 positions of an output, `rows=all` and the default are the same."""
    assert torch.equal(quantized(LOW)(images), quantized(f"{LOW}:rows=all")(images))


@pytest.mark.parametrize("place", ["search.rows", "workbench.recording"])
def test_a_sample_changes_the_numbers(model, images, quantized, monkeypatch, place):
    """`rows=all` changes the numbers where a sample leaves positions out."""
    before = quantized(LOW)(images)
    monkeypatch.setattr(f"efficientquant.{place}.DEFAULT_POSITIONS", 40)
    sampled, whole = (
        eq.quantize(model, eq.get_recipe(f"{LOW}:rows={rows}"), images)(images) for rows in ("sampled", "all")
    )
    assert not torch.equal(sampled, whole)
    assert torch.equal(whole, before)


def test_the_result_is_the_same_for_the_same_seed(model, images, quantized):
    """A second run gives the same weights, scales and logits."""
    first, second = quantized(LOW), eq.quantize(model, eq.get_recipe(LOW), images)
    assert first.manifest.to_dict() == second.manifest.to_dict()
    assert torch.equal(first(images), second(images))


def test_the_steps_of_a_convolution_are_the_brute_force(model, images, quantized):
    """Each channel has the candidate whose output is nearest to the float one."""
    placed = quantized(f"{LOW}:gradient=mse").weights["stem.weight"]
    x = nn.functional.unfold(images, 3, padding=1, stride=2).transpose(1, 2).reshape(-1, 27)
    for channel, weight in enumerate(model.stem.weight.flatten(1)):
        start = float(weight.abs().max()) / 7.5

        def error(step, weight=weight):
            difference = (weight / step).round().clamp(-8, 7) * step - weight
            return float((x @ difference).double().square().sum())

        best = min(error(start * factor) for factor in [1.0, *search.grid(0.01, 1.2, 100)])
        assert error(float(placed.scale.flatten()[channel])) == pytest.approx(best, rel=1e-4)


def test_rows_of_a_product_have_its_errors():
    """Errors from sampled rows are those of the same positions of the whole product, for each head."""
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(5, 3, 7, 4, generator=generator), torch.randn(5, 3, 4, 6, generator=generator)
    sample = search.Sample(40, 0)
    positions = sample.draw(5 * 3 * 7)
    weights = torch.randn(40, 6, generator=generator)
    rows = search.ProductRows.of(first, second, sample, weights)
    a, b = (operand.round() for operand in rows.operands)
    difference = (first.round() @ second.round() - first @ second).flatten(0, 2)[positions] * weights
    heads = positions // 7 % 3
    expected = torch.stack([difference[heads == head].square().sum() for head in range(3)])
    assert torch.allclose(rows.errors(a, b).float(), expected, rtol=1e-5)


@pytest.mark.parametrize("interleaved", [False, True])
def test_queries_keys_and_values_have_their_own_steps(interleaved):
    """The linear's rows are found in the graph, also where each head has its own three parts."""
    bench = Workbench(make(lambda: Hybrid(interleaved=interleaved)), torch.randn(2, 3, 8, 8), None)
    ((node, groups),) = search.find_row_groups(bench.graph).items()
    part = [0] * 4 + [1] * 4 + [2] * 4 if interleaved else [0] * 8 + [1] * 8 + [2] * 8
    assert groups.tolist() == part * (2 if interleaved else 1)
    assert next(layer for layer in bench.layers if layer.node == node).weight == "attention.qkv.weight"


def test_scales_have_the_granularity_of_the_method(quantized):
    """The weight of q, k and v has three steps, other linears one, and heads their own in products."""
    model = quantized(LOW)
    assert len(model.weights["attention.qkv.weight"].scale.unique()) == 3
    assert model.weights["fc1.weight"].scale.numel() == 1
    assert model.weights["stem.weight"].scale.numel() == 8
    per_head = [site for site in model.manifest.activation_sites if site.axis is not None]
    assert [len(site.scale) for site in per_head] == [2, 2, 2]
    assert model.bit_table()["conv inputs"] == "32"
    assert model.bit_table()["softmax"] == "4 TwinUniformSoftmax"


def test_fisher_gradients_exceed_their_noise(quantized):
    """Each place of the hybrid has a gradient of at least a thousand times the rounding noise."""
    facts = [step.facts for step in quantized(LOW).manifest.steps]
    assert all(fact["gradient"] == "fisher" for fact in facts)
    assert all(fact["gradient_rms"] > 1e3 * fact["noise_rms"] for fact in facts)


def test_a_softmax_over_one_token_has_no_gradient(images):
    """The product before it is searched by the mean squared error, and a note names it."""
    model = eq.quantize(make(lambda: Hybrid(stride=8)), eq.get_recipe(LOW), images)
    scores = [step.node for step in model.manifest.steps if step.facts["gradient"] == "mse"]
    assert scores == ["matmul"]
    assert any("1 of 8 places" in note and note.endswith(": matmul") for note in model.notes)


def test_a_constant_factor_of_the_gradient_changes_nothing(model, images, quantized, monkeypatch):
    """Losses three times as large give the same weights and logits."""
    original = search.gradients.sampled_label_loss

    def tripled(seed):
        loss = original(seed)
        return lambda logits, expected: 3 * loss(logits, expected)

    monkeypatch.setattr(search.gradients, "sampled_label_loss", tripled)
    assert torch.equal(eq.quantize(model, eq.get_recipe(LOW), images)(images), quantized(LOW)(images))


def test_a_plain_network_has_no_site(images):
    """Without products and without a linear behind SiLU, the notes name each step that did nothing."""
    plain = make(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)))
    model = eq.quantize(plain, eq.get_recipe("ptq4vit"), images)
    idle = [step.name for step in model.manifest.steps if step.facts.get("sites") == 0]
    assert idle == ["products", "twin_softmax", "twin_activation"]
    assert "twin_softmax did nothing: the model has no softmax in front of a product" in model.notes


def test_mobilevitv2_has_a_softmax_but_no_product():
    """Its context score is no product of matrices, so the softmax stays in float."""
    model = eq.create_model("mobilevitv2_050", "random", input_size=32)
    data = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    result = eq.quantize(model, eq.get_recipe("ptq4vit:gradient=mse:rounds=1"), data)
    assert [step.name for step in result.manifest.steps if not step.node] == [
        "products",
        "twin_softmax",
        "twin_activation",
    ]
    assert result.bit_table()["softmax"] == "32"


@pytest.mark.parametrize("recipe", ["ptq4vit", LOW, "ptq4vit:conv_inputs=true:per_head=false"])
@pytest.mark.parametrize("target", ["onnxruntime", "onnxruntime-1.10"])
def test_onnx_runtime_holds_it(images, quantized, tmp_path, target, recipe):
    """The artifact agrees with the eager model."""
    artifact = eq.export_onnx(quantized(recipe), tmp_path / "model.onnx", target=target, images=images[:4])
    assert artifact.parity_max_abs < 1e-4


def test_steps_per_head_are_refused_for_tensorrt(images, quantized, tmp_path):
    """TensorRT takes no scale per head, and the sentence names the variant that it takes."""
    with pytest.raises(LoweringError, match=r"more than one scale.*quantize with ptq4vit:per_head=false"):
        eq.export_onnx(quantized("ptq4vit"), tmp_path / "model.onnx", target="rtx-3080", images=images[:2])
    variant = quantized("ptq4vit:per_head=false")
    artifact = eq.export_onnx(variant, tmp_path / "model.onnx", target="rtx-3080", images=images[:2])
    assert artifact.parity_max_abs < 1e-4
