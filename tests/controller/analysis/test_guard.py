"""What may differ between two jobs, what is told, and what forbids to compare them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from efficientquant_controller.analysis.guard import Found, guard, rules_table, subjects_of
from efficientquant_controller.analysis.metrics import METRICS, Side
from efficientquant_controller.analysis.readings import runtime_release

CONDITIONS = {
    "timing_mode": "host",
    "sync_mode": "spin",
    "cuda_graph": "off",
    "memory_kind": "mapped",
    "power_mode": "MAXN",
    "clocks": "locked",
}
ROW = {
    "job_id": "a",
    "device": "nano",
    "model": "mobilevit_xxs",
    "recipe": "fp16",
    "tier": "standard",
    "weights": "pretrained",
    "backend": "trt",
    "providers": "",
    "runtime_version": "8.2.1.8",
    "session_options": {"workspace": "128 MiB"},
    "agent_version": "0.1.0",
    "snapshot_sha256": "ab",
    "artifact_sha256": "cd",
    "load_cold": True,
    "rail_set": "POM_5V_IN",
    "paper_memory_kind": "board used RAM",
    "realised_precision": {"fp16": 140, "fp32": 2},
    "gpu_clock_min_hz": 921.6e6,
    "gpu_clock_max_hz": 921.6e6,
    "clock_gpu_target_hz": 921.6e6,
    "l4t": "R32.7.4",
    "cuda_version": "10.2",
    "kernel": "4.9.337",
    "os": "Ubuntu 18.04.6 LTS",
    "gpus": [{"name": "NVIDIA Tegra X1", "driver_version": ""}],
    "conditions": CONDITIONS,
}


def side(job_id: str, **changes: Any) -> Side:
    """A job of one repeat; what is no column changes a condition."""
    columns = {
        name: value
        for name, value in changes.items()
        if name in ROW or name in ("target", "device_id", "weights_sha256")
    }
    conditions = {**CONDITIONS, **{name: value for name, value in changes.items() if name not in columns}}
    return Side(job_id, [{**ROW, "job_id": job_id, "conditions": conditions, **columns}])


def found(metric: str = "latency", base: dict[str, Any] | None = None, **changes: Any) -> Found:
    return guard(side("a", **(base or {})), side("b", **{**(base or {}), **changes}), METRICS[metric])


@pytest.mark.parametrize("metric", METRICS)
def test_the_same_variant_in_two_campaigns_is_comparable(metric: str) -> None:
    """Nothing differs, nothing is said: whether a device became slower may be asked."""
    assert found(metric) == Found()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"tier": "smoke"}, "tier: standard for A, smoke for B"),
        ({"weights": "random"}, "weights: pretrained for A, random for B"),
        (
            {"weights": "checkpoint:mine.pth", "weights_sha256": "ef" * 32},
            "weights: pretrained for A, checkpoint efefefefefef for B",
        ),
        ({"timing_mode": "device"}, "timing mode: host for A, device for B"),
        ({"sync_mode": "block"}, "sync mode: spin for A, block for B"),
        ({"cuda_graph": "on"}, "CUDA graph: off for A, on for B"),
        ({"memory_kind": "device", "transfers": "none"}, "transfers: counted for A, left out for B"),
        ({"memory_kind": "pinned"}, "kind of buffers: mapped for A, pinned for B"),
        ({"power_mode": "5W"}, "power mode: MAXN for A, 5W for B"),
        ({"power_mode": ""}, "power mode: MAXN for A, not recorded for B"),
        ({"clocks": "free"}, "clocks: locked for A, not locked for B"),
        ({"clock_gpu_target_hz": 614.4e6}, "GPU clock: 921.6 MHz for A, 614.4 MHz for B"),
        ({"session_options": {"threads": "2"}}, "session options: workspace=128 MiB for A, threads=2 for B"),
        ({"target": "rtx-3080"}, "target of the artifact: not recorded for A, rtx-3080 for B"),
        (
            {"realised_precision": {"fp32": 142}},
            "realised precision: 140 × fp16, 2 × fp32 for A, 142 × fp32 for B",
        ),
        (
            {"gpu_clock_min_hz": 76.8e6, "gpu_clock_max_hz": 614.4e6},
            "clock range: 922–922 MHz for A, 77–614 MHz for B",
        ),
    ],
)
def test_what_was_chosen_otherwise_forbids(changes: dict[str, Any], sentence: str) -> None:
    """Two runs of one variant on one device that were measured otherwise are not compared; the difference is named."""
    assert sentence in found(**changes).refusals


@pytest.mark.parametrize(
    ("metric", "changes", "sentence"),
    [
        (
            "load",
            {"load_cold": False},
            "the artifact before loading: not in the page cache for A, in the page cache for B",
        ),
        ("energy", {"rail_set": "VDD_IN"}, "rail set: POM_5V_IN for A, VDD_IN for B"),
        ("power", {"rail_set": "VDD_IN"}, "rail set: POM_5V_IN for A, VDD_IN for B"),
        (
            "paper-memory",
            {"paper_memory_kind": "device used memory"},
            "what memory means: board used RAM for A, device used memory for B",
        ),
        (
            "board-memory",
            {"paper_memory_kind": "device used memory"},
            "what memory means: board used RAM for A, device used memory for B",
        ),
        (
            "gpu-memory",
            {"paper_memory_kind": "device used memory"},
            "what memory means: board used RAM for A, device used memory for B",
        ),
    ],
)
@pytest.mark.parametrize("subject", [{}, {"device": "rtx"}, {"recipe": "int8"}, {"runtime_version": "10.3.0"}])
def test_a_metrics_definition_is_never_anothers(
    metric: str, changes: dict[str, Any], sentence: str, subject: dict[str, Any]
) -> None:
    """Whatever is compared, memory of a discrete GPU is not a board's RAM, and one rail is not another."""
    assert sentence in found(metric, **changes, **subject).refusals
    assert sentence not in found("latency", **changes, **subject).refusals


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


