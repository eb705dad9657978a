"""`efficientquant profile`."""

import json
import sys

import onnx
import pytest
from onnx_graphs import convolution


def test_a_table_of_kernels(command, artifact):
    """One screen has the total, each bound's share, the kernels and an advice, and is labelled a model."""
    shown = command("profile", str(artifact), "--target", "rtx-3080")

    assert shown.exit_code == 0
    lines = shown.out.splitlines()
    assert lines[0].startswith("model.onnx for rtx-3080 (TensorRT-RTX ")
    assert lines[1].startswith("a model, no measurement: 2.5 µs a launch")
    assert [line.split()[0] for line in lines[5:8]] == ["launch", "bytes", "arithmetic"]
    assert sum("launch" in line for line in lines[8:]) > 0
    assert lines[-1].startswith("Most of it is launches: ")
    assert len(lines) <= 24


def test_all_kernels(command, artifact):
    """Ten kernels are shown, and all of them with --all."""
    big = artifact.with_name("big.onnx")
    model = convolution(quantize_input=False, quantize_weight=False)
    for index in range(12):
        name = f"softmax_{index}"
        model.graph.node.append(onnx.helper.make_node("Softmax", [model.graph.output[0].name], [name], name=name))
        model.graph.output[0].name = name
    onnx.save(model, big)

    few, every = (command("profile", str(big), "--target", "onnxruntime", *options).out for options in ([], ["--all"]))

    assert "14 kernels" in few
    assert "… and 4 more; --all lists them" in few
    assert "more; --all" not in every
    assert every.count("Softmax") == 12 > few.count("Softmax")
    assert "No time is modelled" in few


def test_json_and_both_pictures(command, artifact, tmp_path):
    """--json has the model by kernel, and a folder gets a PNG and an SVG."""
    shown = command("profile", str(artifact), "--target", "rtx-3080", "--out", str(tmp_path / "new"), "--json")

    stored = json.loads(shown.out)
    assert stored["files"] == [f"{tmp_path}/new/model-roofline.{kind}" for kind in ("png", "svg")]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["model-roofline.png", "model-roofline.svg"]
    assert stored["modelled_s"] == pytest.approx(sum(layer["modelled_s"] for layer in stored["layers"]))
    assert {layer["bound"] for layer in stored["layers"]} <= set(stored["bounds"])
    assert f"made the folder {tmp_path / 'new'}" in shown.err


def test_a_picture_is_written_whole_or_not_at_all(command, artifact, tmp_path):
    """If the second file cannot be written, the first is not there either."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model-roofline.svg").mkdir()

    shown = command("profile", str(artifact), "--target", "rtx-3080", "--out", str(tmp_path / "out"))

    assert (shown.exit_code, shown.out) == (2, "")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model-roofline.svg"]


@pytest.mark.parametrize(
    ("name", "options", "problem"),
    [
        ("missing.onnx", ["--target", "rtx-3080"], "there is no such file"),
        ("model.onnx", ["--target", "toaster"], "target 'toaster' is not known"),
        ("model.onnx", ["--target", "jetson-nano"], "there is no profile for jetson-nano: its builder needs its GPU"),
        ("model.onnx", ["--target", "onnxruntime", "--out", "x.png"], "those of onnxruntime are not known"),
        ("model.onnx", ["--target", "tensorrt-rtx-sm121", "--out", "x.png"], "of tensorrt-rtx-sm121 are not known"),
        ("model.onnx", ["--target", "rtx-3080", "--out", "x.jpg"], "picture x.jpg: can end in .png or .svg"),
        ("model.onnx", ["--target", "rtx-3080", "--out", "model.onnx/x.png"], "is a file where a folder is needed"),
    ],
)
def test_wrong_inputs(command, artifact, monkeypatch, name, options, problem):
    """A wrong file, target or picture is one sentence and exit code 2, before any work."""
    monkeypatch.chdir(artifact.parent)

    shown = command("profile", name, *options)

    assert (shown.exit_code, shown.out) == (2, "")
    assert problem in shown.err
    assert "profiling" not in shown.err
    assert [path.name for path in artifact.parent.iterdir()] == ["model.onnx"]


def test_without_the_builder(command, artifact, monkeypatch):
    """Without TensorRT-RTX the command to install it is named."""
    monkeypatch.setitem(sys.modules, "tensorrt_rtx_bindings", None)

    shown = command("profile", str(artifact), "--target", "rtx-3080")

    assert (shown.exit_code, shown.out) == (2, "")
    assert "TensorRT-RTX is not installed; " in shown.err
