"""Operators, normalizations, casts and control flow by release."""

import numpy as np
import pytest
from efficientquant.targets import get_target
from efficientquant.verdicts.build_rules import predict
from onnx import TensorProto, helper
from onnx_graphs import GraphWriter

OLD, EVERY = "8.2 8.5", "8.2 8.5 10 11 rtx"
CHANNELS = np.ones(8, np.float32)
COLUMNS = np.ones(16, np.float32)


@pytest.mark.parametrize(
    ("refused", "operator", "constants"),
    [
        ("8.2", "HardSwish", ()),
        ("8.2", "Mod", (np.float32(2),)),
        ("8.2", "Reciprocal", ()),
        ("8.2", "NonZero", ()),
        ("8.2", "Xor", ()),
        (OLD, "IsInf", ()),
        (OLD, "LayerNormalization", (COLUMNS,)),
        (OLD, "Gelu", ()),
        (OLD, "Hardmax", ()),
        ("8.2 8.5 10", "RMSNormalization", (COLUMNS,)),
        ("8.2 8.5 10", "STFT", ()),
        ("", "HardSigmoid", ()),
        ("", "ReverseSequence", (np.array([8]),)),
        ("", "Round", ()),
        (EVERY, "Det", ()),
        (EVERY, "QLinearConv", ()),
        (EVERY, "DynamicQuantizeLinear", ()),
    ],
)
def test_operators_arrive_with_releases(one_node, operator, refused, constants):
    """Each release reads what the releases before it read, and more."""
    columns = {"8.2": "jetson-nano", "8.5": "agx-xavier", "10": "tensorrt-10", "11": "tensorrt-11", "rtx": "rtx-3080"}
    verdicts = {release: predict(one_node(operator, *constants), get_target(name)) for release, name in columns.items()}
    without = {release for release, verdict in verdicts.items() if operator in verdict.unsupported_operators}

    assert without - {"rtx"} == set(refused.split()) - {"rtx"}


def test_a_release_without_an_operator_says_when_it_came(one_node, refusing):
    """HardSwish came with 8.5."""
    _, sentences = refusing(one_node("HardSwish"))

    assert sentences == [
        "node 'n' is HardSwish, which the parser of TensorRT 8.2 does not know; it came with TensorRT 8.5"
    ]


@pytest.mark.parametrize(
    ("refused", "operator", "constants", "changes"),
    [
        ("", "InstanceNormalization", (CHANNELS, CHANNELS), {}),
        (OLD, "InstanceNormalization", (COLUMNS, COLUMNS), {"shape": (1, 16)}),
        ("", "BatchNormalization", (CHANNELS,) * 4, {}),
        (EVERY, "BatchNormalization", (CHANNELS,) * 4, {"training_mode": 1}),
        ("", "Dropout", (np.float32(0.5), np.array(False)), {}),
        (EVERY, "Dropout", (np.float32(0.5), np.array(True)), {}),
        (EVERY, "LayerNormalization", (COLUMNS,), {"outputs": 3}),
        ("", "LSTM", (np.ones((1, 16, 8), np.float32), np.ones((1, 16, 4), np.float32)), {"shape": (5, 1, 8)}),
        (EVERY, "LSTM", (COLUMNS, COLUMNS), {"shape": (5, 1, 8), "input_forget": 1}),
        (EVERY, "LSTM", (COLUMNS, COLUMNS), {"shape": (5, 1, 8), "layout": 1}),
    ],
)
def test_what_trains_is_refused(one_node, refusing, refused, operator, constants, changes):
    """TensorRT infers only, and 8.x normalizes instances of three to five dimensions."""
    assert refusing(one_node(operator, *constants, **changes))[0] == refused


