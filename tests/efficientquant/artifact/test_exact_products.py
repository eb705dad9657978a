"""Products of unsigned with signed codes, which saturate on x86 CPUs without VNNI."""

import efficientquant as eq
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from efficientquant.artifact import exact_products
from efficientquant.artifact.exact_products import products_saturate
from efficientquant.artifact.parity import measure_optimizations
from efficientquant.artifact.runners import ArtifactRunner
from onnx import TensorProto
from torch import nn


@pytest.fixture(scope="module")
def images():
    return torch.ones(4, 3, 8, 8)


@pytest.fixture(scope="module")
def extreme(images):
    """Return a quantized model whose codes are the largest ones everywhere."""
    model = nn.Sequential(
        nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 3), nn.Conv2d(16, 8, 1), nn.Flatten(), nn.Linear(8 * 36, 5)
    ).eval()
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.05)
    model.pretrained_cfg = {"input_size": (3, 8, 8)}
    return eq.quantize(model, eq.get_recipe("int8"), images)


@pytest.fixture
def file_for(extreme, images, tmp_path):
    """Return a function that exports the model for a target."""
    return lambda target: eq.export_onnx(extreme, tmp_path / f"{target}.onnx", target=target, images=images)


@pytest.fixture
def without_vnni(monkeypatch):
    """Make this a CPU whose products saturate, for all that asks."""
    monkeypatch.setattr(exact_products, "products_saturate", lambda: True)


def ordinary_logits(path, images):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"input": image[None].numpy()})[0] for image in images])


def are_close(logits, reference):
    return bool(np.abs(logits - reference.numpy()).max() < 0.02 * reference.abs().max())


def test_unsigned_weights_are_exact_on_every_cpu(file_for, extreme, images):
    """The portable file's products of the largest codes are right, with VNNI or without."""
    assert are_close(ordinary_logits(file_for("onnxruntime").path, images), extreme(images))


def test_signed_weights_are_exact_where_the_probe_says_so(file_for, extreme, images):
    """The signed file's products of the largest codes are right exactly where one product was."""
    is_right = are_close(ordinary_logits(file_for("onnxruntime-vnni").path, images), extreme(images))
    assert is_right == (not products_saturate())


@pytest.mark.usefixtures("without_vnni")
def test_a_session_can_avoid_saturation(file_for, extreme, images):
    """ONNX Runtime makes the same products of signed weights that it stores as unsigned."""
    artifact = file_for("onnxruntime-vnni")
    logits = ArtifactRunner(artifact.path, {}, exact_products=True).run(images)
    assert are_close(logits.numpy(), extreme(images))
    assert measure_optimizations(onnx.load(artifact.path), images, artifact.path, exact_products=True) < 0.1


@pytest.mark.parametrize(("target", "is_asked"), [("onnxruntime-vnni", True), ("onnxruntime", False)])
def test_an_evaluation_avoids_saturation(file_for, extreme, tmp_path, monkeypatch, target, is_asked):
    """An artifact for exact products is evaluated with them, also on another CPU."""
    np.savez(tmp_path / "images.npz", images=np.full((2, 8, 8, 3), 255, np.uint8))
    artifact, asked = file_for(target), []
    monkeypatch.setattr(exact_products, "products_saturate", lambda: asked.append(target) is None)
    eq.evaluate(artifact, eq.open_images(tmp_path / "images.npz", extreme.input_spec))
    assert bool(asked) == is_asked


@pytest.mark.usefixtures("without_vnni")
def test_a_cpu_without_vnni_is_noted(file_for):
    """The artifact says that its check ran with the products of another CPU."""
    sentence = "products saturate on this CPU, which has no VNNI; ONNX Runtime checked the file with the exact products"
    assert any(sentence in note for note in file_for("onnxruntime-vnni").notes)
    assert not any(sentence in note for note in file_for("onnxruntime").notes)


@pytest.mark.skipif(not exact_products.is_x86(), reason="only x86 has kernels that saturate")
@pytest.mark.parametrize("saturates", [False, True])
def test_weights_become_unsigned_only_where_signed_ones_saturate(file_for, tmp_path, monkeypatch, saturates):
    """A CPU with exact products keeps its kernels, and any other stores the weights as unsigned."""
    path = file_for("onnxruntime-vnni").path
    monkeypatch.setattr(exact_products, "products_saturate", lambda: saturates)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "optimized.onnx"), 3
    exact_products.avoid_saturation(options)
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    graph = onnx.load(tmp_path / "optimized.onnx").graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    weights = {types[node.input[3]] for node in graph.node if node.op_type in ("QLinearConv", "QGemm")}
    assert weights == {TensorProto.UINT8 if saturates else TensorProto.INT8}
