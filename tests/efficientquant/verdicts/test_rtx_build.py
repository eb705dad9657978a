"""Real builds with TensorRT-RTX, which need no GPU."""

import importlib
import os
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from efficientquant.errors import MissingExtraError
from efficientquant.targets import RTX_COMPUTE_CAPABILITIES, get_target
from efficientquant.verdicts import rtx_build
from efficientquant.verdicts.build_rules import predict
from efficientquant.verdicts.rtx_layers import parse_layers, precision_of_node
from onnx import TensorProto, helper
from onnx_graphs import GraphWriter, convolution


@pytest.fixture
def onnx_without_names():
    """Return a function that takes the names of all nodes away."""

    def clear(model):
        for node in model.graph.node:
            node.name = ""
        return model

    return clear


# As the builder logs a layer, shortened to what is read.
ATTENTION = (
    "Name: _gemm_mha_v2_myl0_24, LayerType: kgen, Inputs: [ { Name: q, Dimensions: [16,256,16], Strides: [4096,16,1], "
    "Datatype: Half, Format: (Linear) Row major linear format }, { Name: k, Dimensions: [16,16,256], Datatype: Half, "
    "Format: (Linear) Row major linear format }], Constants: [], Outputs: [ { Name: o, Dimensions: [16,256,16], "
    "Datatype: Half, Format: (Linear) Row major linear format }], TacticName: _gemm_mha_v2_0x0863, StreamId: 0, "
    "Metadata: [ONNX Layer: node_matmul_1][ONNX Layer: node_softmax][ONNX Layer: node_matmul]"
)
DEQUANTIZE = (
    "Name: __myl_CastMulCast_myl0_3, LayerType: kgen, Inputs: [], Constants: [ { Name: s, Dimensions: [32,1,1,1], "
    "Datatype: Float, Format: x }, { Name: w, Dimensions: [32,16,1,1], Datatype: Int8, Format: x }], Outputs: "
    "[ { Name: o, Dimensions: [32,16,1,1], Datatype: Half, Format: x }], TacticName: __myl_CastMulCast_0x0eb7, "
    "StreamId: 0, Metadata: [ONNX Layer: conv1.weight_dequantize][ONNX Layer: node_conv2d_1]"
)


def test_a_logged_layer_is_read_with_its_types_and_nodes():
    """A kernel of both products and the softmax is fused attention, and a kernel of constants alone dequantizes."""
    attention, dequantize = parse_layers(f"Layers:\n{ATTENTION}\n{DEQUANTIZE}\n")

    assert (attention.is_fused_attention, attention.is_dequantize, attention.precision) == (True, False, "fp16")
    assert (dequantize.is_fused_attention, dequantize.is_dequantize) == (False, True)
    assert attention.onnx_nodes == ("node_matmul_1", "node_softmax", "node_matmul")
    assert precision_of_node([attention, dequantize], "node_matmul_1")[0] == "fp16"
    assert precision_of_node([attention, dequantize], "node_conv2d_1")[0] == "unknown"
    with pytest.raises(ValueError, match="not a layer"):
        parse_layers("Name: something else")


def test_what_streams_wait_for_is_no_kernel():
    """An engine of several streams lists its events, which are left out."""
    event = "Name: entry^bb^{0}^1_myl0_0, LayerType: {0}, Inputs: [], Constants: [], Outputs: [], TacticName: , "
    events = [event.format(kind) + "StreamId: 1, EventId: 10, Metadata: " for kind in ("signal", "wait")]
    [kernel] = parse_layers("\n".join(["Layers:", events[0], ATTENTION, events[1]]))

    assert kernel.name == "_gemm_mha_v2_myl0_24"


