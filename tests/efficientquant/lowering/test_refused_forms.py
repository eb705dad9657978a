"""Refusal of quantizers that a target has no form of."""

import efficientquant as eq
import onnx
import pytest
import torch
from efficientquant.errors import LoweringError
from efficientquant.lowering import lower
from efficientquant.quantization import QuantizedModel
from efficientquant.workbench import Workbench
from torch import nn

AFFINE = "affine"
GROUPS = "groups"
PER_CHANNEL_INPUT = "input per channel"
AFFINE_INPUT = "affine input"


@pytest.fixture(scope="module")
def quantized():
    """Return a function that makes a small model with one kind of quantizer.

    It takes the form, and whether inputs are quantized too.
    """

    def make(form, inputs=False, bits=8):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Flatten(), nn.Linear(8 * 36, 5))
        model.pretrained_cfg = {"input_size": (3, 8, 8)}
        bench = Workbench(model.eval(), torch.randn(4, 3, 8, 8), None)
        for layer in bench.layers:
            apply(bench, layer, form, inputs, bits)
        bench.graph.recompile()
        return QuantizedModel(
            bench.graph, eq.get_recipe("fp32"), bench.spec, bench.weights, bench.manifest, bench.notes, bench.provenance
        )

    return make


def apply(bench, layer, form, inputs, bits):
    weight = bench.parameter(layer.weight)
    if form == AFFINE:
        scale = (weight.flatten(1).amax(1) - weight.flatten(1).amin(1)) / 255
        zero = (-128 - weight.flatten(1).amin(1) / scale).round()
        codes = (weight / shaped(scale, weight) + shaped(zero, weight)).round().clamp(-128, 127)
        bench.set_weight(layer.weight, codes.to(torch.int8), scale, zero.to(torch.int8), bits=8)
    elif form == GROUPS:
        codes = torch.ones(weight.shape, dtype=torch.int8)
        groups = -(-weight[0].numel() // 16)
        scale = torch.arange(1, 1 + len(weight) * groups).reshape(len(weight), groups) / 1000
        bench.set_weight(layer.weight, codes, scale, bits=4, group_size=16)
    elif form == PER_CHANNEL_INPUT and layer.window is not None:
        bench.quantize_activation(layer.input, bits, torch.tensor([0.01, 0.02, 0.03]), axis=1)
    elif form == AFFINE_INPUT:
        bench.quantize_activation(layer.input, bits, 0.02, zero_point=7)
    if inputs:
        bench.quantize_activation(layer.input, 8, 0.05)


def shaped(values, weight):
    return values.reshape(-1, *[1] * (weight.ndim - 1))


@pytest.mark.parametrize("inputs", [False, True])
@pytest.mark.parametrize("target", ["onnxruntime", "onnxruntime-1.10"])
def test_zero_points_of_weights_are_exported_for_onnx_runtime(quantized, tmp_path, target, inputs):
    """A subtraction has them in float, DequantizeLinear of products of integers unsigned, and the logits agree."""
    artifact = eq.export_onnx(quantized(AFFINE, inputs), tmp_path / "model.onnx", target=target)
    assert artifact.parity_max_abs < 1e-5
    constants = {
        tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(artifact.path).graph.initializer
    }
    zero = constants["0.weight_zero_point"]
    assert (zero.shape, zero.dtype) == (((8,), "uint8") if inputs else ((8, 1, 1, 1), "float32"))
    assert len(set(zero.flatten().tolist())) > 1


@pytest.mark.parametrize("form", [AFFINE, GROUPS])
def test_a_target_without_int8_gets_the_weights_in_float(quantized, tmp_path, form):
    """Where weights are dequantized in the file, zero-points and groups need no form there."""
    artifact = eq.export_onnx(quantized(form), tmp_path / "model.onnx", target="jetson-nano")
    assert artifact.parity_max_abs < 1e-5
    assert any("2 quantized weights are stored in float" in note for note in artifact.notes)


@pytest.mark.parametrize("target", ["tensorrt-10", "rtx-3080", "tensorrt-11"])
def test_zero_points_of_weights_are_refused_for_tensorrt(quantized, tmp_path, target):
    """TensorRT takes symmetric weights only, and the sentence names the weight and the target."""
    path = tmp_path / "model.onnx"
    with pytest.raises(LoweringError, match=rf"node '0\.weight' .* has zero-points, and {target} takes symmetric"):
        eq.export_onnx(quantized(AFFINE), path, target=target)
    assert not path.exists()


@pytest.mark.parametrize("target", ["onnxruntime-1.17", "onnxruntime-1.10"])
def test_groups_are_refused_where_the_opset_has_no_blocks(quantized, tmp_path, target):
    """A refused scale per group names its weight, group and opset."""
    reads = eq.get_target(target).opset
    with pytest.raises(
        LoweringError, match=rf"node '0\.weight' .* group of 16 columns.* opset 21; {target} reads {reads}"
    ):
        eq.export_onnx(quantized(GROUPS), tmp_path / "model.onnx", target=target)


@pytest.mark.parametrize("form", [PER_CHANNEL_INPUT, AFFINE_INPUT])
@pytest.mark.parametrize("target", ["agx-xavier", "rtx-3080"])
def test_affine_and_per_channel_activations_are_refused_by_tensorrt(quantized, tmp_path, form, target):
    """TensorRT takes neither from an activation, and the sentence names the quantizer and the target."""
    path = tmp_path / "model.onnx"
    words = "a zero-point" if form == AFFINE_INPUT else "more than one scale"
    with pytest.raises(LoweringError, match=rf"node 'activation_quantizer_0' .* {words}, which {target} takes"):
        eq.export_onnx(quantized(form), path, target=target)
    assert not path.exists()


@pytest.mark.parametrize("bits", [8, 5])
@pytest.mark.parametrize("form", [PER_CHANNEL_INPUT, AFFINE_INPUT])
@pytest.mark.parametrize("target", ["onnxruntime", "onnxruntime-1.10"])
def test_affine_and_per_channel_activations_in_onnx_runtime(quantized, tmp_path, form, target, bits):
    """ONNX Runtime computes what the eager model computes, with values beyond the range too."""
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 9
    artifact = eq.export_onnx(quantized(form, bits=bits), tmp_path / "model.onnx", target=target, images=images)
    assert artifact.parity_max_abs < 1e-5
    assert str(bits) in artifact.bit_table["conv inputs"]


def test_a_target_without_int8_leaves_affine_activations_out(quantized, tmp_path):
    """The file for TensorRT 8.2 holds no quantizer, and a note counts those that are left out."""
    artifact = eq.export_onnx(quantized(AFFINE_INPUT), tmp_path / "model.onnx", target="jetson-nano")
    assert "2 quantizers of activations are left out of the file for jetson-nano" in artifact.notes


def test_no_marker_is_left_out_because_it_is_unknown(quantized, tmp_path):
    """A marker without a rule for lowering is an error."""
    model = quantized(AFFINE)
    canonical = model.canonical.clone()
    next(node for node in canonical.graph if node.domain == "efficientquant").op_type = "Unheard"
    with pytest.raises(LoweringError, match="Unheard"):
        lower(canonical, eq.get_target("onnxruntime"), model.recipe, tmp_path / "model.onnx")
