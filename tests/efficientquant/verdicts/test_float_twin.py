"""Float twins of quantized files and models."""

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
from efficientquant.targets import get_target
from efficientquant.verdicts.float_twin import has_quantizers, lower_twin, without_quantizers
from onnx import TensorProto
from onnx_graphs import GraphWriter, convolution

RTX, ORT = get_target("rtx-3080"), get_target("onnxruntime")


def run(model, x):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, {"x": x})[0]


def test_stored_weights_become_floats_and_activations_are_not_rounded():
    """The twin of a file for ONNX Runtime computes what the weights say, with the input as it is."""
    x = np.random.default_rng(0).normal(size=(1, 8, 16, 16)).astype(np.float32)
    whole, weight_only = convolution(quantize_input=True), convolution(quantize_input=False)

    twin = without_quantizers(whole, ORT)

    assert Counter(node.op_type for node in twin.graph.node) == {"Conv": 1}
    np.testing.assert_allclose(run(twin, x), run(weight_only, x), rtol=1e-5, atol=1e-4)
    assert has_quantizers(whole)
    assert not has_quantizers(twin)


def test_integer_operators_cannot_be_taken_out():
    """A file with QLinearConv has no twin made of it."""
    write = GraphWriter()
    scale, zero = write.constant("s", np.float32(0.1)), write.constant("z", np.int8(0))
    codes = write.add("QuantizeLinear", "x", scale, zero)
    weight = write.constant("w", np.ones((8, 8, 3, 3), np.int8))
    write.add("DequantizeLinear", write.add("QLinearConv", codes, scale, zero, weight, *[scale, zero] * 2), scale, zero)

    assert not has_quantizers(write.model())


@pytest.mark.parametrize("form", ["block", "uint4", "fake"])
def test_every_form_of_a_weight_is_decoded(form):
    """Blocks, 4-bit codes behind a Cast, and float weights behind a QuantizeLinear are decoded, too."""
    write = GraphWriter()
    codes = np.arange(-8, 8, dtype=np.int8).reshape(4, 4)
    scale, zero = np.float32([[0.5, 2], [1, 1], [1, 1], [1, 1]]), np.zeros((4, 2), np.int8)
    if form == "block":
        inputs = [write.constant("w", codes), write.constant("s", scale), write.constant("z", zero)]
        weight, expected = write.add("DequantizeLinear", *inputs, axis=1, block_size=2), codes * scale.repeat(2, 1)
    else:
        inputs = [write.constant("s", np.float32(0.5)), write.constant("z", np.uint8(8))]
        stored = write.constant("w", (codes + 8).astype(np.uint8) if form == "uint4" else codes * np.float32(0.5))
        first = ("Cast", stored) if form == "uint4" else ("QuantizeLinear", stored, *inputs)
        options = {"to": TensorProto.UINT8} if form == "uint4" else {}
        weight, expected = write.add("DequantizeLinear", write.add(*first, **options), *inputs), codes * np.float32(0.5)
    write.add("MatMul", "x", weight)

    twin = without_quantizers(write.model(opset=21, ir_version=10, shape=(1, 4)), ORT)

    assert [node.op_type for node in twin.graph.node] == ["MatMul"]
    for row in range(4):
        np.testing.assert_array_equal(run(twin, np.eye(4, dtype=np.float32)[row : row + 1])[0], expected[row])


def test_a_twin_for_tensorrt_is_fp16():
    """A file in FP32 with Q/DQ is compared with FP16, inputs and outputs excepted."""
    twin = without_quantizers(convolution(quantize_input=True), RTX)

    inferred = onnx.shape_inference.infer_shapes(twin).graph
    types = {info.name: info.type.tensor_type.elem_type for info in (*inferred.value_info, *inferred.output)}
    conv = next(node for node in twin.graph.node if node.op_type == "Conv")
    assert types[conv.output[0]] == TensorProto.FLOAT16
    assert types[inferred.output[0].name] == TensorProto.FLOAT


@pytest.mark.parametrize("recipe", ["efficientquant:rest=fp16", "int8", "hyq:symmetric=true:ptf=false:alpha_steps=2"])
def test_the_twin_of_a_model_is_its_fp16_file(models, quantized, recipe):
    """The twin has the operators of the recipe fp16, whether markers are taken out or the model is exported again."""
    name = "test_vit"
    plain = lower_twin(quantized[name, "fp16"], models[name], RTX)

    twin = lower_twin(quantized[name, recipe], models[name], RTX)

    assert Counter(node.op_type for node in twin.graph.node) == Counter(node.op_type for node in plain.graph.node)
    assert sum(len(tensor.raw_data) for tensor in twin.graph.initializer) == sum(
        len(tensor.raw_data) for tensor in plain.graph.initializer
    )
