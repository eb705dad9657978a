"""Tests of differences that another recipe, device or runtime brings along."""

from typing import Any

import pytest
from efficientquant_controller.analysis.guard import guard, subjects_of
from efficientquant_controller.analysis.metrics import METRICS, Side
from efficientquant_controller.analysis.readings import runtime_release
from sides import found, side


@pytest.mark.parametrize(
    ("changes", "subject"),
    [
        ({"model": "mobilevit_s"}, "model"),
        ({"recipe": "int8"}, "recipe"),
        ({"device": "xavier", "device_id": "d2"}, "device"),
        ({"backend": "ort-cpu"}, "runtime"),
        ({"runtime_version": "10.3.0"}, "runtime"),
        ({"providers": "CUDAExecutionProvider"}, "runtime"),
        ({"device_id": "d2"}, "device"),
    ],
)
def test_one_subject_may_differ(changes: dict[str, Any], subject: str) -> None:
    """Jobs that differ only in model, recipe, device or runtime may be compared."""
    base = {"device_id": "d1"}
    a, b = side("a", **base), side("b", **{**base, **changes})

    assert subjects_of(a, b) == [subject]
    assert guard(a, b, METRICS["latency"]).refusals == ()


def test_a_device_may_be_renamed() -> None:
    """A device keeps its identity under another name, because its id counts."""
    a, b = side("a", device_id="d1"), side("b", device_id="d1", device="nano-of-the-lab")

    assert subjects_of(a, b) == []


def test_two_subjects_may_not() -> None:
    """Two different subjects refuse the comparison, and both are named."""
    assert found(recipe="int8", device="xavier").refusals == (
        "2 things differ where one is compared: recipe: fp16 for the first, int8 for the second; "
        "device: nano for the first, xavier for the second",
    )


def test_a_device_brings_its_modes_and_clocks() -> None:
    """Power modes, clocks and buffers of two devices are footnotes and forbid nothing."""
    changes = {"power_mode": "", "clock_gpu_target_hz": 1.47e9, "memory_kind": "pinned", "target": "rtx-3080"}

    differences = found(device="rtx", gpu_clock_min_hz=1.47e9, gpu_clock_max_hz=1.47e9, **changes)

    assert differences.refusals == ()
    assert [footnote.partition(":")[0] for footnote in differences.footnotes] == [
        *("kind of buffers", "power mode", "GPU clock", "clock range", "target of the artifact"),
    ]


def test_a_device_does_not_bring_what_the_user_chose() -> None:
    """Locked clocks against free clocks are refused, also on two devices."""
    assert found(device="rtx", clocks="free").refusals == ("clocks: locked for the first, not locked for the second",)
    assert found(base={"clocks": "free"}, device="rtx", clocks="unverifiable").refusals == ()


def test_a_runtime_lacks_what_it_does_not_know() -> None:
    """A setting that a runtime lacks is a footnote, and a different setting is refused."""
    lacking = found(backend="ort-cpu", cuda_graph="", sync_mode="")
    other = found(backend="trt-rtx", cuda_graph="on")

    assert lacking.refusals == ()
    assert "CUDA graph: off for the first, not recorded for the second" in lacking.footnotes
    assert other.refusals == ("CUDA graph: off for the first, on for the second",)


def test_threads_are_a_choice_of_every_runtime_that_has_them() -> None:
    """Different numbers of threads are refused, and a runtime without threads gives a footnote."""
    two, four = ({"session_options": {"intra_op_threads": n}} for n in ("2", "4"))

    other = found(base={"backend": "ort-cpu", **two}, runtime_version="10.3.0", **four)
    lacking = found(base=two, backend="trt-rtx", session_options={})

    assert other.refusals == ("threads: 2 for the first, 4 for the second",)
    assert (lacking.refusals, lacking.footnotes[:1]) == ((), ("threads: 2 for the first, not recorded for the second",))


