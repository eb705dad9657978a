"""A channel of tiny weights answers with its bias."""

import digits
import efficientquant as eq
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from efficientquant.errors import ArtifactError
from efficientquant.graph.capture import CONVOLUTION, call_nodes
from efficientquant.sites.accumulators import find_scale_changes
from torch import nn

CHANNEL = 4
BIASES = torch.tensor([0.3, -0.2, 0.1, 0.4, -0.25, 0.05, 0.2, -0.1])


class Layer(nn.Module):
    """A layer behind a convolution, whose output is quantized."""

    def __init__(self, kind, factor, channels=(CHANNEL,)):
        super().__init__()
        torch.manual_seed(0)
        self.kind, self.first = kind, nn.Conv2d(3, 8, 3)
        self.layer = nn.Linear(8, 8) if kind == "linear" else nn.Conv2d(8, 8, 3, groups=8 if kind == "depthwise" else 1)
        self.pretrained_cfg = {"input_size": (3, 8, 8)}
        with torch.no_grad():
            self.layer.weight[list(channels)] *= factor
            self.layer.bias.copy_(BIASES)

    def forward(self, x):
        """Return the layer's results (N, positions, 8)."""
        x = self.first(x).relu()
        if self.kind == "linear":
            return self.layer(x.flatten(2).mT).clamp(-9, 9)
        return self.layer(x).clamp(-9, 9).flatten(2).mT


def images(count, seed):
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def export(model, recipe, folder, target="onnxruntime"):
    """Return a model in int8 and its results (positions, 8) in an ordinary session."""
    quantized = eq.quantize(model.eval(), eq.get_recipe(recipe), images(16, 0))
    artifact = eq.export_onnx(quantized, folder / "model.onnx", target=target)
    assert artifact.parity_max_abs <= 1e-4
    session = onnxruntime.InferenceSession(str(artifact.path))
    return quantized, session.run(None, {"input": images(1, 1).numpy()})[0][0]


def last_step(quantized):
    return quantized.manifest.activation_sites[-1].scale


@pytest.mark.parametrize("factor", [1e-8, 1e-20, 0.0])
@pytest.mark.parametrize("kind", ["conv", "depthwise", "linear"])
def test_a_channel_of_tiny_weights_answers_with_its_bias(kind, factor, tmp_path):
    """ONNX Runtime's integer kernels give its bias, within half a step of the output."""
    quantized, results = export(Layer(kind, factor), "int8", tmp_path)
    step = last_step(quantized)
    assert np.abs(results[:, CHANNEL] - float(BIASES[CHANNEL])).max() <= step * 0.51
    expected = Layer(kind, factor)(images(1, 1)).detach().numpy()[0]
    assert np.abs(results - expected).max() < 4 * step


@pytest.mark.parametrize("factor", [1e-8, 1e-38])
def test_a_layer_of_tiny_weights_answers_with_its_biases(factor, tmp_path):
    """One scale per tensor is raised for the largest bias."""
    quantized, results = export(Layer("conv", factor, range(8)), "int8:granularity=per-tensor", tmp_path)
    assert np.abs(results - BIASES.numpy()).max() <= last_step(quantized) * 0.51


def test_the_note_names_the_weight_and_the_channel():
    """A raised scale is noted, an unchanged or empty one is not."""
    tiny, empty, ordinary = (
        eq.quantize(Layer("conv", factor).eval(), eq.get_recipe("int8"), images(16, 0)) for factor in (1e-8, 0.0, 1.0)
    )
    (note,) = [note for note in tiny.notes if "raised" in note]
    assert note.startswith("layer.weight: the scale of channel 4 is raised, because the bias would overflow")
    assert not [note for note in (*empty.notes, *ordinary.notes) if "raised" in note]


def test_the_other_channels_keep_their_codes():
    """Only the tiny channel's scale changes."""
    tiny, ordinary = (
        eq.quantize(Layer("conv", factor).eval(), eq.get_recipe("int8"), images(16, 0)).weights["layer.weight"]
        for factor in (1e-8, 1.0)
    )
    others = [channel for channel in range(8) if channel != CHANNEL]
    assert torch.equal(tiny.codes[others], ordinary.codes[others])
    assert torch.equal(tiny.scale[others], ordinary.scale[others])
    assert float(tiny.scale[CHANNEL]) > 1e-8 * float(ordinary.scale[CHANNEL])