def test_a_device_that_shares_its_memory_needs_no_transfers() -> None:
    """Mapped memory beside pinned is a device beside another; leaving transfers out is a choice on both."""
    mapped = {"memory_kind": "mapped", "transfers": "none: mapped memory"}

    pinned = found(base=mapped, device="rtx", memory_kind="pinned", transfers="both ways in every query")
    left_out = found(base=mapped, device="rtx", memory_kind="device", transfers="none: they stay on the device")

    assert (pinned.refusals, pinned.footnotes) == ((), ("kind of buffers: mapped for A, pinned for B",))
    assert left_out.refusals == ("transfers: counted for A, left out for B",)


def test_settings_that_a_runtime_tells_among_its_options() -> None:
    """What a runtime calls its options is judged by the same rules, each under its own name."""
    options = {"sync_mode": "spin", "cuda_graph": "off", "workspace": "128 MiB"}
    bare: dict[str, Any] = {"sync_mode": "", "cuda_graph": "", "session_options": options}
    failed = {**options, "cuda_graph": "off: could not be captured: no"}

    assert found(base=bare, session_options=failed) == Found()
    assert found(base=bare, session_options={**options, "sync_mode": "block", "cuda_graph": "on"}).refusals == (
        *("sync mode: spin for A, block for B", "CUDA graph: off for A, on for B"),
    )
    assert found(base=bare, session_options={**options, "measuring_thread_cpus": "0-2"}, device="rtx").refusals == ()


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
    ("changes", "footnote"),
    [
        ({"runtime_version": "8.2.3.0"}, "runtime version: 8.2.1.8 for A, 8.2.3.0 for B"),
        ({"agent_version": "0.2.0"}, "agent version: 0.1.0 for A, 0.2.0 for B"),
        ({"fan": "on"}, "fan: not recorded for A, on for B"),
        ({"l4t": "R32.7.5", "snapshot_sha256": "ef"}, "L4T: R32.7.4 for A, R32.7.5 for B"),
        ({"cuda_version": "10.3", "snapshot_sha256": "ef"}, "CUDA: 10.2 for A, 10.3 for B"),
        ({"kernel": "5.10", "snapshot_sha256": "ef"}, "kernel: 4.9.337 for A, 5.10 for B"),
        ({"gpus": '[{"driver_version": "535.1"}]'}, "NVIDIA driver: not recorded for A, 535.1 for B"),
        ({"gpu_clock_min_hz": 800e6}, "clock range: 922–922 MHz for A, 800–922 MHz for B"),
        (
            {"snapshot_sha256": "ef"},
            "device snapshot: the device, or what is installed on it, changed between the runs",
        ),
        ({"artifact_sha256": "ef"}, "artifact: the same recipe made two different files"),
    ],
)
def test_what_is_only_told(changes: dict[str, Any], footnote: str) -> None:
    """What need not change the numbers is a footnote."""
    assert found(**changes) == Found((), (footnote,))


