"""What the tests of the library's commands share."""

import onnx
import pytest
from onnx_graphs import convolution


@pytest.fixture
def artifact(tmp_path):
    """Return an artifact whose one convolution has both inputs quantized."""
    path = tmp_path / "model.onnx"
    onnx.save(convolution(quantize_input=True), path)
    return path
