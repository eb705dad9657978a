"""The cost model by hand-computed kernels, and the work that it is given."""

import numpy as np
import pytest
from efficientquant.artifact.view import GraphView
from efficientquant.targets import get_target
from efficientquant.verdicts.build_verdict import Precision
from efficientquant.verdicts.costs.cost_model import LAUNCH_S, Bound, Ceilings, Work, ceilings_of, model_cost, total_s
from efficientquant.verdicts.costs.engine_work import work_of_engine
from efficientquant.verdicts.costs.onnx_macs import macs_of_node
from efficientquant.verdicts.costs.profile import Profile
from efficientquant.verdicts.rtx_layers import EngineTensor, parse_layers
from onnx import TensorProto, helper
from onnx_graphs import GraphWriter

# A byte takes a nanosecond, and a MAC in FP16 a hundredth of that.
CEILINGS = Ceilings("board", 1e9, {Precision.FP32: 1e11, Precision.FP16: 2e11, Precision.INT8: 4e11})
LINE = (
    "Name: {name}, LayerType: {kind}, Inputs: [ {{ Name: x, Dimensions: [1,8,16,16], Datatype: Half, Format: f }}], "
    "Constants: [ {{ Name: w, Dimensions: [8,8,3,3], Datatype: Half, Format: f }}], Outputs: [ {{ Name: y, Dimensions: "
    "[1,8,16,16], Datatype: {output}, Format: f }}], TacticName: t, StreamId: 0, Metadata: [ONNX Layer: {node}]"
)


def work(size_bytes, macs=0, precision=Precision.FP16):
    return Work(name="kernel", kind="kgen", precision=precision, size_bytes=size_bytes, macs=macs)


@pytest.mark.parametrize(
    ("kernel", "time_s", "bound"),
    [
        (work(1000), 2.5e-6 + 1e-6, Bound.LAUNCH),
        (work(2500), 2.5e-6 + 2.5e-6, Bound.LAUNCH),
        (work(10_000), 2.5e-6 + 10e-6, Bound.BYTES),
        (work(10_000, 2_000_000), 2.5e-6 + 20e-6, Bound.ARITHMETIC),
        (work(10_000, 2_000_000, Precision.INT8), 2.5e-6 + 10e-6, Bound.BYTES),
        (work(0, 1_000_000, Precision.MIXED), 2.5e-6 + 20e-6, Bound.ARITHMETIC),
    ],
)
def test_a_kernel_takes_a_launch_and_the_longer_of_two(kernel, time_s, bound):
    """A kernel is bound by the largest of launch, bytes and arithmetic, and unknown arithmetic counts as FP32."""
    cost = model_cost(kernel, CEILINGS)

    assert cost.time_s == pytest.approx(time_s)
    assert cost.bound is bound


def test_kernels_run_one_after_another():
    """The modelled time of a file is the sum of its kernels."""
    assert total_s(model_cost(work(1000), CEILINGS) for _ in range(3)) == pytest.approx(3 * (LAUNCH_S + 1e-6))


def test_the_rtx_3080_has_its_published_peaks():
    """The RTX 3080 moves 760 GB/s, and multiplies 29.8, 119 and 238 tera-operations a second."""
    ceilings = ceilings_of(get_target("rtx-3080"))

    assert (ceilings.device, ceilings.bytes_per_s) == ("RTX 3080", 760e9)
    peaks = [ceilings.peak(Precision(name)) for name in ("fp32", "fp16", "int8", "unknown")]
    assert peaks == [29.8e12, 119e12, 238e12, 29.8e12]
    assert ceilings_of(get_target("tensorrt-rtx-sm86")) is ceilings


@pytest.mark.parametrize("target", ["tensorrt-rtx-sm121", "jetson-nano", "onnxruntime"])
def test_no_peaks_are_made_up(target):
    """A target whose peaks are not published, or whose kernels are not known, has no model."""
    assert ceilings_of(get_target(target)) is None


@pytest.mark.parametrize(
    ("kind", "elements", "size_bytes"),
    [
        ("Half", 3, 6),
        ("Float", 3, 12),
        ("Int8", 3, 3),
        ("Int4", 3, 2),
        ("Int64", 3, 24),
        ("Bool", 3, 3),
        ("Int32", 3, 12),
    ],
)
def test_the_bytes_of_a_tensor(kind, elements, size_bytes):
    """A tensor has its elements' bits, in whole bytes."""
    assert EngineTensor(elements, kind).size_bytes == size_bytes


