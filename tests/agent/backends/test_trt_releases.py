"""The tests of building engines, on stubs of every claimed release."""

import json

import pytest
from efficientquant_agent.backends import trt_building
from efficientquant_agent.backends.base import (
    BuildError,
)
from trt_api import RELEASES, RTX

XAVIER, TEN, ELEVEN = RELEASES[2], RELEASES[5], RELEASES[8]
WEAKLY_TYPED = RELEASES[:8]


@pytest.mark.parametrize("release", RELEASES)
def test_float32_is_not_tf32(install, build, release):
    """TF32 is off unless it is asked for, and a symbolic batch is 1."""
    backend = install(release)

    off, off_report, _ = build(backend)
    on, on_report, _ = build(backend, builder_flags=["tf32"])

    assert (json.loads(off.decode())["flags"], off_report.settings["tf32"]) == ([], "off")
    assert (json.loads(on.decode())["flags"], on_report.settings["tf32"]) == (["TF32"], "on")
    assert json.loads(off.decode())["shapes"] == [[1, 4]]
    assert json.loads(off.decode())["iterations"] == 8
    assert json.loads(off.decode())["verbosity"] == "DETAILED"


@pytest.mark.parametrize("release", [RELEASES[0], XAVIER, TEN, ELEVEN, RTX])
@pytest.mark.parametrize(
    ("shape", "dimensions"),
    [((1, 3, -1, -1), "dimensions 2 and 3"), ((-1, 3, 224, -1), "dimension 3"), ((-1, -1), "dimension 1")],
)
def test_no_other_size_than_the_batch_is_guessed(install, build, release, shape, dimensions):
    """An input without a size other than the batch fails to build."""
    with pytest.raises(BuildError, match="input 'x' has no size in {}; only the batch".format(dimensions)) as caught:
        build(install(release), {"shape": shape})

    assert caught.value.failure_type == "build_failed"


@pytest.mark.parametrize("release", RELEASES)
def test_the_network_is_as_the_release_wants_it(install, build, release):
    """The batch is explicit until 8.6, and types without flags make the network strongly typed on 10."""
    expected = 1 if release in RELEASES[:4] else 2 if release in WEAKLY_TYPED else 0

    content, _, _ = build(install(release))

    assert json.loads(content.decode())["network_flags"] == expected


@pytest.mark.parametrize("release", WEAKLY_TYPED)
def test_flags_where_they_exist(install, build, release):
    """Until 10, FP16 and INT8 are builder flags, on a network whose types they may change."""
    content, report, _ = build(install(release), builder_flags=["fp16", "int8"])

    assert json.loads(content.decode())["flags"] == ["FP16", "INT8"]
    assert json.loads(content.decode())["network_flags"] == (1 if release in RELEASES[:4] else 0)
    assert report.settings["precision"] == "fp16+int8"


@pytest.mark.parametrize("release", RELEASES[8:])
def test_flags_where_they_are_gone(install, build, release):
    """From 11 on, a file that needs the FP16 flag is refused, and INT8 is noted."""
    backend = install(release)

    _, report, _ = build(backend, builder_flags=["int8"])
    assert "flag int8 does not exist" in report.notes[0]
    with pytest.raises(BuildError, match=r"no builder flag 'fp16'.*typed target"):
        build(backend, builder_flags=["fp16"])


@pytest.mark.parametrize("release", RELEASES)
def test_the_workspace_ladder(install, build, release):
    """A smaller workspace is tried when memory runs out, and build_oom is raised when none suffices."""
    backend = install(release)

    content, report, _ = build(backend, {"memory_for": 128 << 20})
    assert json.loads(content.decode())["workspace"] == report.workspace_bytes == 128 << 20
    assert len(report.notes) == 2
    with pytest.raises(BuildError, match="out of memory") as caught:
        build(backend, {"memory_for": 1})
    assert caught.value.failure_type == "build_oom"


@pytest.mark.parametrize("release", RELEASES[:-1])
def test_timings_are_kept(install, build, tmp_path, release):
    """A build keeps its timings for the next build, and replaces timings of another version."""
    backend, kept = install(release), tmp_path / "timing.cache"

    build(backend)
    build(backend)
    assert kept.read_bytes() == b"tt"
    kept.write_bytes(b"of another version")
    _, _, log = build(backend)

    assert kept.read_bytes() == b"t"
    assert log == ["the timing cache does not fit this TensorRT: a new one is begun"]
    build(backend, timing_cache_path="")
    assert kept.read_bytes() == b"t"


def test_nothing_is_timed_on_rtx(install, build, tmp_path):
    """TensorRT-RTX leaves no timing cache, because it times nothing when it builds."""
    build(install(RTX))

    assert not (tmp_path / "timing.cache").exists()


