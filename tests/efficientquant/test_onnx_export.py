import dataclasses
import hashlib
import os
import subprocess
import sys

import efficientquant as eq
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from efficientquant.errors import ArtifactError
from efficientquant.onnx_export import _check
from efficientquant.parity import measure_parity
from efficientquant.recipe import Granularity, Log2Form

CONVOLUTIONS = {"mobilevit_xxs": 35, "mobilevitv2_050": 64}
SMALLER = {"mobilevit_xxs": 1.3, "mobilevitv2_050": 2.4}
NOT_IN_TENSORRT_8 = {"LayerNormalization", "InstanceNormalization", "GroupNormalization", "Gelu", "HardSwish", "Mod"}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_one_dequantize_per_quantized_weight(artifacts, name):
    """Every convolution weight is int8 behind a three-input DequantizeLinear on axis 0; fp32 has none."""
    graph = onnx.load(artifacts[name, "efficientquant"].path).graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    nodes = [node for node in graph.node if node.op_type == "DequantizeLinear"]
    assert len(nodes) == CONVOLUTIONS[name]
    for node in nodes:
        assert [types[i] for i in node.input] == [onnx.TensorProto.INT8, onnx.TensorProto.FLOAT, onnx.TensorProto.INT8]
        assert [(a.name, a.i) for a in node.attribute] == [("axis", 0)]
    assert "DequantizeLinear" not in {n.op_type for n in onnx.load(artifacts[name, "fp32"].path).graph.node}


@pytest.mark.parametrize("name", SMALLER)
def test_int8_weights_make_the_file_smaller(artifacts, name):
    """EfficientQuant's file is at least 1.3 × smaller for v1 and 2.4 × for v2."""
    fp32, int8 = artifacts[name, "fp32"], artifacts[name, "efficientquant"]
    assert int8.path.stat().st_size == int8.size_bytes
    assert fp32.size_bytes / int8.size_bytes >= SMALLER[name]


def test_artifacts_are_opset_13_without_later_operators(artifacts):
    """Opset 13, IR 8, reductions with axes attributes, a batch of one, and no operator that TensorRT 8 lacks."""
    for artifact in artifacts.values():
        model = onnx.load(artifact.path)
        assert [(o.domain, o.version) for o in model.opset_import] == [("", 13)]
        assert model.ir_version == 8
        assert not NOT_IN_TENSORRT_8 & {node.op_type for node in model.graph.node}
        assert all(len(node.input) == 1 for node in model.graph.node if node.op_type == "ReduceMean")
        assert [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == [1, 3, 256, 256]


def test_artifacts_hold_no_paths_of_this_machine(artifacts):
    """No stack trace, file name or folder reaches an artifact."""
    for artifact in artifacts.values():
        content = artifact.path.read_bytes()
        assert b".py" not in content
        assert b"site-packages" not in content


def test_parity_on_real_images(artifacts):
    """Every artifact agreed with its eager model to 1e-4 on photographs."""
    assert all(artifact.parity_max_abs <= 1e-4 for artifact in artifacts.values())


def test_the_file_by_itself_computes_the_eager_logits(artifacts, quantized, real_images):
    """A plain session on the written file gives the eager model's logits and argmax."""
    session = onnxruntime.InferenceSession(str(artifacts["mobilevit_xxs", "efficientquant"].path))
    (logits,) = session.run(["logits"], {"input": real_images[:1].numpy()})
    with torch.no_grad():
        eager = quantized["mobilevit_xxs", "efficientquant"].module(real_images[:1]).numpy()
    assert np.abs(logits - eager).max() <= 1e-3  # a code on a boundary may move
    assert logits.argmax() == eager.argmax()


def test_the_hash_is_the_files(artifacts):
    """sha256 names the bytes on disk."""
    for artifact in artifacts.values():
        assert artifact.sha256 == hashlib.sha256(artifact.path.read_bytes()).hexdigest()


def test_another_process_writes_the_same_bytes(artifacts, real_images, tmp_path):
    """The same model, recipe, images and seed give the same SHA-256 in a process with another hash seed."""
    torch.save(real_images, tmp_path / "images.pt")
    program = (
        "import sys, torch, efficientquant as eq\n"
        "model = eq.create_model('mobilevitv2_050', 'random')\n"
        "images = torch.load(sys.argv[1])\n"
        "quantized = eq.quantize(model, eq.get_recipe('efficientquant'), images)\n"
        "print(eq.export_onnx(quantized, sys.argv[2], images=images).sha256)\n"
    )
    command = [sys.executable, "-c", program, tmp_path / "images.pt", tmp_path / "model.onnx"]
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert done.stdout.split()[-1] == artifacts["mobilevitv2_050", "efficientquant"].sha256


@pytest.mark.parametrize(
    "options",
    [
        {"granularity": Granularity.PER_TENSOR, "softmax_bits": None},
        {"log2_form": Log2Form.DATA_FREE, "weight_bits": 4, "softmax_bits": 4},
    ],
    ids=str,
)
def test_every_option_exports(models, real_images, tmp_path, options):
    """Per-tensor weights alone, and form G with fewer bits, pass the same checks."""
    recipe = dataclasses.replace(eq.get_recipe("efficientquant"), **options)
    quantized = eq.quantize(models["mobilevitv2_050"], recipe, real_images)
    artifact = eq.export_onnx(quantized, tmp_path / "model.onnx", images=real_images)
    assert artifact.parity_max_abs <= 1e-4


def test_a_file_that_disagrees_is_not_kept(quantized, real_images, tmp_path):
    """A wrong weight in the file is found by the parity check, and nothing is left behind."""
    original = quantized["mobilevitv2_050", "efficientquant"]
    name, weight = next(iter(original.weights.items()))
    wrong = dataclasses.replace(weight, scale=weight.scale * 1.5)
    broken = dataclasses.replace(original, weights={**original.weights, name: wrong})
    with pytest.raises(ArtifactError, match="differ from the eager model's"):
        eq.export_onnx(broken, tmp_path / "model.onnx", images=real_images)
    assert list(tmp_path.iterdir()) == []


def test_moved_codes_do_not_excuse_other_differences(quantized, artifacts, real_images):
    """With the log2 codes held equal, a wrong convolution is still seen."""
    proto = onnx.load(artifacts["mobilevitv2_050", "efficientquant"].path)
    scale = next(tensor for tensor in proto.graph.initializer if tensor.name.endswith("conv_1x1.weight_scale"))
    scale.raw_data = (onnx.numpy_helper.to_array(scale) * np.float32(1.5)).tobytes()
    parity = measure_parity(quantized["mobilevitv2_050", "efficientquant"], proto, real_images[:1])
    assert parity.max_abs > 1e-4 or parity.largest_step > 1


def test_a_missing_dequantize_is_refused(artifacts, tmp_path):
    """The number of DequantizeLinear nodes has to be the number of quantized weights."""
    proto = onnx.load(artifacts["mobilevit_xxs", "efficientquant"].path)
    with pytest.raises(ArtifactError, match="35 DequantizeLinear nodes for 36"):
        _check(proto, 36, tmp_path / "model.onnx")
