"""Each target gets the form it can build, and every form computes the same."""

from collections import Counter

import efficientquant as eq
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from efficientquant import check
from efficientquant.artifact.validation import find_violations
from efficientquant.primitives import sqnr_db
from efficientquant.targets import get_target
from onnx import TensorProto
from torch import nn

# The types of (activations, weights).
CODES = {
    "rtx-3080": (np.int8, np.int8),
    "agx-xavier": (np.int8, np.int8),
    "onnxruntime": (np.uint8, np.uint8),
    "onnxruntime-vnni": (np.uint8, np.int8),
}


def operators(artifact):
    return Counter(node.op_type for node in onnx.load(artifact.path).graph.node)


@pytest.mark.parametrize(
    "target", ["jetson-nano", "agx-xavier", "rtx-3080", "tensorrt-10", "onnxruntime", "onnxruntime-vnni"]
)
@pytest.mark.parametrize("recipe", ["efficientquant", "int8"])
def test_a_variant_keeps_its_targets_rules_and_the_logits(artifacts, recipe, target):
    """Every variant passed parity with what it computes of the recipe, and breaks no rule of its target."""
    artifact = artifacts["mobilevit_xxs", recipe, target]
    assert artifact.parity_max_abs <= 1e-4
    assert find_violations(onnx.load(artifact.path), get_target(target)) == []
    assert (artifact.opset, artifact.target) == (get_target(target).opset, target)


def test_a_nano_gets_dequantized_weights(artifacts):
    """Where INT8 aborts the build there is no Q/DQ, the weights are FP32 and the notes and bits say so."""
    artifact = artifacts["mobilevit_xxs", "int8", "jetson-nano"]
    assert not operators(artifact).keys() & {"QuantizeLinear", "DequantizeLinear"}
    assert {t.data_type for t in onnx.load(artifact.path).graph.initializer} == {TensorProto.FLOAT, TensorProto.INT64}
    assert any("72 quantized weights are stored in float: jetson-nano" in note for note in artifact.notes)
    assert (artifact.bit_table["conv inputs"], artifact.bit_table["conv weights"]) == ("32", "8 per-channel")


def test_a_xavier_gets_int8_only_where_both_inputs_have_it(artifacts):
    """Weights alone are folded back, and with activations they are FP32 constants that the builder quantizes."""
    weights_only, both = (artifacts["mobilevit_xxs", r, "agx-xavier"] for r in ("efficientquant", "int8"))
    assert "DequantizeLinear" not in operators(weights_only)
    assert weights_only.builder_flags == ()
    assert both.builder_flags == ("int8",)
    assert operators(both)["QuantizeLinear"] == operators(both)["DequantizeLinear"]
    assert TensorProto.INT8 not in {
        tensor.data_type for tensor in onnx.load(both.path).graph.initializer if "zero_point" not in tensor.name
    }


def test_a_xavier_keeps_depthwise_convolutions_in_float(artifacts):
    """TensorRT 8.5 has no INT8 kernel for one with SiLU behind it."""
    artifact = artifacts["mobilevit_xxs", "int8:output_bits=none:placement=all", "agx-xavier"]
    verdict = check(artifact.path, "agx-xavier", predict_only=True)
    assert verdict.outcome == "builds"
    assert verdict.precisions()["conv"] == {"int8": 28, "fp16": 7}
    assert "7 quantized weights are stored in float: agx-xavier takes no int8 there" in artifact.notes
    assert "7 quantizers of activations are left out of the file for agx-xavier" in artifact.notes


@pytest.mark.parametrize(
    ("target", "kinds"),
    [
        ("rtx-3080", set()),
        ("tensorrt-10", set()),
        ("agx-xavier", {"depthwise"}),
        ("onnxruntime", {"depthwise", "dense"}),
        ("openvino", set()),
    ],
)
def test_tensorrt_fuses_functions_with_their_convolutions(artifacts, target, kinds):
    """Between a convolution and its SiLU, TensorRT gets no quantizer.

    ONNX Runtime needs it for products of integers, and TensorRT 8.5 behind depthwise convolutions.
    """
    graph = onnx.load(artifacts["mobilevit_xxs", "int8:placement=all", target].path).graph
    producers = {name: node for node in graph.node for name in node.output}
    between = set()
    for node in graph.node:
        path = [node]
        while path[-1].op_type in ("Sigmoid", "DequantizeLinear", "QuantizeLinear") and path[-1].input[0] in producers:
            path.append(producers[path[-1].input[0]])
        if [step.op_type for step in path[:4]] == ["Sigmoid", "DequantizeLinear", "QuantizeLinear", "Conv"]:
            groups = next((a.i for a in path[-1].attribute if a.name == "group"), 1)
            between.add("depthwise" if groups > 1 else "dense")
    assert between == kinds


