"""Real compilations with OpenVINO."""

import sys

import numpy as np
import onnx
import pytest
from efficientquant.errors import MissingExtraError
from efficientquant.targets import get_target
from efficientquant.verdicts.openvino_build import verdict_of_compilation, verdict_without_openvino
from onnx import TensorProto
from onnx_graphs import GraphWriter, convolution

TARGET = get_target("openvino")


def linear(*, quantize_input):
    """Return a model with one matrix product whose int8 weight has a scale per output."""
    write = GraphWriter()
    weight = write.add("Transpose", write.stored_weight("w", (64, 16)), perm=[1, 0])
    write.add("MatMul", write.quantized("x") if quantize_input else "x", weight, name="linear")
    return write.model()


@pytest.mark.parametrize("group", [1, 8])
def test_two_quantized_inputs_give_an_integer_convolution(group):
    """A convolution of quantized inputs runs in int8, dense or depthwise."""
    verdict = verdict_of_compilation(convolution(quantize_input=True, group=group), TARGET)

    assert (verdict.outcome, verdict.basis, verdict.precisions()) == ("builds", "loaded", {"conv": {"int8": 1}})
    assert verdict.gain == "integer arithmetic in 1 of 1 convolutions and matrix products"
    assert verdict.runtime.startswith("OpenVINO 20")
    assert verdict.facts["layers_by_type"]["Convolution"] == 1


@pytest.mark.parametrize("model", [convolution(quantize_input=False), linear(quantize_input=False)])
def test_a_weight_alone_buys_storage(model):
    """A layer whose weight alone is quantized is computed in float32, whatever its runtime precision says."""
    verdict = verdict_of_compilation(model, TARGET)

    assert (verdict.outcome, [layer.precision for layer in verdict.layers]) == ("builds_with_fallback", ["fp32"])
    assert verdict.gain.startswith("storage only: 1 weights are int8 in the file and dequantized when the file is")


def test_a_float_kernel_that_decodes_its_weights_is_counted():
    """OpenVINO keeps the integer weight of a linear, and decodes it on every inference."""
    verdict = verdict_of_compilation(linear(quantize_input=False), TARGET)

    assert verdict.facts["layers_that_decode_weights"] == 1
    assert "in 1 layers on every inference" in verdict.gain


def test_an_unknown_operator_fails_in_the_words_of_openvino():
    """An operator of an unknown domain is named."""
    write = GraphWriter()
    write.add("Marker", "x", name="marker", domain="custom")

    verdict = verdict_of_compilation(write.model(), TARGET)

    assert (verdict.outcome, verdict.gain) == ("fails", "nothing there: it does not compile")
    assert str(verdict.reasons[0]) == (
        "OpenVINO does not compile it: No conversion rule found for operations: custom.Marker"
    )


def test_a_node_that_fails_is_named():
    """A node that cannot be computed is named with the reason, without places in OpenVINO's source."""
    write = GraphWriter()
    write.add("Conv", "x", write.constant("w", np.ones((8, 7, 3, 3), np.float32)), name="conv")

    verdict = verdict_of_compilation(write.model(), TARGET)

    assert str(verdict.reasons[0]).startswith("OpenVINO does not compile it: node 'conv' (Conv): Data batch channel")


@pytest.mark.parametrize("scale", [0.0, -0.05, np.nan])
def test_a_scale_that_means_nothing_fails(scale):
    """A scale that is no positive number fails, although OpenVINO compiles it."""
    write = GraphWriter()
    write.quantized("x", scale)

    verdict = verdict_of_compilation(write.model(), TARGET)

    assert (verdict.outcome, verdict.reasons[0].rule) == ("fails", "scale-value")


def test_what_agents_cannot_feed_is_a_remark():
    """Integer inputs and a dynamic image size compile, with a remark each."""
    write = GraphWriter()
    write.add("Cast", "x", to=TensorProto.FLOAT)

    verdict = verdict_of_compilation(write.model(shape=("N", 8, "H", "W"), element_type=TensorProto.UINT8), TARGET)

    assert (verdict.outcome, {reason.rule for reason in verdict.reasons}) == ("builds", {"io-type", "dynamic-size"})


def test_without_the_library_it_is_a_prediction(monkeypatch):
    """Without OpenVINO nothing is compiled, and the prediction says so."""
    monkeypatch.setitem(sys.modules, "openvino", None)
    model = convolution(quantize_input=True)

    with pytest.raises(MissingExtraError, match="OpenVINO is not installed"):
        verdict_of_compilation(model, TARGET)
    verdict = verdict_without_openvino(model, TARGET)

    assert (verdict.outcome, verdict.basis, verdict.precisions()) == ("unknown", "predicted", {"conv": {"int8": 1}})
    assert verdict.reasons[0].rule == "not-compiled"


@pytest.mark.parametrize(("recipe", "integer"), [("fp32", set()), ("int8", {"conv", "linear", "product"})])
def test_the_exported_file_is_computed_as_it_says(artifacts, recipe, integer):
    """Of our int8 file every convolution, linear and first product of an attention is an integer one."""
    model = onnx.load(artifacts["mobilevit_xxs", recipe, "openvino"].path)

    precisions = verdict_of_compilation(model, TARGET).precisions()

    assert {kind for kind, counts in precisions.items() if "int8" in counts} == integer
    assert sum(counts.get("unknown", 0) for counts in precisions.values()) == 0
    if integer:
        assert (precisions["conv"], precisions["linear"]) == ({"int8": 35}, {"int8": 37})
        assert precisions["product"] == {"int8": 9, "fp32": 9}
