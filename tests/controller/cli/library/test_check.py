"""`efficientquant check`."""

import json
import sys

import onnx
import pytest
from onnx_graphs import convolution


def test_a_real_build(command, artifact):
    """A file that builds exits with 0, prints a table, and says what quantization gains."""
    shown = command("check", str(artifact), "--target", "rtx-3080", "--layers")

    assert shown.exit_code == 0
    assert "verdict" in shown.out
    assert "really built on this machine" in shown.out
    assert "It buys integer arithmetic in 1 of 1 convolutions and matrix products; against its fp16 twin: " in shown.out
    first_layer = next(line.split() for line in shown.out.splitlines() if line.startswith("conv "))
    assert first_layer[:3] == ["conv", "conv", "int8"]
    assert "checking model.onnx for rtx-3080" in shown.err


def test_a_quantized_file_stands_next_to_its_twin(command, artifact):
    """The table compares kernels, weights, plan and a labelled, modelled time."""
    shown = command("check", str(artifact), "--target", "rtx-3080")

    rows = [line.partition("  ")[0] for line in shown.out[shown.out.index("compared") :].splitlines()[2:8]]
    assert rows == [
        "kernels",
        "fused attentions",
        "dequantize kernels",
        "weights",
        "plan",
        "modelled time (a model, no measurement)",
    ]
    assert "(its fp16 twin: this file without its quantizers)" in shown.out


def test_a_float_file_is_compared_with_nothing(command, tmp_path):
    """A file without quantizers has no twin, and --against compares it with another file."""
    path, other = tmp_path / "float.onnx", tmp_path / "silu.onnx"
    onnx.save(convolution(quantize_input=False, quantize_weight=False), path)
    onnx.save(convolution(quantize_input=True), other)

    alone = command("check", str(path), "--target", "onnxruntime")
    beside = command("check", str(path), "--target", "onnxruntime", "--against", str(other), "--json")

    assert (alone.exit_code, "compared" in alone.out, "against" in alone.out) == (0, False, False)
    comparison = json.loads(beside.out)["comparison"]
    assert comparison["with"] == "silu.onnx"
    assert set(comparison["artifact"]) == set(comparison["other"]) == {"nodes", "dequantize_nodes", "file_bytes"}


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--target", "jetson-nano", "--against", "model.onnx"], "the verdict of jetson-nano follows rules"),
        (["--target", "rtx-3080", "--predict", "--against", "model.onnx"], "--predict follows rules"),
        (["--target", "rtx-3080", "--against", "missing.onnx"], "missing.onnx: there is no such file"),
    ],
)
def test_what_cannot_be_compared(command, artifact, monkeypatch, options, problem):
    """`--against` without a build or file is refused before any work."""
    monkeypatch.chdir(artifact.parent)

    shown = command("check", str(artifact), *options)

    assert (shown.exit_code, shown.out) == (2, "")
    assert problem in shown.err
    assert "checking" not in shown.err


def test_a_predicted_failure(command, artifact):
    """A file that is predicted to fail exits with 1 and names the target."""
    shown = command("check", str(artifact), "--target", "jetson-nano")

    assert shown.exit_code == 1
    assert "predicted from rules, not built" in shown.out
    assert "aborts the build on jetson-nano" in shown.out


def test_a_prediction_is_not_compared(command, artifact):
    """For a predicted target the output says that nothing is compared."""
    shown = command("check", str(artifact), "--target", "tensorrt-10")

    assert shown.exit_code == 0
    assert "Not compared with a float twin: nothing is built here for tensorrt-10." in shown.out


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


def test_openvino_compiles_the_file(command, artifact, monkeypatch):
    """OpenVINO compiles the file, and its absence names the install command."""
    shown = command("check", str(artifact), "--target", "openvino")
    monkeypatch.setitem(sys.modules, "openvino", None)
    refused = command("check", str(artifact), "--target", "openvino")

    assert (shown.exit_code, refused.exit_code) == (0, 2)
    assert (
        "It buys integer arithmetic in 1 of 1 convolutions and matrix products; against its float twin: " in shown.out
    )
    assert refused.err.startswith("error: OpenVINO is not installed; ")
    assert refused.err.endswith("[openvino]' adds it\n")


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