def test_a_change_within_one_side_forbids_whatever_is_compared() -> None:
    """A power mode that changed between two repeats of one job is no property of its device."""
    a = side("a")
    b = Side("b", [*side("b", device="xavier").repeats, *side("b", device="xavier", power_mode="5W").repeats])

    assert guard(a, b, METRICS["latency"]).refusals == ("power mode: MAXN for A, MAXN and 5W for B",)


def test_a_job_is_not_compared_with_itself() -> None:
    """The same job twice is a slip of the hand."""
    assert guard(side("a"), side("a"), METRICS["latency"]).refusals == ("both are job a",)


def test_rows_of_an_older_release() -> None:
    """Rows without any of the newer columns are comparable with each other and say nothing."""
    old = {name: ROW[name] for name in ("device", "model", "recipe", "tier", "weights", "backend", "runtime_version")}

    assert guard(Side("a", [{**old, "job_id": "a"}]), Side("b", [{**old, "job_id": "b"}]), METRICS["energy"]) == Found()


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


def test_ranges_of_a_free_clock_move_by_the_least_effect() -> None:
    """An end of the range that moved by less than the least effect is not worth a note; the ranges here overlap."""
    a, b = side("a"), side("b", gpu_clock_min_hz=0.93 * 921.6e6)

    assert len(guard(a, b, METRICS["latency"]).footnotes) == 1
    assert guard(a, b, METRICS["latency"], min_effect=0.1).footnotes == ()


def test_sentences_name_sides_by_their_labels() -> None:
    """A twin is called by its recipe."""
    a, b = replace(side("a"), label="fp32"), replace(side("b", tier="smoke"), label="int8")

    assert guard(a, b, METRICS["latency"]).refusals == ("tier: standard for fp32, smoke for int8",)


def test_the_documents_table_is_the_guards() -> None:
    """docs/comparing.md shows the rules that hold; write its table anew with rules_table()."""
    document = (Path(__file__).parents[3] / "docs/comparing.md").read_text()

    assert rules_table() in document


def test_two_checkpoints_of_one_name_are_not_the_same_weights() -> None:
    """The hash tells them apart where the name does not, and one content under two names is one."""
    mine = {"weights": "checkpoint:mine.pth", "weights_sha256": "ab" * 32}

    other, copy = found(base=mine, weights_sha256="cd" * 32), found(base=mine, weights="checkpoint:copy.pth")

    assert other.refusals == ("weights: checkpoint abababababab for A, checkpoint cdcdcdcdcdcd for B",)
    assert copy == Found()


def clocked(job_id: str, *ranges: tuple[float, float] | None, **changes: Any) -> Side:
    """A job with a repeat for each range of the GPU's clock."""
    ends = [one or (None, None) for one in ranges]
    rows = [side(job_id, gpu_clock_min_hz=low, gpu_clock_max_hz=high, **changes).repeats[0] for low, high in ends]
    return Side(job_id, rows)


FAST, SLOW = (1350e6, 1380e6), (300e6, 310e6)


@pytest.mark.parametrize(
    ("a", "b", "sentence", "forbids"),
    [
        ((FAST, FAST), (FAST, SLOW), "1350–1380 MHz for A, 300–310 MHz and 1350–1380 MHz for B", True),
        (
            (FAST, SLOW),
            (FAST, SLOW),
            "300–310 MHz and 1350–1380 MHz for A, 300–310 MHz and 1350–1380 MHz for B",
            True,
        ),
        ((FAST, FAST), (None, None), "1350–1380 MHz for A, not recorded for B", False),
    ],
)
def test_clock_ranges_follow_the_rules_of_all_conditions(a: Any, b: Any, sentence: str, forbids: bool) -> None:
    """Ranges that do not meet within a job forbid, whatever is compared; a range of one side only is told."""
    told = guard(clocked("a", *a), clocked("b", *b, device="xavier"), METRICS["latency"])

    assert f"clock range: {sentence}" in (told.refusals if forbids else told.footnotes)


def test_two_devices_of_one_name_are_told_by_their_ids() -> None:
    """A name may have belonged to another device before; a sentence that says the same twice says nothing."""
    a, b = side("a", device_id="d1"), side("b", device_id="d2", recipe="int8")

    assert "device: d1 for A, d2 for B" in guard(a, b, METRICS["latency"]).refusals[0]
