"""What the comparison with the eager model sees, and by which limits."""

import dataclasses
from pathlib import Path

import efficientquant as eq
import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from efficientquant.artifact.parity import OWN_CODES_FACTOR, Parity, measure_parity
from efficientquant.lowering import lower
from efficientquant.quantizers import bypassed, code_quantizers
from efficientquant.targets import get_target
from torch import nn

ORT = get_target("onnxruntime")


@pytest.fixture(scope="module")
def images():
    """Return four pictures."""
    return torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def coded_output(images):
    """Return a model in int8 whose output is a function of codes."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10), nn.ReLU()).eval()
    model.pretrained_cfg = {"input_size": (3, 8, 8)}
    return eq.quantize(model, eq.get_recipe("int8"), images)


def written(quantized):
    variant = lower(quantized.canonical, ORT, quantized.recipe, Path("model.onnx"))
    return variant, ir.to_proto(variant.model)


def change_bias(proto, offset):
    """Add a number to the last layer's bias in a file."""
    bias = next(tensor for tensor in proto.graph.initializer if tensor.dims == [10] and tensor.name.endswith("bias"))
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + np.float32(offset), bias.name))


def test_a_file_agrees_with_its_model(coded_output, images):
    """The codes of the output are the eager model's own."""
    parity = measure_parity(coded_output, *written(coded_output), images)
    assert parity.problem is None
    assert (parity.misplaced_codes, parity.max_abs) == (0, 0.0)


@pytest.mark.parametrize("share", [0.2, -0.45, 0.9])
def test_codes_off_a_boundary_are_refused(coded_output, images, share):
    """A part of a step moves codes by one, and parity sees it."""
    variant, proto = written(coded_output)
    change_bias(proto, share * coded_output.manifest.activation_sites[-1].scale)
    parity = measure_parity(coded_output, variant, proto, images)
    assert (parity.max_abs, parity.largest_step) == (0.0, 1)
    assert "lie on no rounding boundary" in parity.problem


def test_own_codes_are_compared_without_the_others(coded_output, images):
    """The limit is four times what the quantizers of activations change."""
    parity = measure_parity(coded_output, *written(coded_output), images)
    module, largest = coded_output.module, 0.0
    for image in images.split(1):
        with torch.no_grad(), bypassed(module, frozenset(code_quantizers(module))):
            plain = module(image)
        largest = max(largest, float((coded_output(image) - plain).abs().max()))
    assert parity.own_limit == pytest.approx(OWN_CODES_FACTOR * largest)
    assert parity.own_max_abs <= parity.own_limit


def test_logits_with_own_codes_beyond_the_limit_are_refused():
    """The sentence has the difference and the limit."""
    parity = Parity(is_half=False, own_max_abs=0.5, own_limit=0.25)
    assert parity.problem == (
        "with its own codes its logits differ from the eager model's by 5.00e-01, more than 2.50e-01"
    )
    assert dataclasses.replace(parity, own_max_abs=float("nan")).problem is not None
    assert dataclasses.replace(parity, own_max_abs=0.25).problem is None


@pytest.mark.parametrize("recipe", ["fp32", "efficientquant-weights", "int8"])
def test_the_manifest_states_differences_and_limits(models, images_for, recipe, tmp_path):
    """Without quantizers of activations both comparisons are one."""
    quantized = eq.quantize(models["test_vit"], eq.get_recipe(recipe), images_for("test_vit"))
    artifact = eq.export_onnx(quantized, tmp_path / "model.onnx", target="onnxruntime")
    parity = artifact.manifest["parity"]
    assert parity["max_abs"] == artifact.parity_max_abs <= parity["limit"] == 1e-4
    assert parity["own_codes_max_abs"] <= parity["own_codes_limit"]
    if recipe == "int8":
        assert parity["own_codes_limit"] > 1e-4
    else:
        assert (parity["own_codes_max_abs"], parity["own_codes_limit"]) == (parity["max_abs"], 1e-4)
