"""What comes with another recipe, device or runtime, and what does not."""

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
    """A model, a recipe, a device or a runtime may be compared with another; each alone refuses nothing."""
    base = {"device_id": "d1"}
    a, b = side("a", **base), side("b", **{**base, **changes})

    assert subjects_of(a, b) == [subject]
    assert guard(a, b, METRICS["latency"]).refusals == ()


def test_a_device_may_be_renamed() -> None:
    """The device is its id: another name for it is no other device."""
    a, b = side("a", device_id="d1"), side("b", device_id="d1", device="nano-of-the-lab")

    assert subjects_of(a, b) == []


def test_two_subjects_may_not() -> None:
    """INT8 on one device beside FP16 on another answers no question; both differences are named."""
    assert found(recipe="int8", device="xavier").refusals == (
        "2 things differ where one is compared: recipe: fp16 for A, int8 for B; device: nano for A, xavier for B",
    )


def test_a_device_brings_its_modes_and_clocks() -> None:
    """Two devices have their own power modes, clocks and buffers, which are told and forbid nothing."""
    changes = {"power_mode": "", "clock_gpu_target_hz": 1.47e9, "memory_kind": "pinned", "target": "rtx-3080"}

    told = found(device="rtx", gpu_clock_min_hz=1.47e9, gpu_clock_max_hz=1.47e9, **changes)

    assert told.refusals == ()
    assert [one.partition(":")[0] for one in told.footnotes] == [
        *("kind of buffers", "power mode", "GPU clock", "clock range", "target of the artifact"),
    ]


def test_a_device_does_not_bring_what_the_user_chose() -> None:
    """Locked clocks there and free ones here are a choice, on two devices as well."""
    assert found(device="rtx", clocks="free").refusals == ("clocks: locked for A, not locked for B",)
    assert found(base={"clocks": "free"}, device="rtx", clocks="unverifiable").refusals == ()


def test_a_runtime_lacks_what_it_does_not_know() -> None:
    """A runtime without CUDA graphs has no such setting, which is told; another setting forbids."""
    lacking = found(backend="ort-cpu", cuda_graph="", sync_mode="")
    other = found(backend="trt-rtx", cuda_graph="on")

    assert lacking.refusals == ()
    assert "CUDA graph: off for A, not recorded for B" in lacking.footnotes
    assert other.refusals == ("CUDA graph: off for A, on for B",)


def test_threads_are_a_choice_of_every_runtime_that_has_them() -> None:
    """Two releases of ONNX Runtime at other numbers of threads are not compared; TensorRT has no such number."""
    two, four = ({"session_options": {"intra_op_threads": n}} for n in ("2", "4"))

    other = found(base={"backend": "ort-cpu", **two}, runtime_version="10.3.0", **four)
    lacking = found(base=two, backend="trt-rtx", session_options={})

    assert other.refusals == ("threads: 2 for A, 4 for B",)
    assert (lacking.refusals, lacking.footnotes[:1]) == ((), ("threads: 2 for A, not recorded for B",))


def test_a_device_that_shares_its_memory_needs_no_transfers() -> None:
    """Mapped memory beside pinned is a device beside another; leaving transfers out is a choice on both."""
    mapped = {"memory_kind": "mapped", "transfers": "none: mapped memory"}

    pinned = found(base=mapped, device="rtx", memory_kind="pinned", transfers="both ways in every query")
    left_out = found(base=mapped, device="rtx", memory_kind="device", transfers="none: they stay on the device")

    assert (pinned.refusals, pinned.footnotes) == ((), ("kind of buffers: mapped for A, pinned for B",))
    assert left_out.refusals == ("transfers: counted for A, left out for B",)


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
    """INT8 realised as FP32 on one of two devices is not the same variant; recipes and runtimes bring theirs."""
    sentence = "realised precision: 140 × fp16, 2 × fp32 for A, 35 × int8 for B"

    told = found(realised_precision={"int8": 35}, **changes)

    assert (sentence in told.refusals, sentence in told.footnotes) == (forbidden, not forbidden)


def test_other_counts_of_the_same_types_are_told() -> None:
    """A runtime that fuses more has fewer layers of the same precision; counts may come as JSON."""
    told = found(runtime_version="10.3.0", realised_precision='{"fp16": 90, "fp32": 2}')

    assert told.refusals == ()
    assert "realised precision: 140 × fp16, 2 × fp32 for A, 90 × fp16, 2 × fp32 for B" in told.footnotes


@pytest.mark.parametrize(
    ("backend", "version", "release"),
    [("trt", "8.5.2.2", "8.5"), ("trt-rtx", "1.7.1", "1.7"), ("ort-cpu", "1.23.2", "1.23"), ("toy", "3", "3")],
)
def test_what_a_release_is(backend: str, version: str, release: str) -> None:
    """A runtime's release is the first two numbers of its version, whatever the runtime."""
    assert runtime_release({"backend": backend, "runtime_version": version}) == release


def test_a_runtime_that_changed_within_a_job_forbids() -> None:
    """A runtime that was replaced between two repeats of one job is no subject that both sides have."""
    b = Side("b", [*side("b").repeats, *side("b", runtime_version="8.5.2.2").repeats])

    assert guard(side("a"), b, METRICS["latency"]).refusals == (
        "runtime: trt 8.2 for A, trt 8.2 and trt 8.5 for B, which changed within a job",
    )


def test_tensorrt_beside_onnx_runtime() -> None:
    """What comes with a runtime is told and forbids nothing: its buffers, its options, what it says of precision."""
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

    told = found(base=trt, **ort)

    assert told.refusals == ()
    assert [one.partition(":")[0] for one in told.footnotes] == [
        *("sync mode", "kind of buffers", "session options", "target of the artifact", "realised precision"),
        "runtime version",
    ]


def test_a_runtime_does_not_bring_left_out_transfers() -> None:
    """A latency without its copies is another quantity, whatever the runtimes."""
    told = found(base={"memory_kind": "device", "transfers": "none: they stay"}, backend="ort-cpu", transfers="")

    assert "transfers: left out for A, counted for B" in told.refusals


def test_two_devices_of_one_name_are_told_by_their_ids() -> None:
    """A name may have belonged to another device before; a sentence that says the same twice says nothing."""
    a, b = side("a", device_id="d1"), side("b", device_id="d2", recipe="int8")

    assert "device: d1 for A, d2 for B" in guard(a, b, METRICS["latency"]).refusals[0]
