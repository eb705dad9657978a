"""Predicted verdicts for classic TensorRT."""

import numpy as np
import pytest
from efficientquant.targets import get_target
from efficientquant.verdicts.build_rules import predict
from efficientquant.verdicts.parser.node import Parser
from efficientquant.verdicts.parser.operators import knows
from onnx_graphs import GraphWriter, convolution


def rules(verdict):
    """Return {rule: outcome} of a verdict's reasons."""
    return {reason.rule: str(reason.outcome) for reason in verdict.reasons}


@pytest.mark.parametrize(
    ("target", "gain"),
    [
        (
            "jetson-nano",
            "FP16 only: no weight is stored as an integer, no layer computes in integers; a speed-up there is FP16's",
        ),
        ("agx-xavier", "FP16 only: no weight is stored as an integer, no layer computes in integers"),
        ("tensorrt-11", "nothing: no weight is stored as an integer, all arithmetic is FP32"),
    ],
)
def test_a_float_file_builds(target, gain):
    """Builders with flags choose FP16 by themselves, and typed ones keep the file's FP32."""
    verdict = predict(convolution(quantize_input=False, quantize_weight=False), get_target(target))

    assert (verdict.outcome, verdict.basis, verdict.gain) == ("builds", "predicted", gain)
    assert verdict.layers[0].node == "conv"


def test_the_nano_refuses_quantizers():
    """A Q/DQ graph aborts the build on SM 5.3, and the verdict names the nodes."""
    verdict = predict(convolution(quantize_input=True), get_target("jetson-nano"))

    assert (verdict.outcome, rules(verdict)["no-int8"]) == ("fails", "fails")
    assert "w_dequantize" in verdict.reasons[0].nodes
    assert verdict.gain == "nothing there: it is not expected to build"


def test_weights_alone_are_stored_and_not_computed_with():
    """TensorRT 10 and 11 dequantize on every inference, which is a fallback with a gain in storage only."""
    verdict = predict(convolution(quantize_input=False), get_target("tensorrt-10"))

    assert (verdict.outcome, rules(verdict)) == ("builds_with_fallback", {"fallback": "builds_with_fallback"})
    assert verdict.gain.startswith("storage only: 1 weights are int8 in the file")


def test_xavier_computes_in_integers_only_where_both_inputs_are_quantized():
    """One quantized input ends in an error of the builder, and two are INT8."""
    weight, both = (predict(convolution(quantize_input=q), get_target("agx-xavier")) for q in (False, True))

    assert (weight.outcome, rules(weight)["float-input"]) == ("fails", "fails")
    assert both.precisions() == {"conv": {"int8": 1}}
    # Constants stored in int8 are known to fail up to 8.4.1, and nothing is known for 8.5.
    assert (both.outcome, rules(both)) == ("unknown", {"int8-constant": "unknown"})


def test_a_depthwise_convolution_with_silu_has_no_kernel_on_8_5():
    """A depthwise convolution with SiLU and QuantizeLinear has no implementation, while a full convolution has one."""
    depthwise, full = (
        predict(convolution(quantize_input=True, silu=True, group=group), get_target("agx-xavier")) for group in (8, 1)
    )

    assert rules(depthwise)["depthwise-silu"] == "fails"
    assert "depthwise-silu" not in rules(full)


def test_an_operator_that_the_parser_does_not_know_is_named():
    """Reciprocal came with 8.5, so the Nano's 8.2 does not read it."""
    write = GraphWriter()
    write.add("Reciprocal", "x", name="one-over")

    nano, xavier = (predict(write.model(), get_target(name)) for name in ("jetson-nano", "agx-xavier"))

    assert (nano.outcome, nano.unsupported_operators) == ("fails", ("Reciprocal",))
    assert str(nano.reasons[0]) == (
        "node 'one-over' is Reciprocal, which the parser of TensorRT 8.2 does not know; it came with TensorRT 8.5"
    )
    assert xavier.outcome == "builds"


@pytest.mark.parametrize(
    ("operator", "releases"),
    [
        ("Relu", [(8, 2), (8, 5), (8, 6), (10,), (10, 1)]),
        ("If", [(8, 2), (8, 5), (8, 6), (10,), (10, 1)]),
        ("HardSwish", [(8, 5), (8, 6), (10,), (10, 1)]),
        ("LayerNormalization", [(8, 6), (10,), (10, 1)]),
        ("Gelu", [(10,), (10, 1)]),
        ("DeformConv", [(10, 1)]),
        ("StringConcat", []),
    ],
)
def test_a_newer_release_reads_what_an_older_one_read(operator, releases):
    """Each operator came with one release and stays."""
    every = [(8, 2), (8, 5), (8, 6), (10,), (10, 1)]

    assert [release for release in every if knows(operator, Parser(release, "TensorRT"))] == releases


def test_what_is_a_plugin_is_missing_in_tensorrt_rtx():
    """TensorRT-RTX comes without plugins."""
    assert not knows("RoiAlign", Parser((11,), "TensorRT-RTX 1.7", has_plugins=False))