def test_a_device_that_shares_its_memory_needs_no_transfers() -> None:
    """Mapped memory may be compared with pinned memory, but not with transfers that were left out."""
    mapped = {"memory_kind": "mapped", "transfers": "none: mapped memory"}

    pinned = found(base=mapped, device="rtx", memory_kind="pinned", transfers="both ways in every query")
    left_out = found(base=mapped, device="rtx", memory_kind="device", transfers="none: they stay on the device")

    assert (pinned.refusals, pinned.footnotes) == (
        (),
        ("kind of buffers: mapped for the first, pinned for the second",),
    )
    assert left_out.refusals == ("transfers: counted for the first, left out for the second",)


@pytest.mark.parametrize(
    ("changes", "forbidden"),
    [
        ({"recipe": "int8"}, False),
        ({"model": "mobilevit_s"}, False),
        ({"runtime_version": "10.3.0"}, False),
        ({"device": "xavier"}, True),
        ({}, True),
    ],
)
def test_precision_belongs_to_recipe_and_runtime(changes: dict[str, Any], forbidden: bool) -> None:
    """Another realised precision is a footnote for other recipes, models and runtimes, and refused otherwise."""
    sentence = "realised precision: 140 × fp16, 2 × fp32 for the first, 35 × int8 for the second"

    differences = found(realised_precision={"int8": 35}, **changes)

    assert (sentence in differences.refusals, sentence in differences.footnotes) == (forbidden, not forbidden)


def test_other_counts_of_the_same_types_are_noted() -> None:
    """Other counts of the same layer types are a footnote, also when they come as JSON."""
    differences = found(runtime_version="10.3.0", realised_precision='{"fp16": 90, "fp32": 2}')

    assert differences.refusals == ()
    assert (
        "realised precision: 140 × fp16, 2 × fp32 for the first, 90 × fp16, 2 × fp32 for the second"
        in differences.footnotes
    )


@pytest.mark.parametrize(
    ("backend", "version", "release"),
    [("trt", "8.5.2.2", "8.5"), ("trt-rtx", "1.7.1", "1.7"), ("ort-cpu", "1.23.2", "1.23"), ("toy", "3", "3")],
)
def test_what_a_release_is(backend: str, version: str, release: str) -> None:
    """The release of every runtime is the first two numbers of its version."""
    assert runtime_release({"backend": backend, "runtime_version": version}) == release


def test_a_runtime_that_changed_within_a_job_forbids() -> None:
    """A runtime that changed between two repeats of a job is refused."""
    b = Side("b", [*side("b").repeats, *side("b", runtime_version="8.5.2.2").repeats])

    assert guard(side("a"), b, METRICS["latency"]).refusals == (
        "runtime: trt 8.2 for the first, trt 8.2 and trt 8.5 for the second, which changed within a job",
    )


def test_tensorrt_and_onnx_runtime() -> None:
    """Buffers, options and precision that come with a runtime are footnotes and forbid nothing."""
    trt = {
        "session_options": {"sync_mode": "spin", "cuda_graph": "off", "transfers": "none: mapped memory"},
        "target": "agx-xavier",
    }
    ort = {
        "backend": "ort-cuda",
        "runtime_version": "1.12.1",
        "providers": "CUDAExecutionProvider,CPUExecutionProvider",
        "memory_kind": "pageable",
        "sync_mode": "",
        "session_options": {"graph_optimization": "all", "transfers": "both ways in every query"},
        "realised_precision": {},
        "target": "onnxruntime-1.10",
    }

    differences = found(base=trt, **ort)

    assert differences.refusals == ()
    assert [footnote.partition(":")[0] for footnote in differences.footnotes] == [
        *("sync mode", "kind of buffers", "session options", "target of the artifact", "realised precision"),
        "runtime version",
    ]


def test_a_runtime_does_not_bring_left_out_transfers() -> None:
    """A latency without transfers is not compared with a latency that counts them, whatever the runtimes."""
    differences = found(base={"memory_kind": "device", "transfers": "none: they stay"}, backend="ort-cpu", transfers="")

    assert "transfers: left out for the first, counted for the second" in differences.refusals


def test_two_devices_of_one_name_are_named_by_their_ids() -> None:
    """Two devices of one name are named by their ids."""
    a, b = side("a", device_id="d1"), side("b", device_id="d2", recipe="int8")

    assert "device: d1 for the first, d2 for the second" in guard(a, b, METRICS["latency"]).refusals[0]
