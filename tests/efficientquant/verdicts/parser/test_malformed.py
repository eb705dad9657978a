"""Files that are no valid ONNX, and rules inside branches."""

import ml_dtypes
import numpy as np
import pytest
from efficientquant.targets import get_target
from efficientquant.verdicts.build_rules import predict
from onnx import TensorProto, helper
from onnx_graphs import GraphWriter

EVERY = "8.2 8.5 10 11 rtx"


@pytest.mark.parametrize(
    ("operator", "attributes", "defect"),
    [
        ("Conv", {}, "has 1 inputs and needs 2"),
        ("CumSum", {}, "has 1 inputs and needs 2"),
        ("If", {}, "has no else_branch"),
        ("Einsum", {}, "has no equation"),
        ("MaxPool", {"kernel_shape": 3}, "has its kernel_shape in a wrong type"),
        ("AveragePool", {"kernel_shape": [2, 2], "pads": "all"}, "has its pads in a wrong type"),
    ],
)
def test_a_node_that_lacks_a_part_is_named(one_node, refusing, operator, attributes, defect):
    """No release reads a node without its required parts."""
    refused, sentences = refusing(one_node(operator, **attributes))
    assert refused == EVERY
    assert f"node 'n' ({operator}) {defect}; no release reads it" in sentences[0]


def verdict(writer, target="tensorrt-10", **facts):
    return predict(writer.model(**facts), get_target(target))


def test_a_cycle_is_named():
    """Nodes that read each other have a verdict."""
    write = GraphWriter()
    write.add("Identity", "b", name="a")
    write.add("Identity", "a", name="b")
    write.add("Unsqueeze", "x", "a", name="n")
    prediction = verdict(write)
    assert prediction.outcome == "fails"
    assert "depends on itself" in str(prediction.reasons[0])


def test_shared_operands_are_looked_at_once():
    """A constant that is doubled sixty times takes no longer than one."""
    write = GraphWriter()
    write.add("Shape", "x", name="s0")
    for step in range(60):
        write.add("Add", f"s{step}", f"s{step}", name=f"s{step + 1}")
    write.add("Unsqueeze", "x", "s60", name="n")
    assert verdict(write).outcome == "builds"


def test_an_input_without_a_shape_is_named():
    """The rank must be known too."""
    write = GraphWriter()
    write.add("Relu", "x")
    model = write.model()
    model.graph.input[0].type.tensor_type.ClearField("shape")
    assert "the input 'x' has no shape" in str(predict(model, get_target("tensorrt-10")).reasons[0])


def quantized(scale, zero_point):
    write = GraphWriter()
    parameters = [write.constant("scale", scale), write.constant("zero", zero_point)]
    write.add("DequantizeLinear", write.add("QuantizeLinear", "x", *parameters), *parameters, name="n")
    return write


def test_a_scale_without_a_value_is_no_scale():
    """An empty array of scales quantizes nothing."""
    reasons = verdict(quantized(np.zeros(0, np.float32), np.zeros(0, np.int8)), "rtx-3080").reasons
    assert "scale-value" in {reason.rule for reason in reasons}


def test_rules_for_quantizers_hold_inside_a_branch():
    """TensorRT has no unsigned 4-bit integers, wherever they are decoded."""

    def branch(result):
        node = helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], [result], name="decoder")
        output = helper.make_tensor_value_info(result, TensorProto.FLOAT, None)
        return helper.make_graph([node], result, [], [output])

    write = GraphWriter()
    write.constant("codes", np.zeros((4, 4), ml_dtypes.uint4))
    write.constant("scale", np.float32(0.1))
    write.constant("zero", np.zeros((), ml_dtypes.uint4))
    condition = write.constant("condition", np.array(True))
    write.add("If", condition, name="n", then_branch=branch("first"), else_branch=branch("second"))
    prediction = verdict(write, opset=21)
    assert prediction.outcome == "fails"
    assert {"n/decoder"} <= {node for reason in prediction.reasons for node in reason.nodes}
