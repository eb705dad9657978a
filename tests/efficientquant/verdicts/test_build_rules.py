"""Predicted verdicts for classic TensorRT."""

import numpy as np
import pytest
from efficientquant.targets import get_target
from efficientquant.verdicts.build_rules import predict
from efficientquant.verdicts.operator_support import supported_operators
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
    assert str(nano.reasons[0]) == "node 'one-over' is Reciprocal, which the parser does not know"
    assert xavier.outcome == "builds"


def test_operator_lists_only_grow():
    """A newer release reads what an older one read: LayerNormalization came with 8.6, Gelu with 10."""
    old, xavier, between, new = (supported_operators(version) for version in ((8, 2), (8, 5), (8, 6), (10,)))

    assert old < xavier < between < new
    assert ("LayerNormalization" in xavier, "LayerNormalization" in between) == (False, True)
    assert ("Gelu" in between, "Gelu" in new) == (False, True)


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