# activation → Q → DQ ┐
#          w → Q → DQ ┴ conv_1, whose name is the beginning of conv_10's
QUANTIZED = [
    ["CONSTANT", "w", [], ["w"]],
    ["QUANTIZE", "w_q", ["w"], ["q_w"]],
    ["DEQUANTIZE", "w_dq", ["q_w"], ["dq_w"]],
    ["QUANTIZE", "x_q", ["x"], ["q_x"]],
    ["DEQUANTIZE", "x_dq", ["q_x"], ["dq_x"]],
    ["CONVOLUTION", "conv_1", ["dq_x", "w"], ["a"]],
    ["CONVOLUTION", "conv_10", ["dq_x", "dq_w"], ["b"]],
]


@pytest.mark.parametrize("release", WEAKLY_TYPED)
def test_a_layer_without_an_int8_kernel_falls_back(install, build, release):
    """Q/DQ is dropped before exactly the layer without an INT8 kernel, and the report says so."""
    model = {"layers": QUANTIZED, "no_kernel": ["conv_1"]}

    content, report, _ = build(install(release), model, builder_flags=["int8"])

    inputs = dict(json.loads(content.decode())["layers"])
    assert (inputs["conv_1"], inputs["conv_10"]) == (["x", "w"], ["dq_x", "dq_w"])
    assert report.notes == ("Q/DQ of conv_1 dropped: no INT8 kernel",)


@pytest.mark.parametrize(
    ("message", "named"),
    [
        ("for node conv_1.)", True),
        ("for node w + conv_1 + PWN(silu).)", True),
        ("for node {ForeignNode[conv_1...conv_9]}.)", True),
        ("for node {ForeignNode[conv_0...conv_1]}.)", True),
        ("for node conv_10.)", False),
        ("for node stem.conv_1.)", False),
        ("for node stem/conv_1.)", False),
        ("for node conv_1.weight_dequantize.)", False),
    ],
)
def test_a_layer_is_named_by_a_message(message, named):
    """A message names a layer alone or fused, but not a layer whose name contains its name."""
    assert trt_building._names(message, "conv_1") == named


@pytest.mark.parametrize("release", WEAKLY_TYPED)
def test_a_layer_that_cannot_fall_back_fails(install, build, release):
    """Without Q/DQ to drop (here only the weights have it), the build fails in TensorRT's words."""
    with pytest.raises(BuildError, match="Could not find any implementation") as caught:
        build(install(release), {"layers": QUANTIZED, "no_kernel": ["conv_10"]}, builder_flags=["int8"])

    assert caught.value.failure_type == "build_failed"


@pytest.mark.parametrize("release", RELEASES)
def test_an_unsupported_operator_is_named(install, build, release):
    """An unsupported operator is unsupported_op with its name, and a broken file is build_failed."""
    backend = install(release)

    with pytest.raises(BuildError, match=r"\(Nonsense\): In node 7") as caught:
        build(backend, {"refuse": "UNSUPPORTED_NODE"})
    assert caught.value.failure_type == "unsupported_op"
    with pytest.raises(BuildError, match="In node 7") as caught:
        build(backend, {"refuse": "INVALID_GRAPH"})


@pytest.mark.parametrize("release", RELEASES)
def test_inputs_are_float32(install, build, release):
    """A model with an input of another type cannot be built."""
    with pytest.raises(BuildError, match="only FLOAT inputs"):
        build(install(release), {"type": "INT32"})


@pytest.mark.parametrize(("release", "builds"), [(TEN, False), (ELEVEN, False), (RTX, True)])
def test_building_for_another_gpu(install, build, cuda, release, builds):
    """Only TensorRT-RTX builds for another SM than this machine's."""
    cuda.attributes.update({75: 8, 76: 9})
    backend = install(release)

    if builds:
        assert json.loads(build(backend, compute_capability=86)[0].decode())["capability"] == "SM86"
    else:
        with pytest.raises(BuildError, match="which is SM 89, not SM 86"):
            build(backend, compute_capability=86)


def test_a_report_says_what_an_engine_was_built_with(install, build):
    """The report has release, GPU, types, TF32, workspaces and iterations, for a person to read."""
    options = {"builder_flags": ["tf32", "fp16"], "workspace_ladder_bytes": [2, 1], "timing_iterations": 4}

    _, report, _ = build(install(XAVIER), **options)

    l4t = report.settings.pop("l4t")
    assert isinstance(l4t, str)
    assert report.settings == {
        "tensorrt": XAVIER,
        "sm": "86",
        "gpu": "NVIDIA GeForce RTX 3080",
        "precision": "fp16",
        "tf32": "on",
        "workspace_ladder_bytes": "2,1",
        "timing_iterations": "4",
    }