@pytest.mark.parametrize("computed", [1, 2])
def test_a_computed_scale_of_instances(refusing, computed):
    """8.x wants scale and bias in the file."""
    write = GraphWriter()
    channels = write.constant("channels", CHANNELS)
    given = [channels, channels]
    given[computed - 1] = write.add("Mul", channels, channels)
    write.add("InstanceNormalization", "x", *given, name="n")

    assert refusing(write.model())[0] == OLD


@pytest.mark.parametrize(
    ("refused", "to"),
    [
        ("", TensorProto.INT32),
        ("", TensorProto.BOOL),
        (EVERY, TensorProto.UINT16),
        (EVERY, TensorProto.INT16),
        (EVERY, TensorProto.STRING),
        (EVERY, TensorProto.UINT8),
        (OLD, TensorProto.BFLOAT16),
    ],
)
def test_a_cast(refusing, refused, to):
    """A cast gives the types of the release, UINT8 at outputs only."""
    write = GraphWriter()
    write.add("Cast", write.add("Cast", "x", name="n", to=to), name="back", to=TensorProto.FLOAT)

    assert refusing(write.model())[0] == refused


@pytest.mark.parametrize("attributes", [{"value_string": "a"}, {"value_strings": ["a", "b"]}])
def test_a_constant_of_text(refusing, attributes):
    """Constants are numbers."""
    write = GraphWriter()
    write.add("Constant", name="n", **attributes)
    write.add("Relu", "x", name="relu")

    assert refusing(write.model())[0] == EVERY


def conditional(then_operator="Relu", else_operator="Neg", shapes=(None, None), names=("then", "else")):
    """Return a graph whose If computes one operator or the other."""
    write = GraphWriter()
    condition = write.add("Cast", write.add("ReduceSum", "x", keepdims=0), to=TensorProto.BOOL)
    branches = {}
    for attribute, operator, name, shape in zip(
        ("then_branch", "else_branch"), (then_operator, else_operator), names, shapes, strict=True
    ):
        node = helper.make_node(operator, ["x"], [name], name="n")
        output = helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        branches[attribute] = helper.make_graph([node], attribute, [], [output])
    write.add("If", condition, name="n", **branches)
    return write.model()


@pytest.mark.parametrize(
    ("refused", "changes"),
    [
        ("", {}),
        ("", {"shapes": ((1, 8, 16, 16), (1, 8, 16, 16))}),
        (OLD, {"shapes": ((1, 8, 16, 16), (1, 8, 16, 8))}),
        ("10 11 rtx", {"shapes": ((1, 8, 16, 16), (16, 16))}),
        (EVERY, {"names": ("same", "same")}),
        (EVERY, {"else_operator": "Det"}),
        ("8.2", {"then_operator": "HardSwish"}),
    ],
)
def test_an_if_and_its_branches(refusing, refused, changes):
    """Every release reads If, and what is inside is parsed like the rest."""
    assert refusing(conditional(**changes))[0] == refused


def test_a_node_inside_a_branch_is_named_with_the_if(refusing):
    """The sentence names the If and the node in its branch."""
    _, sentences = refusing(conditional(then_operator="HardSwish"))

    assert "node 'n/n' is HardSwish" in sentences[0]


def test_loops_are_read(refusing):
    """Loop and Scan are read by every release."""
    write = GraphWriter()
    count, keep = write.constant("count", np.array(3)), write.constant("keep", np.array(True))
    inputs = [
        helper.make_tensor_value_info("i", TensorProto.INT64, ()),
        helper.make_tensor_value_info("go", TensorProto.BOOL, ()),
        helper.make_tensor_value_info("state", TensorProto.FLOAT, None),
    ]
    nodes = [helper.make_node("Identity", ["go"], ["still"]), helper.make_node("Relu", ["state"], ["next"])]
    outputs = [
        helper.make_tensor_value_info("still", TensorProto.BOOL, ()),
        helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
    ]
    write.add("Loop", count, keep, "x", name="n", body=helper.make_graph(nodes, "body", inputs, outputs))

    assert refusing(write.model()) == ("", [])