def test_an_engine_of_three_streams_is_read():
    """Of efficientformerv2_s0's log, shortened, the kernels of all streams are read, and what they wait for is not."""
    log = (Path(__file__).parents[2] / "fixtures/engines/efficientformerv2_s0.txt").read_text()

    kernels = parse_layers(log)

    lines = log.splitlines()[1:]
    events = [line for line in lines if "EventId" in line]
    assert {line.partition("StreamId: ")[2][0] for line in lines} == {"0", "1", "2"}
    assert (len(events), len(kernels)) == (37, len(lines) - 37)
    assert all(kernel.size_bytes > 0 and kernel.onnx_nodes for kernel in kernels)
    assert Counter(kernel.kind for kernel in kernels) == {
        "kgen": 3,
        "runtime_fusion": 1,
        "correlation": 3,
        "gemm": 2,
        "avgpool": 1,
    }


def test_the_targets_are_what_the_bindings_build_for():
    """Each SM that TensorRT-RTX names is a target, and no other."""
    bindings = importlib.import_module("tensorrt_rtx_bindings")
    named = [int(name[2:]) for name in bindings.ComputeCapability.__members__ if name.startswith("SM")]

    assert sorted(named) == sorted(RTX_COMPUTE_CAPABILITIES)


def test_an_sm_that_the_bindings_lack_is_no_crash():
    """A build for SM 9.0 fails with an error that has the builder's version and the SM."""
    result = rtx_build.build(convolution(quantize_input=True), 90)

    assert result.ending is rtx_build.Ending.FAILED
    assert result.problems == (("", f"TensorRT-RTX {result.version} has no SM 9.0"),)


@pytest.mark.parametrize("capability", RTX_COMPUTE_CAPABILITIES)
def test_every_compute_capability_builds_a_quantized_convolution(capability):
    """With both inputs quantized a convolution is INT8 from SM 8.0 on, and dequantized on SM 7.5."""
    expected = ("builds", "int8", 0) if capability > 75 else ("builds_with_fallback", "fp32", 1)

    verdict = rtx_build.verdict_of_build(convolution(quantize_input=True), get_target(f"tensorrt-rtx-sm{capability}"))

    assert (verdict.outcome, verdict.layers[0].precision, verdict.facts["dequantize_kernels"]) == expected
    assert verdict.facts["compute_capability"] == capability
    assert 0 < verdict.facts["plan_bytes"] < 10**7


def test_the_parser_names_the_node_that_it_refuses():
    """A bias decoded from int32, as other tools write it, is refused by name."""
    write = GraphWriter()
    bias = (write.constant("b_int32", np.zeros(8, np.int32)), write.constant("s", np.ones(8, np.float32)))
    zero = write.constant("z", np.zeros(8, np.int32))
    bias_value = write.add("DequantizeLinear", *bias, zero, name="bias_dequantize", axis=0)
    write.add("Conv", write.quantized("x"), write.stored_weight("w", (8, 8, 3, 3)), bias_value, name="conv")

    verdict = rtx_build.verdict_of_build(write.model(), get_target("rtx-3080"))

    assert (verdict.outcome, verdict.facts["ending"]) == ("fails", "refused")
    assert "'bias_dequantize' (DequantizeLinear) is refused by the parser" in str(verdict.reasons[0])
    assert "Int32" in str(verdict.reasons[0])


def test_a_node_without_a_name_is_named_by_its_place(onnx_without_names):
    """The parser gives no name, and the sentence gives the place in the file."""
    write = GraphWriter()
    write.add("Relu", "x")
    write.add("Det", "relu_0")

    verdict = rtx_build.verdict_of_build(onnx_without_names(write.model()), get_target("rtx-3080"))

    assert (verdict.outcome, verdict.reasons[0].nodes) == ("fails", ("#1",))
    assert "node '#1' (Det) is refused by the parser" in str(verdict.reasons[0])


def test_layers_of_nodes_without_names_are_known(onnx_without_names):
    """The engine names such a node after its output."""
    model = onnx_without_names(convolution(quantize_input=True))

    verdict = rtx_build.verdict_of_build(model, get_target("rtx-3080"))

    assert (verdict.outcome, verdict.precisions()) == ("builds", {"conv": {"int8": 1}})


