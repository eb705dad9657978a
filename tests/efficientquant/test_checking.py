"""Verdicts of targets on files."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from efficientquant import check
from efficientquant.errors import ArtifactFileError, UnknownTargetError
from onnx_graphs import GraphWriter, convolution


@pytest.fixture
def saved(tmp_path):
    """Return a function that saves a model and returns its path."""

    def save(model):
        path = tmp_path / "model.onnx"
        onnx.save(model, path)
        return path

    return save


def test_onnx_runtime_dequantizes_weights_that_stand_alone(saved):
    """The session's own optimized graph shows a float convolution and a DequantizeLinear before it."""
    verdict = check(saved(convolution(quantize_input=False)), "onnxruntime-1.10")

    assert (verdict.outcome, verdict.basis) == ("builds_with_fallback", "loaded")
    assert verdict.precisions() == {"conv": {"fp32": 1}}
    assert verdict.facts["dequantize_nodes"] == 1
    assert verdict.gain.startswith("storage only: 1 weights are int8 in the file and dequantized on every inference")
    assert onnxruntime.__version__ in verdict.runtime


def test_onnx_runtime_computes_in_integers_between_quantizers(saved):
    """A convolution with quantized input, weight and output becomes QLinearConv."""
    write = GraphWriter()
    y = write.add("Conv", write.quantized("x"), write.stored_weight("w", (8, 8, 3, 3)), name="conv")
    write.quantized(y)

    verdict = check(saved(write.model()), "onnxruntime")

    assert (verdict.outcome, verdict.facts["operators"]["QLinearConv"]) == ("builds", 1)
    assert verdict.gain == "integer arithmetic in 1 of 1 convolutions and matrix products"


def test_onnx_runtime_refuses_what_it_has_no_kernel_for(saved):
    """The error of a session's creation is the verdict's reason."""
    write = GraphWriter()
    write.add("Marker", "x", name="marker", domain="custom")

    verdict = check(saved(write.model()), "onnxruntime")

    assert (verdict.outcome, verdict.gain) == ("fails", "nothing there: it does not load")
    assert any("ONNX Runtime does not load it" in str(reason) for reason in verdict.reasons)


def test_an_older_onnx_runtime_is_judged_by_the_opset(saved):
    """The installed version loads opset 18, 1.10 does not."""
    write = GraphWriter()
    write.add("ReduceMean", "x", write.constant("axes", np.array([2, 3])), name="mean")
    path = saved(write.model(opset=18))

    assert (check(path, "onnxruntime").outcome, check(path, "onnxruntime-1.10").outcome) == ("builds", "fails")


@pytest.mark.parametrize("target", ["jetson-nano", "agx-xavier", "rtx-3080", "onnxruntime"])
def test_a_verdict_is_json(saved, target):
    """Every verdict, predicted, built or loaded, can be stored with a result."""
    verdict = json.loads(json.dumps(check(saved(convolution(quantize_input=True)), target).to_dict()))

    assert verdict["target"] == target
    assert {"outcome", "basis", "gain", "reasons", "precisions", "layers", "facts"} <= set(verdict)
    assert [layer["operator"] for layer in verdict["layers"]] == ["conv"]


@pytest.mark.parametrize("recipe", ["fp32", "efficientquant"])
def test_the_widest_form_of_a_hybrid_loads(artifacts, recipe):
    """The verdict covers every convolution, linear and attention product of mobilevit_xxs, all in float."""
    verdict = check(artifacts["mobilevit_xxs", recipe].path, "onnxruntime-1.10")

    assert verdict.precisions() == {"conv": {"fp32": 35}, "linear": {"fp32": 37}, "product": {"fp32": 18}}
    assert verdict.facts["dequantize_nodes"] == (35 if recipe == "efficientquant" else 0)


def test_wrong_files_and_targets_are_one_sentence(tmp_path):
    """A missing file, a folder, text, an empty file and an unknown target are refused with one sentence each."""
    (tmp_path / "text.onnx").write_text("not a model")
    (tmp_path / "empty.onnx").touch()
    for name, problem in (
        ("missing.onnx", "there is no such file"),
        (".", "directory"),
        ("text.onnx", "not an ONNX file"),
        ("empty.onnx", "not an ONNX file"),
    ):
        with pytest.raises(ArtifactFileError, match=problem):
            check(tmp_path / name, "rtx-3080")
    with pytest.raises(UnknownTargetError, match=r"available: jetson-nano"):
        check(tmp_path / "text.onnx", "jetson")
