"""Tests of reference inputs and outputs, as a device reads them."""

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from efficientquant_controller.fleet.references import COUNT, make_reference
from onnx import TensorProto, helper

SHAPE = (1, 3, 4, 4)
CLASSES = 5


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of a classifier with a second output, the doubled pixels."""
    random = np.random.default_rng(0)
    weights = random.standard_normal((np.prod(SHAPE), CLASSES)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["pixels"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
            helper.make_node("Add", ["pixels", "pixels"], ["doubled"]),
        ],
        "classifier",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, SHAPE)],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, (1, CLASSES)),
            helper.make_tensor_value_info("doubled", TensorProto.FLOAT, SHAPE),
        ],
        [onnx.numpy_helper.from_array(weights, "weights")],
    )
    path = tmp_path_factory.mktemp("artifact") / "classifier.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((COUNT, *SHAPE[1:])).astype(np.float32)


def read(content: bytes) -> Mapping[str, np.ndarray]:
    return np.load(io.BytesIO(content), allow_pickle=False)


def test_what_is_in_it(artifact: Path, images: np.ndarray) -> None:
    """Inputs are keyed by name and outputs by index, with a batch of one per image and no pickles."""
    reference = read(make_reference(artifact, images))
    assert {name: (reference[name].dtype, reference[name].shape) for name in reference} == {
        "input:pixels": (np.float16, (COUNT, *SHAPE)),
        "output:0": (np.float32, (COUNT, 1, CLASSES)),
        "output:1": (np.float32, (COUNT, *SHAPE)),
    }


def test_inputs_are_exact_in_half_the_bytes(artifact: Path, images: np.ndarray) -> None:
    """Outputs are computed from the inputs as rounded to float16, which the doubled pixels show exactly."""
    reference = read(make_reference(artifact, images))
    assert np.array_equal(reference["input:pixels"][:, 0], images.astype(np.float16))
    assert np.array_equal(reference["output:1"], reference["input:pixels"].astype(np.float32) * 2)


def test_outputs_reproduce(artifact: Path, images: np.ndarray) -> None:
    """Running the artifact on the inputs gives the outputs, and a second reference is identical."""
    content = make_reference(artifact, images)
    reference = read(content)
    session = onnxruntime.InferenceSession(str(artifact), providers=["CPUExecutionProvider"])
    for pixels, logits in zip(reference["input:pixels"], reference["output:0"], strict=True):
        (again, _) = session.run(None, {"pixels": pixels.astype(np.float32)})
        np.testing.assert_allclose(again, logits, rtol=1e-5, atol=1e-5)
    assert hashlib.sha256(make_reference(artifact, images)).digest() == hashlib.sha256(content).digest()
