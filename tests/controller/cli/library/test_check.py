"""`efficientquant check`."""

import json
import sys

import onnx
import pytest
from onnx_graphs import convolution


@pytest.fixture
def artifact(tmp_path):
    """Return an artifact whose one convolution has both inputs quantized."""
    path = tmp_path / "model.onnx"
    onnx.save(convolution(quantize_input=True), path)
    return path


def test_a_real_build(command, artifact):
    """A file that builds exits with 0, prints a table, and says what quantization gains."""
    shown = command("check", str(artifact), "--target", "rtx-3080", "--layers")

    assert shown.exit_code == 0
    assert "verdict" in shown.out
    assert "really built on this machine" in shown.out
    assert "It buys integer arithmetic in 1 of 1 convolutions and matrix products." in shown.out
    first_layer = next(line.split() for line in shown.out.splitlines() if line.startswith("conv "))
    assert first_layer[:3] == ["conv", "conv", "int8"]
    assert "checking model.onnx for rtx-3080" in shown.err


def test_a_predicted_failure(command, artifact):
    """A file that is predicted to fail exits with 1 and names the target."""
    shown = command("check", str(artifact), "--target", "jetson-nano")

    assert shown.exit_code == 1
    assert "predicted from rules, not built" in shown.out
    assert "aborts the build on jetson-nano" in shown.out


def test_without_the_builder(command, artifact, monkeypatch):
    """A build without its builder is refused with the command to install it, but --predict works."""
    monkeypatch.setitem(sys.modules, "tensorrt_rtx_bindings", None)

    refused = command("check", str(artifact), "--target", "rtx-3080")
    predicted = command("check", str(artifact), "--target", "rtx-3080", "--predict")

    assert (refused.exit_code, refused.out) == (2, "")
    assert refused.err.startswith("error: TensorRT-RTX is not installed; ")
    assert refused.err.endswith("[rtx]' adds it, and --predict judges by rules alone\n")
    assert predicted.exit_code == 0
    assert "TensorRT-RTX 1.7: predicted from rules, not built" in predicted.out


def test_json(command, artifact):
    """--json prints the whole verdict, with the exit code of the table."""
    shown = command("check", str(artifact), "--target", "jetson-nano", "--json")

    verdict = json.loads(shown.out)
    assert (shown.exit_code, verdict["outcome"], verdict["basis"]) == (1, "fails", "predicted")
    assert verdict["reasons"][0]["nodes"]


@pytest.mark.parametrize(
    ("name", "target", "problem"),
    [
        ("missing.onnx", "rtx-3080", "there is no such file"),
        ("text.onnx", "jetson-nano", "is not an ONNX file"),
        ("model.onnx", "jetson", "target 'jetson' is not known (available: jetson-nano"),
    ],
)
def test_wrong_inputs(command, artifact, name, target, problem):
    """A wrong file or target is one sentence and exit code 2."""
    (artifact.parent / "text.onnx").write_text("not a model")

    shown = command("check", str(artifact.parent / name), "--target", target)

    assert (shown.exit_code, shown.out) == (2, "")
    assert shown.err.splitlines()[-1].startswith("error: ")
    assert problem in shown.err
