"""The rules for exported files, each broken on purpose."""

import ml_dtypes
import numpy as np
import pytest
from efficientquant.artifact.validation import find_violations
from efficientquant.targets import get_target, list_targets
from onnx import TensorProto
from onnx_graphs import GraphWriter, convolution


def broken(model, target):
    """Return the (rule, node) pairs that a model breaks."""
    return {(violation.rule, violation.node) for violation in find_violations(model, get_target(target))}


@pytest.mark.parametrize("target", list_targets())
def test_a_plain_float_convolution_keeps_every_rule(target):
    """Opset 13, IR 8, FP32: what every target takes."""
    assert find_violations(convolution(quantize_input=False, quantize_weight=False), get_target(target)) == []


def test_each_target_takes_the_quantization_that_it_can_run():
    """Targets that dequantize take weights alone, Xavier needs both inputs quantized, and a Nano takes no quantizer."""
    weights_only, both = convolution(quantize_input=False), convolution(quantize_input=True)

    assert [broken(weights_only, target) for target in ("rtx-3080", "tensorrt-11", "onnxruntime-1.10")] == [set()] * 3
    assert broken(weights_only, "agx-xavier") == {("both-inputs", "w_dequantize")}
    assert broken(both, "agx-xavier") == set()
    assert {rule for rule, _ in broken(both, "jetson-nano")} == {"no-int8"}


@pytest.mark.parametrize(
    ("rule", "changes"),
    [
        ("signed-int8", {"zero": np.uint8(0)}),
        ("zero-point", {"zero": np.int8(3)}),
        ("scale-type", {"scale": np.float16(0.5)}),
        ("scale-value", {"scale": np.float32(0)}),
        ("scale-value", {"scale": np.float32(np.nan)}),
        ("per-channel", {"scale": np.ones(8, np.float32), "zero": np.zeros(8, np.int8)}),
    ],
)
def test_a_quantizer_of_another_form_is_named(rule, changes):
    """TensorRT takes signed int8, zero point 0, a positive FP32 scale, and scales per channel on weights only."""
    write = GraphWriter()
    values = {"scale": np.float32(0.5), "zero": np.int8(0), **changes}
    parameters = [write.constant(name, value) for name, value in values.items()]
    write.add("QuantizeLinear", "x", *parameters, name="quantize")
    write.add("DequantizeLinear", "quantize", *parameters, name="dequantize")

    for target in ("agx-xavier", "rtx-3080"):
        assert (rule, "quantize") in broken(write.model(), target)
    assert not {name for name, _ in broken(write.model(), "onnxruntime")} - {"io-type", "float-types"}


def test_a_missing_zero_point_and_another_axis_are_named():
    """A quantizer needs three inputs, and a weight's scales lie along its outputs, which come first."""
    write = GraphWriter()
    scale = write.constant("scale", np.float32(0.5))
    write.add("DequantizeLinear", write.add("QuantizeLinear", "x", scale, name="two"), scale, name="of-two")
    weight = write.stored_weight("w", (8, 8))
    write.nodes[-1].attribute[0].i = 1
    write.add("MatMul", "of-two", weight)

    assert {("three-inputs", "two"), ("three-inputs", "of-two"), ("axis", "w_dequantize")} <= broken(
        write.model(), "rtx-3080"
    )


def test_tensorrt_8_has_its_opset_and_no_more():
    """What TensorRT 11 reads can break the rules of TensorRT 8."""
    write = GraphWriter()
    ones = write.constant("ones", np.ones(16, np.float32))
    write.add("LayerNormalization", "x", ones, ones, name="norm")
    write.add("ReduceMean", "norm", write.constant("axes", np.array([2, 3])), name="mean")
    write.add("Cast", write.add("Cast", "mean", name="half", to=TensorProto.FLOAT16), name="full", to=TensorProto.FLOAT)
    model = write.model(opset=18, ir_version=9)

    expected = {("opset", "the file"), ("ir-version", "the file"), ("operator", "norm"), ("reduce-axes", "mean")}
    for target in ("jetson-nano", "agx-xavier"):
        assert broken(model, target) == {*expected, ("float32", "half")}
    assert broken(model, "tensorrt-11") == set()
    assert broken(model, "onnxruntime-1.10") == {("opset", "the file"), ("ir-version", "the file")}


def test_reduce_sum_keeps_its_axes_input():
    """ReduceSum has had its axes as an input since opset 13."""
    write = GraphWriter()
    write.add("ReduceSum", "x", write.constant("axes", np.array([1])), keepdims=1)

    assert find_violations(write.model(), get_target("jetson-nano")) == []


def test_other_outputs_domains_and_mixed_types_are_named():
    """Inputs and outputs are FP32, operators are standard, and each operator has one float type."""
    write = GraphWriter()
    half = write.constant("half", np.ones(16, np.float16))
    write.add("Add", "x", half, name="mixed")
    write.add("Log2Marker", "mixed", name="marker", domain="custom")
    write.add("ArgMax", "marker", name="classes", axis=1)
    model = write.model(output=TensorProto.INT64)

    assert {("float-types", "mixed"), ("domain", "marker"), ("io-type", "the output 'classes'")} <= broken(
        model, "rtx-3080"
    )


def test_a_violation_is_a_sentence_that_names_the_node_and_what_to_do():
    """A violation names the node and says what to change."""
    (violation,) = find_violations(convolution(quantize_input=False), get_target("agx-xavier"))

    assert str(violation) == (
        "node 'w_dequantize' (DequantizeLinear) feeds 'conv' (Conv), whose inputs are not both quantized; "
        "agx-xavier can fail to build that, quantize the other input too or leave this one in float"
    )


def four_bit_weight(axis, block_size=0, groups=1):
    """Return a linear with a 4-bit weight (16, 64) of zeros."""
    write = GraphWriter()
    shape = (16, groups) if block_size else (16,)
    names = [
        write.constant("codes", np.zeros((16, 64), ml_dtypes.int4)),
        write.constant("scale", np.full(shape, 0.1, np.float32)),
        write.constant("zero", np.zeros(shape, ml_dtypes.int4)),
    ]
    attributes = {"axis": axis} | ({"block_size": block_size} if block_size else {})
    decoded = write.add("DequantizeLinear", *names, name="decoder", **attributes)
    write.add("MatMul", "x", write.add("Transpose", decoded, perm=[1, 0]))
    return write.model(opset=21, shape=(1, 3, 64))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (four_bit_weight(0), ""),
        (four_bit_weight(-2), ""),
        (four_bit_weight(1, 64), ""),
        (four_bit_weight(-1, 64), ""),
        (four_bit_weight(1, 32, 2), "has blocks of 32; the kernels of tensorrt-10 take 64 or 128"),
        (four_bit_weight(2, 64), "has axis=2 on a tensor of 2 dimensions"),
    ],
)
def test_blocks_of_four_bits(model, words):
    """TensorRT 10 takes whole blocks of 64 or 128, along an axis that exists."""
    violations = [str(violation) for violation in find_violations(model, get_target("tensorrt-10"))]
    assert [words in text for text in violations] == [True] * bool(words), violations


def test_a_release_without_blocks_says_so():
    """TensorRT 8.5 reads no block of any size."""
    violations = find_violations(four_bit_weight(1, 64), get_target("agx-xavier"))
    assert any("has blocks, which agx-xavier does not read" in str(violation) for violation in violations)