@pytest.mark.parametrize("function", [nn.Hardswish(), nn.Mish(), nn.GELU()])
def test_other_functions_are_fused_too(tmp_path, function):
    """A convolution's output is float in front of a function of one operator, or of a GELU."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), function, nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(64, 5)).eval()
    model.pretrained_cfg = {"input_size": (3, 8, 8)}
    quantized = eq.quantize(model, eq.get_recipe("int8:placement=all"), torch.randn(4, 3, 8, 8))
    artifact = eq.export_onnx(quantized, tmp_path / "model.onnx", target="rtx-3080")
    assert artifact.bit_table["conv outputs"] == "32 (1 of 2), 8 (1 of 2)"


def test_the_bits_count_what_is_left_out(artifacts):
    """Activations whose quantizers a file lacks count as float in its own bit table."""
    everywhere, bits = (
        artifacts["mobilevit_xxs", recipe, target].bit_table
        for recipe, target in (("int8:placement=all", "onnxruntime"), ("int8:rest=fp16", "rtx-3080"))
    )
    assert (everywhere["conv outputs"], everywhere["product inputs"], everywhere["linear inputs"]) == ("8", "8", "8")
    assert (bits["product inputs"], bits["linear inputs"]) == ("16", "8")
    # Those of four convolutions are other convolutions' inputs.
    assert bits["conv outputs"] == "16 (31 of 35), 8 (4 of 35)"


@pytest.mark.parametrize("target", CODES)
def test_each_target_gets_codes_of_its_kernels(artifacts, target):
    """Codes are int8 with zero-point 0 or uint8 with 128, the latter for ONNX Runtime's activations.

    A sigmoid has uint8 codes with zero-point 0.
    """
    graph = onnx.load(artifacts["mobilevit_xxs", "int8", target].path).graph
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    coders = [node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    activations = [node for node in coders if node.input[0] not in constants]
    weights = [node for node in coders if node.input[0] in constants]
    for nodes, kind in zip((activations, weights), CODES[target], strict=True):
        zero_points = {(z.dtype.type, int(z.flat[0])) for z in (constants[node.input[2]] for node in nodes)}
        of_sigmoids = {(np.uint8, 0)} if kind is np.uint8 and nodes is activations else set()
        assert zero_points == {(kind, 128 if kind is np.uint8 else 0)} | of_sigmoids


def test_integer_kernels_do_not_saturate(artifacts, quantized, real_images):
    """With all of ONNX Runtime's optimizations, int8 logits agree with the eager model's by more than 20 dB."""
    session = onnxruntime.InferenceSession(str(artifacts["mobilevit_xxs", "int8", "onnxruntime"].path))
    logits = [session.run(None, {"input": image[None].numpy()})[0] for image in real_images]
    eager = quantized["mobilevit_xxs", "int8"](real_images)
    assert sqnr_db(eager, torch.from_numpy(np.concatenate(logits))) > 20


def test_fp16_is_typed_or_a_flag(artifacts):
    """A typed target gets FP16 constants with FP32 at both ends, and a Nano gets FP32 and the builder's flag."""
    typed, flagged = (artifacts["mobilevit_xxs", "fp16", target] for target in ("rtx-3080", "jetson-nano"))
    graph = onnx.load(typed.path).graph
    assert {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)} == {TensorProto.FLOAT}
    halves = sum(tensor.data_type == TensorProto.FLOAT16 for tensor in graph.initializer)
    assert halves > 100
    assert typed.size_bytes < 0.55 * flagged.size_bytes
    assert (typed.builder_flags, flagged.builder_flags) == ((), ("fp16",))
    assert flagged.parity_max_abs <= 1e-4


def test_normalizations_stay_in_float32(artifacts):
    """A LayerNorm's inputs are FP32 in an FP16 file: their sum of squares overflows from 256 on."""
    graph = onnx.shape_inference.infer_shapes(onnx.load(artifacts["mobilevit_xxs", "fp16", "rtx-3080"].path)).graph
    types = {info.name: info.type.tensor_type.elem_type for info in graph.value_info}
    norms = [node for node in graph.node if node.op_type == "LayerNormalization"]
    assert len(norms) == 21
    assert {types[node.input[0]] for node in norms} == {TensorProto.FLOAT}


@pytest.mark.parametrize(
    ("emulation", "rounds", "bits"), [("keep", 6, "8 log2-A"), ("drop", 0, "32"), ("move", 6, "8 log2-A")]
)
def test_log2_is_kept_dropped_or_moved(artifacts, emulation, rounds, bits):
    """The emulation stands behind the softmax, nowhere, or before it, as the artifact's bit table says."""
    artifact = artifacts["test_vit", f"efficientquant:log2_emulation={emulation}", "onnxruntime"]
    model = onnx.load(artifact.path)
    products = [node for node in model.graph.node if node.op_type == "MatMul"]
    softmaxes = {node.output[0] for node in model.graph.node if node.op_type == "Softmax"}
    direct = sum(bool(softmaxes & set(node.input)) for node in products)
    assert operators(artifact)["Round"] == rounds
    assert direct == (0 if emulation == "keep" else 6)
    assert artifact.bit_table["softmax"] == bits