@pytest.mark.parametrize(
    ("operator", "shapes", "attributes", "macs"),
    [
        ("Conv", [(1, 8, 16, 16), (4, 8, 3, 3)], {"pads": [1, 1, 1, 1]}, 4 * 16 * 16 * 8 * 9),
        ("Conv", [(1, 8, 16, 16), (8, 1, 3, 3)], {"group": 8, "strides": [2, 2], "pads": [1, 1, 1, 1]}, 8 * 8 * 8 * 9),
        ("ConvTranspose", [(1, 8, 4, 4), (8, 4, 2, 2)], {"strides": [2, 2]}, 8 * 4 * 4 * 4 * 4),
        ("MatMul", [(2, 5, 8), (2, 8, 3)], {}, 2 * 5 * 8 * 3),
        ("Gemm", [(8, 5), (3, 8)], {"transA": 1, "transB": 1}, 5 * 8 * 3),
        ("MatMul", [("N", 5, 8), (8, 3)], {}, 5 * 8 * 3),
        ("MatMul", [("N", "T", 8), (8, 3)], {}, 0),
        ("Relu", [(1, 8)], {}, 0),
    ],
)
def test_the_macs_of_a_node(operator, shapes, attributes, macs):
    """Convolutions and matrix products have MACs at batch one, where their shapes are known."""
    write = GraphWriter()
    others = [write.constant("w", np.zeros(shape, np.float32)) for shape in shapes[1:]]
    write.add(operator, "x", *others, name="node", **attributes)
    view = GraphView(write.model(shape=shapes[0]))

    assert macs_of_node(view, view.nodes[-1]) == macs


def test_macs_are_spread_over_the_kernels_of_a_node():
    """Two kernels that compute a node share its MACs, and a cast of its result has none."""
    write = GraphWriter()
    write.add("Conv", "x", write.stored_weight("w", (8, 8, 3, 3)), name="conv", pads=[1, 1, 1, 1])
    kinds = (("a", "correlation", "Half"), ("b", "correlation", "Half"), ("c", "kgen", "Float"))
    lines = [LINE.format(name=name, kind=kind, output=output, node="conv") for name, kind, output in kinds]

    kernels = work_of_engine(GraphView(write.model()), parse_layers("\n".join(lines)))

    assert [kernel.macs for kernel in kernels] == [8 * 16 * 16 * 8 * 9 // 2] * 2 + [0]
    assert [kernel.size_bytes for kernel in kernels] == [2 * (2048 + 576 + 2048)] * 2 + [2 * (2048 + 576) + 4 * 2048]
    assert [kernel.precision for kernel in kernels] == ["fp16"] * 3


def test_a_profile_adds_up():
    """The shares are those of all kernels, and the advice is about the bound with the most time."""
    kernels = (work(1000), work(1000), work(50_000), work(10_000, 2_000_000))
    profile = Profile(target="t", runtime="r", work=kernels, ceilings=CEILINGS)

    shares = {share.bound: (share.kernels, round(share.time_s * 1e6, 1)) for share in profile.shares()}

    assert shares == {"launch": (2, 7.0), "bytes": (1, 52.5), "arithmetic": (1, 22.5)}
    assert sum(share.share for share in profile.shares()) == pytest.approx(1)
    assert profile.advice.startswith("most of it is bytes")
    stored = profile.to_dict()
    assert stored["modelled_s"] == pytest.approx(82e-6)
    assert stored["model"].endswith("a model, no measurement")


def test_a_profile_without_peaks_has_no_time():
    """Without peaks there are bytes and MACs alone, and the remark says why."""
    profile = Profile(target="t", runtime="r", work=(work(1000, 7),), remark="nothing is known")

    stored = profile.to_dict()

    assert (profile.costs(), profile.shares(), profile.advice) == ([], [], "nothing is known")
    assert (stored["modelled_s"], stored["model"], stored["macs"], stored["size_bytes"]) == (None, None, 7, 1000)
    assert "modelled_s" not in stored["layers"][0]


def test_a_convolution_behind_a_group_norm_has_its_macs():
    """ONNX infers no shape behind a GroupNormalization of opset 21, so that its input's is taken."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 4, 8, 8))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    ones = [helper.make_tensor(name, TensorProto.FLOAT, shape, [1.0] * 4) for name, shape in (("g", (4,)), ("b", (4,)))]
    weight = helper.make_tensor("w", TensorProto.FLOAT, (2, 4, 3, 3), [0.5] * 72)
    nodes = [
        helper.make_node("GroupNormalization", ["x", "g", "b"], ["n"], num_groups=1),
        helper.make_node("Conv", ["n", "w"], ["y"], name="conv"),
    ]
    graph = helper.make_graph(nodes, "graph", [x], [y], [*ones, weight])
    view = GraphView(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10))

    assert macs_of_node(view, view.nodes[1]) == 2 * 6 * 6 * 4 * 3 * 3
