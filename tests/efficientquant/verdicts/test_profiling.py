"""Profiles of real files, and the roofline drawn from them."""

import numpy as np
import pytest
from efficientquant.errors import ArtifactFileError, ProfileError
from efficientquant.plots.drawing import save_figure
from efficientquant.plots.roofline import LOOK, plot_roofline
from efficientquant.verdicts.build_verdict import Precision
from efficientquant.verdicts.costs.cost_model import Ceilings, Work
from efficientquant.verdicts.costs.profile import Profile
from efficientquant.verdicts.costs.profiling import profile
from onnx import TensorProto
from onnx_graphs import GraphWriter, convolution

CONV_MACS = 8 * 16 * 16 * 8 * 9


def test_a_built_engine_is_costed(saved):
    """The kernels of a real build have the file's MACs, integer arithmetic and a modelled time."""
    built = profile(saved(convolution(quantize_input=True)), "rtx-3080")

    multiplying = [cost.work for cost in built.costs() if cost.work.macs]
    assert [(work.macs, work.precision) for work in multiplying] == [(CONV_MACS, "int8")]
    assert built.unnamed_macs == 0
    assert all(cost.time_s > 2.5e-6 for cost in built.costs())
    assert built.ceilings.device == "RTX 3080"


@pytest.mark.parametrize("quantize_output", [False, True])
def test_kernels_of_onnx_runtime_have_bytes_and_macs(saved, quantize_output):
    """The optimized graph is run once, and packed weights count as well."""
    write = GraphWriter()
    y = write.add("Conv", write.quantized("x"), write.stored_weight("w", (8, 8, 3, 3)), name="conv", pads=[1] * 4)
    if quantize_output:
        write.quantized(y)

    loaded = profile(saved(write.model()), "onnxruntime")

    [conv] = [work for work in loaded.work if work.macs]
    assert (conv.macs, conv.precision) == (CONV_MACS, "int8" if quantize_output else "fp32")
    code_bytes = 1 if quantize_output else 4
    assert conv.size_bytes >= code_bytes * (2 * 8 * 16 * 16 + 8 * 8 * 9)
    assert (loaded.costs(), loaded.ceilings) == ([], None)
    assert "'efficientquant bench' measures it" in loaded.advice


@pytest.mark.parametrize("operator", ["MatMul", "Gemm", "ConvTranspose"])
def test_products_of_onnx_runtime_are_counted(saved, operator):
    """Matrix products and transposed convolutions have the MACs of the file."""
    write = GraphWriter()
    shape, weight = ((1, 8, 4, 4), (8, 3, 2, 2)) if operator == "ConvTranspose" else ((5, 8), (8, 3))
    options = {"strides": [2, 2]} if operator == "ConvTranspose" else {}
    write.add(operator, "x", write.constant("w", np.ones(weight, np.float32)), name="node", **options)

    loaded = profile(saved(write.model(shape=shape)), "onnxruntime")

    expected = 8 * 16 * 3 * 4 if operator == "ConvTranspose" else 5 * 8 * 3
    assert sum(work.macs for work in loaded.work) == expected


def test_what_cannot_be_profiled(saved):
    """A predicted target, a file without a size, and a file that does not run are refused in a sentence."""
    write = GraphWriter()
    write.add("Relu", "x")
    with pytest.raises(ProfileError, match=r"no profile for agx-xavier: its builder needs its GPU.*for rtx-3080, "):
        profile("missing.onnx", "agx-xavier")
    with pytest.raises(ArtifactFileError, match=r"has no size in dimension 2 \('H'\)"):
        profile(saved(write.model(shape=(1, 8, "H", 4))), "onnxruntime")
    write.add("Marker", "relu_0", domain="custom")
    for target, problem in (
        ("onnxruntime", "is not run by ONNX Runtime"),
        ("rtx-3080", "is not built by TensorRT-RTX"),
    ):
        with pytest.raises(ArtifactFileError, match=problem):
            profile(saved(write.model()), target)


def test_other_inputs_get_zeros(saved):
    """Inputs of integers are run as zeros, too, and a dynamic batch is one."""
    write = GraphWriter()
    write.add("Cast", "x", to=TensorProto.FLOAT)

    loaded = profile(saved(write.model(shape=("N", 4), element_type=TensorProto.INT64)), "onnxruntime")

    assert [(work.kind, work.size_bytes) for work in loaded.work] == [("Cast", 4 * 8 + 4 * 4)]


@pytest.fixture
def drawn():
    """Return a figure of a kernel of each bound and another without MACs."""
    ceilings = Ceilings("board", 1e9, {Precision.FP32: 1e11, Precision.FP16: 2e11, Precision.INT8: 4e11})
    sizes = {"launch": (100, 10), "bytes": (50_000, 1000), "arithmetic": (100, 10**7), "none": (100_000, 0)}
    work = [
        Work(name=name, kind="kgen", precision=Precision.FP16, size_bytes=size, macs=macs)
        for name, (size, macs) in sizes.items()
    ]
    return plot_roofline(Profile(target="t", runtime="r", work=tuple(work), ceilings=ceilings), name="net")


def test_a_roofline_shows_each_bound_with_its_mark(drawn):
    """Colour and mark tell the bounds apart, the title says that it is a model, the bar has all time."""
    roof, bar = drawn.axes

    marks = {line.get_marker(): line.get_color() for line in roof.lines if line.get_marker() != "None"}
    assert marks == {mark: colour for colour, mark in LOOK.values()}
    assert len(set(marks.values())) == 3
    assert "a model, no measurement" in drawn.get_suptitle()
    assert sum(patch.get_width() for patch in bar.patches) == pytest.approx(2.6 + 52.5 + 102.5 + 102.5)
    assert "the 1 that multiply nothing" in bar.get_xlabel()
    reached = [y for line in roof.lines if line.get_marker() != "None" for y in line.get_ydata()]
    assert max(reached) < 0.2


def test_the_same_roofline_gives_the_same_files(drawn, tmp_path):
    """A figure is written as PNG and SVG, the same twice."""
    paths = [tmp_path / f"{name}.{kind}" for name in "ab" for kind in ("png", "svg")]
    save_figure(drawn, paths)

    assert paths[0].read_bytes() == paths[2].read_bytes()
    assert paths[1].read_bytes() == paths[3].read_bytes()
