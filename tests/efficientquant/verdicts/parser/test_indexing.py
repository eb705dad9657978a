"""Operators that choose, scatter, pad or reshape, by release."""

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx_graphs import GraphWriter

OLD, EVERY = "8.2 8.5", "8.2 8.5 10 11 rtx"


@pytest.mark.parametrize(
    ("refused", "count", "opset"),
    [("", 1, 13), ("", 3840, 13), (EVERY, 3841, 13), (EVERY, 4000, 11), ("", 100, 10)],
)
def test_a_constant_k(one_node, refusing, refused, count, opset):
    """K is at most 3840 in every release."""
    model = one_node("TopK", np.array([count]), opset=opset, outputs=2, shape=(1, 8, 4, 4000))

    assert refusing(model)[0] == refused


@pytest.mark.parametrize(("refused", "count"), [("", 5), (EVERY, 5000)])
def test_k_as_an_attribute(one_node, refusing, refused, count):
    """K was an attribute before opset 10."""
    assert refusing(one_node("TopK", opset=9, k=count))[0] == refused


def test_a_constant_node_is_a_constant_k(refusing):
    """A Constant, also through Identity and as plain integers, is no computed K."""
    for value in ({"value_ints": [3]}, {"value_int": 3}):
        write = GraphWriter()
        write.add("TopK", "x", write.add("Identity", write.add("Constant", **value)), name="n")

        assert refusing(write.model())[0] == ""


def test_a_computed_k(refusing):
    """8.2 and 8.5 take no computed K, from data or from shapes."""
    for source in ("x", "shape"):
        write = GraphWriter()
        value = write.add("ReduceMax", "x", keepdims=0)
        if source == "shape":
            value = write.add("Gather", write.add("Shape", "x"), write.constant("one", np.array(1)))
        count = write.add("Cast", value, to=TensorProto.INT64)
        write.add("TopK", "x", write.add("Reshape", count, write.constant("shape", np.array([1]))), name="n")

        releases, sentences = refusing(write.model())

        assert releases == OLD
        assert "has a computed K, 'reshape_" in sentences[0]


def test_integers_are_sorted_since_8_6(refusing):
    """TopK takes INT32 from 8.6 on."""
    write = GraphWriter()
    integers = write.add("Cast", "x", to=TensorProto.INT32)
    write.add("TopK", integers, write.constant("k", np.array([3])), name="n")
    write.give_outputs(2)
    write.add("Cast", "n", to=TensorProto.FLOAT)

    assert refusing(write.model())[0] == OLD


@pytest.mark.parametrize(
    ("refused", "operator", "reduction"),
    [
        ("", "ScatterND", "none"),
        (EVERY, "ScatterND", "add"),
        (EVERY, "ScatterND", "max"),
        ("", "ScatterElements", "none"),
        ("8.2 8.5 rtx", "ScatterElements", "add"),
        ("8.2 8.5 rtx", "ScatterElements", "mul"),
    ],
)
def test_a_scattered_reduction(one_node, refusing, refused, operator, reduction):
    """ScatterND reduces nowhere, and ScatterElements in a plugin since 10."""
    updates = np.zeros((1, 8, 16, 16), np.float32)
    indices = np.zeros((1, 1) if operator == "ScatterND" else updates.shape, np.int64)

    assert refusing(one_node(operator, indices, updates, reduction=reduction))[0] == refused


@pytest.mark.parametrize(
    ("refused", "mode"), [("", "constant"), ("", "reflect"), ("", "edge"), (OLD, "wrap"), (EVERY, "circular")]
)
def test_a_pad(one_node, refusing, refused, mode):
    """Wrapping came with 10."""
    assert refusing(one_node("Pad", np.array([0, 0, 1, 1, 0, 0, 1, 1]), mode=mode))[0] == refused


@pytest.mark.parametrize(("refused", "shape"), [("8.2", (16, 16)), ("8.2", (8, 16, 16)), (OLD, (1, 8, 16, 16))])
def test_a_trilu(one_node, refusing, refused, shape):
    """Trilu came with 8.5, for two and three dimensions."""
    assert refusing(one_node("Trilu", shape=shape))[0] == refused


@pytest.mark.parametrize(
    ("constant", "from_shape", "from_data", "operator", "index"),
    [
        ("", OLD, EVERY, "Squeeze", 1),
        ("", OLD, EVERY, "Unsqueeze", 1),
        ("", OLD, EVERY, "ReduceSum", 1),
        ("", OLD, EVERY, "CumSum", 1),
        ("8.2", "8.2", EVERY, "OneHot", 1),
        ("", "8.2 8.5 10", "8.2 8.5 10", "Slice", 3),
    ],
)
def test_a_computed_parameter(refusing, constant, from_shape, from_data, operator, index):
    """8.x wants constants in the file, and 10 what is known when the engine is built."""
    for source, expected in (("constant", constant), ("shape", from_shape), ("data", from_data)):
        write = GraphWriter()
        zero = write.constant("zero", np.array([0]))
        value = zero
        if source != "constant":
            floats = write.add("ReduceMin", "x", keepdims=0) if source == "data" else write.add("Shape", "x")
            value = write.add("Gather", write.add("Cast", floats, to=TensorProto.INT64), zero)
        values = write.constant("values", np.float32([0, 1]))
        others = {"OneHot": ["", values], "Slice": [zero, zero, ""]}.get(operator, [""])
        others[index - 1] = value
        write.add(operator, "x", *others, name="n")

        assert refusing(write.model())[0] == expected, source


@pytest.mark.parametrize(("refused", "attributes"), [("", {}), (OLD, {"start": 1}), (OLD, {"start": 0, "end": 2})])
def test_a_shape_of_some_dimensions(refusing, refused, attributes):
    """8.x gives all dimensions, whatever the attributes say."""
    write = GraphWriter()
    write.add("Shape", "x", name="n", **attributes)
    write.add("Cast", "n", to=TensorProto.FLOAT)

    releases, sentences = refusing(write.model())

    assert releases == refused
    assert all("ignores: its Shape gives all dimensions" in sentence for sentence in sentences)


@pytest.mark.parametrize(
    ("operator", "constants"),
    [("Dropout", (np.float32(0.5), np.zeros(0, bool))), ("TopK", (np.array(["five"]),))],
)
def test_a_constant_that_means_nothing_is_no_crash(one_node, refusing, operator, constants):
    """An empty or mistyped constant has a verdict too."""
    refusing(one_node(operator, *constants, outputs=2))


def test_a_branch_reads_what_is_computed_outside(refusing):
    """Axes from outside an If are looked through as in the main graph."""

    def branch(result: str):
        node = helper.make_node("Unsqueeze", ["x", "axes"], [result], name="n")
        return helper.make_graph([node], result, [], [helper.make_tensor_value_info(result, TensorProto.FLOAT, None)])

    write = GraphWriter()
    write.add("Identity", write.constant("stored_axes", np.array([0])), name="axes")
    condition = write.constant("condition", np.array(True))
    write.add("If", condition, name="n", then_branch=branch("wide"), else_branch=branch("as_wide"))
    assert refusing(write.model()) == ("", [])
