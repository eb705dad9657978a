"""Verdicts of targets on files."""

import json

import numpy as np
import onnxruntime
import pytest
from efficientquant import check
from efficientquant.artifact import exact_products
from efficientquant.errors import ArtifactFileError, UnknownTargetError
from onnx import TensorProto
from onnx_graphs import GraphWriter, convolution


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


def signed_product(codes):
    """Return a convolution of unsigned activations with signed codes."""
    write = GraphWriter()
    scale, zero = write.constant("scale", np.float32(0.05)), write.constant("zero", np.uint8(128))
    signed = write.constant("signed", np.int8(0))

    def rounded(value):
        return write.add("DequantizeLinear", write.add("QuantizeLinear", value, scale, zero), scale, zero)

    weight = write.add("DequantizeLinear", write.constant("w", codes), scale, signed)
    rounded(write.add("Conv", rounded("x"), weight, name="conv"))
    return write.model()


LARGE, SAFE = (np.full((8, 8, 3, 3), code, np.int8) for code in (127, -64))


@pytest.mark.parametrize("target", ["onnxruntime", "onnxruntime-1.10"])
def test_signed_weights_are_named_where_they_may_saturate(saved, target):
    """The file builds, and a reason names VNNI where codes are larger than 64."""
    verdict, safe = check(saved(signed_product(LARGE)), target), check(saved(signed_product(SAFE)), target)

    assert [(reason.rule, str(reason.outcome)) for reason in verdict.reasons] == [("saturation", "builds")]
    assert "1 integer products have signed weights and saturate on an x86 CPU without VNNI" in str(verdict.reasons[0])
    assert ("onnxruntime-vnni" in str(verdict.reasons[0])) == (target == "onnxruntime")
    assert (verdict.outcome, safe.outcome, safe.reasons) == ("builds", "builds", ())


@pytest.mark.parametrize("saturates", [False, True])
def test_a_target_with_exact_products_is_compared_with_this_cpu(saved, monkeypatch, saturates):
    """The verdict says whether this CPU keeps the target's promise."""
    monkeypatch.setattr(exact_products, "products_saturate", lambda: saturates)
    verdict, safe = (check(saved(signed_product(codes)), "onnxruntime-vnni") for codes in (LARGE, SAFE))

    assert verdict.facts["products_on_this_cpu"] == ("saturating" if saturates else "exact")
    assert [reason.rule for reason in verdict.reasons] == ["saturation"] * saturates
    assert all("onnxruntime-vnni promises a CPU with VNNI, and this one has none" in str(r) for r in verdict.reasons)
    assert (verdict.outcome, safe.reasons) == ("builds", ())


def test_onnx_runtime_refuses_what_it_has_no_kernel_for(saved):
    """The error of a session's creation is the verdict's reason."""
    write = GraphWriter()
    write.add("Marker", "x", name="marker", domain="custom")

    verdict = check(saved(write.model()), "onnxruntime")

    assert (verdict.outcome, verdict.gain) == ("fails", "nothing there: it does not load")
    assert any("ONNX Runtime does not load it" in str(reason) for reason in verdict.reasons)


@pytest.mark.parametrize("scale", [0.0, -0.05, np.nan, np.inf])
def test_onnx_runtime_does_not_excuse_a_scale(saved, scale):
    """The session takes a scale that is no positive number, and the verdict names its node."""
    write = GraphWriter()
    write.quantized("x", scale)

    verdict = check(saved(write.model()), "onnxruntime")

    assert (verdict.outcome, verdict.reasons[0].rule) == ("fails", "scale-value")
    assert "'quantizelinear_0' (QuantizeLinear) has a scale that is not a positive number" in str(verdict.reasons[0])
    assert verdict.gain == "nothing there: it loads, and its scales give no meaningful numbers"


@pytest.mark.parametrize("index", [1, 4, 6])
def test_the_scales_of_an_integer_convolution_count_too(saved, index):
    """QLinearConv has three scales, and each is checked."""
    write = GraphWriter()
    scale, zero = write.constant("scale", np.float32(0.1)), write.constant("zero", np.int8(0))
    bad = write.constant("bad", np.float32(-1))
    codes = write.add("QuantizeLinear", "x", scale, zero)
    weight = write.constant("w", np.ones((8, 8, 3, 3), np.int8))
    inputs = [codes, scale, zero, weight, scale, zero, scale, zero]
    inputs[index] = bad
    write.add("DequantizeLinear", write.add("QLinearConv", *inputs, name="conv"), scale, zero)

    verdict = check(saved(write.model()), "onnxruntime")

    assert (verdict.outcome, verdict.reasons[0].nodes) == ("fails", ("conv",))


@pytest.mark.parametrize("element_type", [TensorProto.UINT8, TensorProto.INT64, TensorProto.FLOAT16, TensorProto.BOOL])
@pytest.mark.parametrize("target", ["onnxruntime", "onnxruntime-1.10"])
def test_other_inputs_load_with_a_remark(saved, element_type, target):
    """One verdict: the session loads it, and the agents feed FP32."""
    write = GraphWriter()
    write.add("Cast", "x", to=TensorProto.FLOAT)

    verdict = check(saved(write.model(element_type=element_type)), target)

    assert (verdict.outcome, verdict.basis) == ("builds", "loaded")
    assert "does not load" not in verdict.gain
    assert [(reason.rule, str(reason.outcome)) for reason in verdict.reasons] == [("io-type", "builds")]
    assert "the agents feed and read FP32 only" in str(verdict.reasons[0])


def test_an_integer_output_and_an_operator_of_its_own_load_too(saved):
    """ONNX Runtime knows operators beyond the standard and gives any type."""
    write = GraphWriter()
    write.add("Gelu", "x", name="gelu", domain="com.microsoft")
    model = write.model()
    model.opset_import[1].domain = "com.microsoft"
    codes = GraphWriter()
    codes.add("QuantizeLinear", "x", codes.constant("scale", np.float32(0.1)), codes.constant("zero", np.int8(0)))

    own, integer = check(saved(model), "onnxruntime"), check(saved(codes.model(output=TensorProto.INT8)), "onnxruntime")

    assert (own.outcome, own.reasons) == ("builds", ())
    assert (integer.outcome, integer.reasons[0].rule) == ("builds", "io-type")


def test_a_dynamic_image_size_loads_with_a_remark(saved):
    """The session needs no size, and a run of the fleet does."""
    write = GraphWriter()
    write.add("Relu", "x")

    verdict = check(saved(write.model(shape=("N", 8, "H", "W"))), "onnxruntime")

    assert (verdict.outcome, verdict.reasons[0].rule) == ("builds", "dynamic-size")
    assert "no size in dimensions 2 ('H') and 3 ('W')" in str(verdict.reasons[0])


def test_an_older_onnx_runtime_is_judged_by_the_opset(saved):
    """The installed version loads opset 18, 1.10 does not."""
    write = GraphWriter()
    write.add("ReduceMean", "x", write.constant("axes", np.array([2, 3])), name="mean")
    path = saved(write.model(opset=18))

    new, old = check(path, "onnxruntime"), check(path, "onnxruntime-1.10")

    assert (new.outcome, old.outcome) == ("builds", "fails")
    assert old.gain == "nothing there: the installed release loads it, onnxruntime-1.10 is not known to read it"


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
    assert verdict.facts["dequantize_nodes"] == 0
    assert verdict.facts["quantized_weights"] == (35 if recipe == "efficientquant" else 0)


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