def test_a_dynamic_batch_is_built_as_one():
    """The engine is built as the agent builds it."""
    write = GraphWriter()
    write.add("Relu", "x")

    verdict = rtx_build.verdict_of_build(write.model(shape=("N", 8, 16, 16)), get_target("rtx-3080"))

    assert (verdict.outcome, verdict.basis) == ("builds", "built")


def test_a_dynamic_image_size_is_not_built():
    """There is no size to build for, and the verdict is predicted."""
    write = GraphWriter()
    write.add("Relu", "x")

    verdict = rtx_build.verdict_of_build(write.model(shape=(1, 8, "H", "W")), get_target("rtx-3080"))

    assert (verdict.outcome, verdict.basis, verdict.reasons[0].rule) == ("fails", "predicted", "dynamic-size")


def test_the_jumps_of_an_if_are_layers():
    """A conditional jump is logged with its goals, and read like the rest."""
    write = GraphWriter()
    branches = {
        f"{name}_branch": helper.make_graph(
            [helper.make_node(operator, ["x"], [name])],
            name,
            [],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)],
        )
        for name, operator in (("then", "Relu"), ("else", "Neg"))
    }
    write.add("If", write.add("Cast", write.add("ReduceSum", "x", keepdims=0), to=TensorProto.BOOL), **branches)

    verdict = rtx_build.verdict_of_build(write.model(), get_target("rtx-3080"))

    assert (verdict.outcome, verdict.facts["layers_by_type"]["cjmp"]) == ("builds", 1)


# What the rules say of TensorRT-RTX, and what its builder says: each pair agrees.
FORMS = {
    "Resize": ("linear", {"mode": "linear", "antialias": 1}),
    "Einsum": ("capitals", {"equation": "NCHW->NCWH"}),
    "MaxPool": ("dilated", {"kernel_shape": [3, 3], "dilations": [2, 2]}),
    "LpPool": ("p=3", {"kernel_shape": [3, 3], "p": 3}),
    "Relu": ("", {}),
}


@pytest.mark.parametrize("operator", FORMS)
def test_the_rules_agree_with_the_builder(operator):
    """What the rules refuse is refused by the real parser, and the rest builds."""
    write = GraphWriter()
    others = ["", write.constant("scales", np.float32([1, 1, 2, 2]))] if operator == "Resize" else []
    write.add(operator, "x", *others, name="n", **FORMS[operator][1])
    model = write.model(opset=18)

    built, predicted = (judge(model, get_target("rtx-3080")) for judge in (rtx_build.verdict_of_build, predict))

    assert built.outcome == predicted.outcome == ("fails" if FORMS[operator][0] else "builds")


def test_a_crash_and_a_slow_build_are_endings(monkeypatch, tmp_path):
    """A builder that crashes gives a failure, and a slow build is stopped with an unknown outcome."""
    model = convolution(quantize_input=True)
    crash = tmp_path / "tensorrt_rtx_bindings.py"
    crash.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    slow = rtx_build.verdict_of_build(model, get_target("rtx-3080"), timeout_s=0.01)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, sys.path)]))

    died = rtx_build.verdict_of_build(model, get_target("rtx-3080"))

    assert (died.outcome, died.facts["ending"]) == ("fails", "crashed")
    assert "SIGSEGV" in str(died.reasons[0])
    assert (slow.outcome, slow.facts["ending"]) == ("unknown", "timed-out")


def test_without_the_library_the_extra_is_named(monkeypatch):
    """A build without the library raises an error that says what to install."""
    monkeypatch.setitem(sys.modules, "tensorrt_rtx_bindings", None)

    with pytest.raises(MissingExtraError, match=r"pip install .*\[rtx\]' adds it"):
        rtx_build.build(convolution(quantize_input=True), 86)