def test_every_bias_has_a_code():
    """Each bias is at most 2^30 steps of its product, and there is nothing left to change."""
    quantized = eq.quantize(Layer("conv", 1e-20, range(8)).eval(), eq.get_recipe("int8"), images(16, 0))
    layer = call_nodes(quantized.module, CONVOLUTION)[-1]
    step = quantized.module.get_submodule(str(layer.args[0].target)).scale
    steps = BIASES.double().abs() / (step * quantized.weights["layer.weight"].scale.double().flatten())
    assert float(steps.max()) <= 2**30 * (1 + 1e-6)
    assert find_scale_changes(quantized.module) == {}


def test_a_bias_that_is_lost_in_integers_is_refused(monkeypatch, tmp_path):
    """Without a raised scale, ONNX Runtime's integer kernel loses the bias, and the export sees it."""
    monkeypatch.setattr("efficientquant.quantization.find_scale_changes", lambda _graph: {})
    with pytest.raises(ArtifactError, match=r"the optimizations of ONNX Runtime [\d.]+ change its logits by"):
        export(Layer("conv", 1e-8), "int8", tmp_path)


@pytest.mark.parametrize(("kind", "factor"), [("conv", 1e-12), ("conv", 1e-44), ("conv", 0.0), ("linear", 1e-30)])
def test_a_layer_of_dead_inputs_answers_with_its_biases(kind, factor, tmp_path):
    """Inputs that are zero, or as good as zero, leave the biases of all channels."""
    model = Layer(kind, 1.0)
    with torch.no_grad():
        model.first.weight *= factor
        model.first.bias *= factor
    quantized, results = export(model, "int8", tmp_path)
    assert np.abs(results - BIASES.numpy()).max() <= last_step(quantized) * 0.51


@pytest.mark.parametrize(
    ("recipe", "factor"),
    [
        ("w4a8", 1e-20),
        ("easyquant", 1e-8),
        ("ptq4vit:rounds=1:gradient=mse", 1e-8),
        ("q-hyvit:rounds=1", 1e-8),
        *((recipe, factor) for recipe in ("repq-vit", "hyq") for factor in (1e-8, 0.0)),
    ],
)
def test_every_recipe_exports_a_dead_channel(recipe, factor, tmp_path):
    """With the output in float, the channel answers with the bias itself."""
    _, results = export(Layer("conv", factor), recipe, tmp_path)
    assert np.abs(results[:, CHANNEL] - float(BIASES[CHANNEL])).max() < 1e-5


@pytest.mark.parametrize("target", ["onnxruntime-1.10", "agx-xavier", "rtx-3080"])
def test_a_dead_channel_is_written_for_every_target(target, tmp_path):
    """Each target's file has positive, normal scales."""
    quantized = eq.quantize(Layer("conv", 1e-38).eval(), eq.get_recipe("int8"), images(16, 0))
    artifact = eq.export_onnx(quantized, tmp_path / "model.onnx", target=target)
    tensors = onnx.load(artifact.path).graph.initializer
    scales = [onnx.numpy_helper.to_array(tensor) for tensor in tensors if tensor.name.endswith("_scale")]
    assert all((scale >= np.finfo(np.float32).tiny).all() for scale in scales)


@pytest.mark.parametrize("factor", [1e-8, 1e-20, 0.0])
def test_a_trained_model_with_a_dead_channel(factor, tmp_path):
    """The file of a MobileViT answers as the float model with that channel does."""
    digits.save_npz(tmp_path)
    model = eq.create_model(digits.MODEL, digits.WEIGHTS)
    with torch.no_grad():
        model.stages[0][0].conv2_kxk.conv.weight[CHANNEL] *= factor
    train, test = (eq.open_images(tmp_path / f"{part}.npz", eq.input_spec(model)) for part in ("train", "test"))
    quantized = eq.quantize(model, eq.get_recipe("int8"), train.sample(32, 0))
    artifact = eq.export_onnx(quantized, tmp_path / "model.onnx", target="onnxruntime")
    assert [note for note in artifact.notes if "raised" in note] or factor == 0
    session = onnxruntime.InferenceSession(str(artifact.path))
    pictures = torch.cat([batch for batch, _ in test.batches()])[:200]
    answers = [session.run(None, {"input": picture[None].numpy()})[0].argmax() for picture in pictures]
    with torch.no_grad():
        assert (model(pictures).argmax(1).numpy() == answers).mean() > 0.97


def test_a_large_bias_costs_the_other_channels_no_weights():
    """A scale that all channels share is not raised for one of them."""
    ordinary, large = (Layer("conv", 1.0).eval() for _ in range(2))
    large.layer.bias.data[CHANNEL] = 1e7
    recipe = eq.get_recipe("int8:granularity=per-tensor")
    codes = [eq.quantize(model, recipe, images(16, 0)).weights["layer.weight"].codes for model in (ordinary, large)]
    assert torch.equal(*codes)
