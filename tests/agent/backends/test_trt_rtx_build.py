"""The tests of the real TensorRT-RTX, which builds without a GPU but does not load."""

import hashlib
import json
from pathlib import Path

import pytest
from real_parts import tensorrt_rtx

tensorrt_rtx()

import onnx  # noqa: E402
from efficientquant_agent.backends import cudart  # noqa: E402
from efficientquant_agent.backends.base import BackendBrokenError, BuildError, LoadError, LoadOptions  # noqa: E402
from efficientquant_agent.backends.trt import TensorrtRtx  # noqa: E402
from efficientquant_agent.backends.trt_building import compute_capabilities  # noqa: E402
from efficientquant_agent.protocol import BuildOptions  # noqa: E402

TINY = Path(__file__).parent.parent.parent / "fixtures" / "models" / "tiny.onnx"


@pytest.fixture
def build(tmp_path):
    """Give a function that builds a file for SM 8.6.

    It returns the plan's content, the report and the log.
    """

    def build_file(onnx_path, **options):
        log = []
        options.setdefault("compute_capability", 86)
        options.setdefault("timing_cache_path", str(tmp_path / "timing.cache"))
        plan = tmp_path / "model.plan"
        report = TensorrtRtx.build(str(onnx_path), str(plan), BuildOptions(**options), log.append)
        return plan.read_bytes(), report, log

    return build_file


@pytest.fixture
def no_gpu():
    """Skip the test on a machine with a GPU."""
    try:
        cudart.open_library().device_count()
    except cudart.CudaError:
        return
    pytest.skip("this machine has a GPU")


@pytest.fixture
def changed(tmp_path):
    """Return a function that writes the tiny model with one change."""

    def write(change):
        model = onnx.load(str(TINY))
        change(model.graph)
        onnx.save(model, str(tmp_path / "changed.onnx"))
        return tmp_path / "changed.onnx"

    return write


def test_a_plan_for_another_gpu(build):
    """A typed file becomes a plan for SM 8.6 with a report, on a machine without a GPU."""
    content, report, _ = build(TINY)

    assert report.engine_bytes == len(content) > 1000
    assert report.engine_sha256 == hashlib.sha256(content).hexdigest()
    assert report.notes == ()
    assert (report.settings["sm"], report.settings["tf32"]) == ("86", "off")
    assert report.settings["tensorrt_rtx"] == TensorrtRtx.library_versions()["tensorrt_rtx"]
    assert report.build_s > 0
    json.dumps(report._asdict())


def test_a_second_build_is_not_silenced(build, tmp_path):
    """A later build gets its own errors, although TensorRT keeps the first logger of a process."""
    build(TINY)
    (tmp_path / "broken.onnx").write_bytes(b"\xff" * 64)

    with pytest.raises(BuildError, match="ParseFromCodedStream") as caught:
        build(tmp_path / "broken.onnx")

    assert caught.value.failure_type == "build_failed"


def test_an_unknown_operator_is_named(build, changed):
    """An operator that TensorRT-RTX does not have is unsupported_op, with its name."""

    def make_unknown(graph):
        graph.node[0].op_type = "Nonsense"

    with pytest.raises(BuildError, match=r"\(Nonsense\): .*Plugin not found") as caught:
        build(changed(make_unknown))

    assert caught.value.failure_type == "unsupported_op"


def test_inputs_are_float32(build, changed):
    """A half-precision input is refused before anything is built."""

    def make_half(graph):
        graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
        cast = onnx.helper.make_node("Cast", [graph.input[0].name], ["as_float"], to=onnx.TensorProto.FLOAT)
        for node in graph.node:
            for index, name in enumerate(node.input):
                if name == graph.input[0].name:
                    node.input[index] = "as_float"
        graph.node.insert(0, cast)

    with pytest.raises(BuildError, match=r"'image' is DataType.HALF; only FLOAT"):
        build(changed(make_half))


@pytest.mark.parametrize(("sm", "written"), [(53, "5.3"), (90, "9.0")])
def test_an_sm_that_it_does_not_know(build, tmp_path, sm, written):
    """The real TensorRT-RTX builds for neither a Jetson Nano nor an H100, and one sentence says so."""
    with pytest.raises(BuildError, match="^TensorRT-RTX 1.* has no SM {}: it builds for SM 7.5, 8.0".format(written)):
        build(TINY, compute_capability=sm)

    assert not (tmp_path / "model.plan").exists()


def test_the_sms_of_the_real_bindings():
    """The doubles name the same SMs as the real bindings do."""
    assert compute_capabilities(TensorrtRtx._module()) == [75, 80, 86, 89, 120, 121]


@pytest.mark.usefixtures("no_gpu")
def test_loading_needs_a_gpu(build, untimed):
    """Without a GPU, loading and probing fail with a sentence that says what is missing."""
    content, _, _ = build(TINY)

    with pytest.raises(LoadError, match=r"TensorRT-RTX cannot load a plan here: .*(driver|GPU)"):
        TensorrtRtx.load(content, LoadOptions(), untimed)
    with pytest.raises(BackendBrokenError, match=r"TensorRT-RTX .* is installed, but .*(driver|GPU)"):
        TensorrtRtx.probe()


@pytest.mark.usefixtures("no_gpu")
def test_building_for_this_gpu_needs_one(build):
    """Building without a named SM fails on a machine without a GPU."""
    with pytest.raises(BuildError, match="TensorRT-RTX cannot build here"):
        build(TINY, compute_capability=0)
