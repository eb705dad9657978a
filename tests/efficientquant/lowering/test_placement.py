"""A file leaves out quantizers with which its runtime would be slower."""

from collections import Counter

import efficientquant as eq
import onnx
import onnxruntime
import pytest
from efficientquant.artifact.view import GraphView

ATTENTION, DEPTHWISE = "float-attention", "float-depthwise"


def operators(artifact):
    """Return how often each operator is in a file."""
    return Counter(node.op_type for node in onnx.load(artifact.path).graph.node)


def optimized(artifact, folder):
    """Return how often each operator is in ONNX Runtime's optimized graph."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(str(artifact.path), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)


def test_onnx_runtime_computes_convolutions_and_linears_in_integers(artifacts, tmp_path):
    """From input to output, with bias and SiLU. Attention stays in float."""
    artifact = artifacts["mobilevit_xxs", "int8", "onnxruntime"]

    counts = optimized(artifact, tmp_path)

    assert (counts["QLinearConv"], counts["QGemm"]) == (35, 37)
    assert (counts["QLinearSigmoid"], counts["QLinearMul"]) == (34, 33)  # the last SiLU feeds a mean
    assert counts["DequantizeLinear"] < 60  # those of activations for what stays in float, none of weights
    assert counts["MatMulNBits"] == counts["MatMulIntegerToFloat"] == counts["Conv"] == 0


@pytest.mark.parametrize(
    ("target", "rules"),
    [
        ("onnxruntime", {ATTENTION: 18}),
        ("rtx-3080", {ATTENTION: 18, DEPTHWISE: 7, "float-stem": 1}),
        ("agx-xavier", {ATTENTION: 18, DEPTHWISE: 7, "float-stem": 1}),
    ],
)
def test_each_rule_is_counted_in_the_notes(artifacts, target, rules):
    """A note names the products that are in float for speed, and how to have them in integers."""
    recipe = "int8" if target == "onnxruntime" else "int8:rest=fp16"
    notes = artifacts["mobilevit_xxs", recipe, target].notes

    assert any(
        note.startswith(f"products in float by the rules for {target}: ")
        and all(f"{rule} ({count})" in note for rule, count in rules.items())
        and note.endswith("; placement=all has them in integers")
        for note in notes
    )


def test_all_quantizers_stay_where_they_are_asked_for(artifacts):
    """With placement=all a file has the quantizers that its target can compute with."""
    fast, whole = (
        operators(artifacts["mobilevit_xxs", recipe, "rtx-3080"]) for recipe in ("int8:rest=fp16", "int8:placement=all")
    )
    assert whole["QuantizeLinear"] > fast["QuantizeLinear"]
    assert not any("in float" in note for note in artifacts["mobilevit_xxs", "int8:placement=all", "rtx-3080"].notes)


def test_tensorrt_keeps_integers_beside_fp32(artifacts):
    """Where the rest is FP32, integers are faster than what the rules would leave in float."""
    default, whole = (
        operators(artifacts["mobilevit_xxs", recipe, "rtx-3080"]) for recipe in ("int8", "int8:placement=all")
    )
    assert default == whole


def test_tensorrt_has_no_quantizer_behind_a_joint_projection(artifacts):
    """Behind the bias of queries, keys and values stands no quantizer, which would end the fused attention."""
    view = GraphView(onnx.load(artifacts["mobilevit_xxs", "int8:rest=fp16", "rtx-3080"].path))
    products = [node for node in view.nodes if node.op_type == "MatMul" and not any(map(view.is_constant, node.input))]

    assert len(products) == 18
    assert not any(view.is_dequantized(name) for node in products for name in node.input)


@pytest.mark.parametrize("recipe", ["efficientquant:log2_emulation=drop", "efficientquant-w4"])
def test_onnx_runtime_decodes_weights_of_float_products_once(artifacts, recipe, tmp_path):
    """They are integers in the file, and floats after the session's start."""
    artifact = artifacts["mobilevit_xxs", recipe, "onnxruntime"]
    verdict = eq.check(artifact.path, "onnxruntime")

    counts = optimized(artifact, tmp_path)

    assert counts["DequantizeLinear"] == counts["MatMulNBits"] == 0
    assert verdict.facts["quantized_weights"] == (35 if recipe.startswith("efficientquant:") else 72)
    assert "decoded when the file is loaded" in verdict.gain.replace("dequantized", "decoded")