@pytest.mark.parametrize(
    ("opset", "nano", "xavier", "ten", "eleven"),
    [
        (6, "warned", "warned", "warned", "warned"),
        (7, "builds", "builds", "warned", "warned"),
        (11, "builds", "builds", "builds", "builds"),
        (13, "builds", "builds", "builds", "builds"),
        (14, "fails", "builds", "builds", "builds"),
        (17, "fails", "builds", "builds", "builds"),
        (18, "fails", "fails", "builds", "builds"),
        (20, "fails", "fails", "builds", "builds"),
        (21, "fails", "fails", "fails", "builds"),
        (25, "fails", "fails", "fails", "builds"),
        (26, "fails", "fails", "fails", "fails"),
    ],
)
def test_the_opsets_of_a_release(opset, nano, xavier, ten, eleven):
    """Each release reads opsets up to its own limit, and very old ones with a warning."""
    model = convolution(quantize_input=False, quantize_weight=False)
    model.opset_import[0].version = opset
    outcomes = []
    for target in ("jetson-nano", "agx-xavier", "tensorrt-10", "tensorrt-11"):
        verdict = predict(model, get_target(target))
        outcomes.append("warned" if rules(verdict) == {"old-opset": "builds"} else str(verdict.outcome))

    assert outcomes == [nano, xavier, ten, eleven]


@pytest.mark.parametrize(
    ("shape", "missing"),
    [
        ((1, 8, 16, 16), None),
        (("N", 8, 16, 16), None),
        ((1, 8, "H", "W"), "dimensions 2 ('H') and 3 ('W')"),
        (("N", 8, "H", "W"), "dimensions 2 ('H') and 3 ('W')"),
        ((1, 8, 16, "W"), "dimension 3 ('W')"),
        ((1, "C", 16, 16), "dimension 1 ('C')"),
    ],
)
@pytest.mark.parametrize("target", ["jetson-nano", "agx-xavier", "tensorrt-10", "tensorrt-11", "rtx-3080"])
def test_only_the_batch_may_be_dynamic(shape, missing, target):
    """Every other dimension without a size is named, since no size is guessed."""
    write = GraphWriter()
    write.add("Relu", "x")

    verdict = predict(write.model(shape=shape), get_target(target))

    assert rules(verdict) == ({} if missing is None else {"dynamic-size": "fails"})
    assert missing is None or f"the input 'x' has no size in {missing}; only the batch" in str(verdict.reasons[0])


def transposed(axis, scales=8):
    """Return a quantized ConvTranspose with its scales along an axis."""
    write = GraphWriter()
    parameters = (
        write.constant("w_scale", np.full(scales, 0.01, np.float32) if scales else np.float32(0.01)),
        write.constant("w_zero", np.zeros(scales, np.int8) if scales else np.int8(0)),
    )
    weight = write.constant("w", np.ones((8, 8, 3, 3), np.float32))
    codes = write.add("QuantizeLinear", weight, *parameters, name="quantize", axis=axis)
    decoded = write.add("DequantizeLinear", codes, *parameters, name="dequantize", axis=axis)
    write.add("ConvTranspose", write.quantized("x"), decoded, name="deconv")
    return write.model()


@pytest.mark.parametrize(
    ("target", "axis", "scales", "outcome"),
    [
        ("agx-xavier", 0, 8, "builds"),
        ("agx-xavier", 1, 8, "fails"),
        ("agx-xavier", 0, 0, "builds"),
        ("tensorrt-10", 0, 8, "builds"),
        ("tensorrt-10", 1, 8, "builds"),
        ("tensorrt-11", 1, 8, "builds"),
        ("tensorrt-11", 2, 8, "fails"),
    ],
)
def test_the_scales_of_a_transposed_convolution(target, axis, scales, outcome):
    """8.5 takes them along the input channels, and later releases along the output channels too."""
    verdict = predict(transposed(axis, scales), get_target(target))

    assert (verdict.outcome, [layer.operator for layer in verdict.layers]) == (outcome, ["conv"])
    assert set(rules(verdict)) == ({"axis"} if outcome == "fails" else set())


@pytest.mark.parametrize("scale", [0.0, -0.05, np.nan, np.inf])
@pytest.mark.parametrize("target", ["agx-xavier", "tensorrt-10", "tensorrt-11"])
def test_a_scale_is_a_positive_number(target, scale):
    """A scale that is zero, negative, infinite or NaN is refused, and its node named."""
    write = GraphWriter()
    write.quantized("x", scale)

    (nodes,) = (
        reason.nodes for reason in predict(write.model(), get_target(target)).reasons if reason.rule == "scale-value"
    )

    assert nodes == ("quantizelinear_0", "dequantizelinear_1")


def test_linears_and_products_are_distinguished():
    """A matrix product with a weight is a linear, also behind a transpose, and one of two activations a product."""
    write = GraphWriter()
    weight = write.add("Transpose", write.constant("w", np.ones((4, 16), np.float32)), perm=[1, 0])
    y = write.add("MatMul", "x", weight, name="linear")
    write.add("MatMul", write.add("Transpose", y, perm=[0, 1, 3, 2]), y, name="product")

    verdict = predict(write.model(), get_target("agx-xavier"))

    assert {layer.node: str(layer.operator) for layer in verdict.layers} == {"linear": "linear", "product": "product"}


def test_many_nodes_are_one_reason():
    """Each rule has one sentence, with the number of other nodes that break it."""
    write = GraphWriter()
    y = write.add("Reciprocal", "x")
    for _ in range(3):
        y = write.add("Reciprocal", y)

    (reason,) = predict(write.model(), get_target("jetson-nano")).reasons

    assert str(reason).endswith("(and 3 more nodes like it)")
    assert len(reason.to_dict()["nodes"]) == 4
