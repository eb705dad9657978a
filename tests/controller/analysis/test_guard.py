"""Tests of differences between two jobs: allowed, noted, or forbidding the comparison."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from efficientquant_controller.analysis.guard import Differences, guard, rules_table
from efficientquant_controller.analysis.metrics import METRICS, Side
from sides import ROW, found, side


@pytest.mark.parametrize("metric", METRICS)
def test_the_same_variant_in_two_campaigns_is_comparable(metric: str) -> None:
    """Two equal jobs of two campaigns have no differences."""
    assert found(metric) == Differences()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"tier": "smoke"}, "tier: standard for the first, smoke for the second"),
        ({"weights": "random"}, "weights: pretrained for the first, random for the second"),
        (
            {"weights": "checkpoint:mine.pth", "weights_sha256": "ef" * 32},
            "weights: pretrained for the first, checkpoint efefefefefef for the second",
        ),
        ({"timing_mode": "device"}, "timing mode: host for the first, device for the second"),
        ({"sync_mode": "block"}, "sync mode: spin for the first, block for the second"),
        ({"cuda_graph": "on"}, "CUDA graph: off for the first, on for the second"),
        ({"memory_kind": "device", "transfers": "none"}, "transfers: counted for the first, left out for the second"),
        ({"memory_kind": "pinned"}, "kind of buffers: mapped for the first, pinned for the second"),
        ({"power_mode": "5W"}, "power mode: MAXN for the first, 5W for the second"),
        ({"power_mode": ""}, "power mode: MAXN for the first, not recorded for the second"),
        ({"clocks": "free"}, "clocks: locked for the first, not locked for the second"),
        ({"clock_gpu_target_hz": 614.4e6}, "GPU clock: 921.6 MHz for the first, 614.4 MHz for the second"),
        ({"intra_op_threads": "2"}, "threads: not recorded for the first, 2 for the second"),
        (
            {"session_options": {"arena": "off"}},
            "session options: workspace=128 MiB for the first, arena=off for the second",
        ),
        ({"target": "rtx-3080"}, "target of the artifact: not recorded for the first, rtx-3080 for the second"),
        (
            {"realised_precision": {"fp32": 142}},
            "realised precision: 140 × fp16, 2 × fp32 for the first, 142 × fp32 for the second",
        ),
        (
            {"gpu_clock_min_hz": 76.8e6, "gpu_clock_max_hz": 614.4e6},
            "clock range: 922–922 MHz for the first, 77–614 MHz for the second",
        ),
    ],
)
def test_what_was_chosen_otherwise_forbids(changes: dict[str, Any], sentence: str) -> None:
    """Another way to measure one variant on one device refuses the comparison and is named."""
    assert sentence in found(**changes).refusals


@pytest.mark.parametrize(
    ("metric", "changes", "sentence"),
    [
        (
            "load",
            {"load_cold": False},
            "the artifact before loading: not in the page cache for the first, in the page cache for the second",
        ),
        ("energy", {"rail_set": "VDD_IN"}, "rail set: POM_5V_IN for the first, VDD_IN for the second"),
        ("power", {"rail_set": "VDD_IN"}, "rail set: POM_5V_IN for the first, VDD_IN for the second"),
        (
            "paper-memory",
            {"paper_memory_kind": "device used memory"},
            "what memory means: board used RAM for the first, device used memory for the second",
        ),
        (
            "board-memory",
            {"paper_memory_kind": "device used memory"},
            "what memory means: board used RAM for the first, device used memory for the second",
        ),
        (
            "gpu-memory",
            {"paper_memory_kind": "device used memory"},
            "what memory means: board used RAM for the first, device used memory for the second",
        ),
    ],
)
@pytest.mark.parametrize("subject", [{}, {"device": "rtx"}, {"recipe": "int8"}, {"runtime_version": "10.3.0"}])
def test_a_metrics_definition_is_never_anothers(
    metric: str, changes: dict[str, Any], sentence: str, subject: dict[str, Any]
) -> None:
    """Another definition of a metric refuses that metric for every subject, and no other metric."""
    assert sentence in found(metric, **changes, **subject).refusals
    assert sentence not in found("latency", **changes, **subject).refusals


def test_settings_that_a_runtime_tells_among_its_options() -> None:
    """The rules also judge settings that a runtime lists among its options, each by its name."""
    options = {"sync_mode": "spin", "cuda_graph": "off", "workspace": "128 MiB"}
    bare: dict[str, Any] = {"sync_mode": "", "cuda_graph": "", "session_options": options}
    failed = {**options, "cuda_graph": "off: could not be captured: no"}

    assert found(base=bare, session_options=failed) == Differences()
    assert found(base=bare, session_options={**options, "sync_mode": "block", "cuda_graph": "on"}).refusals == (
        *("sync mode: spin for the first, block for the second", "CUDA graph: off for the first, on for the second"),
    )
    assert found(base=bare, session_options={**options, "measuring_thread_cpus": "0-2"}, device="rtx").refusals == ()


@pytest.mark.parametrize(
    ("changes", "footnote"),
    [
        ({"runtime_version": "8.2.3.0"}, "runtime version: 8.2.1.8 for the first, 8.2.3.0 for the second"),
        ({"agent_version": "0.2.0"}, "agent version: 0.1.0 for the first, 0.2.0 for the second"),
        ({"fan": "on"}, "fan: not recorded for the first, on for the second"),
        ({"l4t": "R32.7.5", "snapshot_sha256": "ef"}, "L4T: R32.7.4 for the first, R32.7.5 for the second"),
        ({"cuda_version": "10.3", "snapshot_sha256": "ef"}, "CUDA: 10.2 for the first, 10.3 for the second"),
        ({"kernel": "5.10", "snapshot_sha256": "ef"}, "kernel: 4.9.337 for the first, 5.10 for the second"),
        (
            {"cuda_library": "pycuda 2022.1"},
            "library of streams and buffers: libcudart for the first, pycuda 2022.1 for the second",
        ),
        ({"gpus": '[{"driver_version": "535.1"}]'}, "NVIDIA driver: not recorded for the first, 535.1 for the second"),
        ({"gpu_clock_min_hz": 800e6}, "clock range: 922–922 MHz for the first, 800–922 MHz for the second"),
        (
            {"snapshot_sha256": "ef"},
            "device snapshot: the device, or what is installed on it, changed between the runs",
        ),
        ({"artifact_sha256": "ef"}, "artifact: the same recipe made two different files"),
    ],
)
def test_differences_that_are_only_notes(changes: dict[str, Any], footnote: str) -> None:
    """A difference that need not change the numbers is a footnote."""
    assert found(**changes) == Differences((), (footnote,))


def test_a_change_within_one_side_forbids_whatever_is_compared() -> None:
    """A power mode that changed between two repeats of a job refuses even two devices."""
    a = side("a")
    b = Side("b", [*side("b", device="xavier").repeats, *side("b", device="xavier", power_mode="5W").repeats])

    assert guard(a, b, METRICS["latency"]).refusals == ("power mode: MAXN for the first, MAXN and 5W for the second",)


def test_a_job_is_not_compared_with_itself() -> None:
    """A comparison of a job with itself is refused."""
    assert guard(side("a"), side("a"), METRICS["latency"]).refusals == ("both are job a",)


def test_rows_of_an_older_release() -> None:
    """Rows without the newer columns are comparable with each other without notes."""
    old = {name: ROW[name] for name in ("device", "model", "recipe", "tier", "weights", "backend", "runtime_version")}

    assert (
        guard(Side("a", [{**old, "job_id": "a"}]), Side("b", [{**old, "job_id": "b"}]), METRICS["energy"])
        == Differences()
    )


def test_ranges_of_a_free_clock_move_by_the_least_effect() -> None:
    """An end of a clock range that moved by less than the least effect gives no footnote."""
    a, b = side("a"), side("b", gpu_clock_min_hz=0.93 * 921.6e6)

    assert len(guard(a, b, METRICS["latency"]).footnotes) == 1
    assert guard(a, b, METRICS["latency"], min_effect=0.1).footnotes == ()


def test_sentences_name_sides_by_their_labels() -> None:
    """Sentences name a side by its label."""
    a, b = replace(side("a"), label="fp32"), replace(side("b", tier="smoke"), label="int8")

    assert guard(a, b, METRICS["latency"]).refusals == ("tier: standard for fp32, smoke for int8",)


def test_the_documents_table_is_the_guards() -> None:
    """docs/comparing.md has the table that rules_table() returns."""
    document = (Path(__file__).parents[3] / "docs/comparing.md").read_text()

    assert rules_table() in document


def test_two_checkpoints_of_one_name_are_not_the_same_weights() -> None:
    """Checkpoints are the same weights when their hashes agree, whatever their names."""
    mine = {"weights": "checkpoint:mine.pth", "weights_sha256": "ab" * 32}

    other, copy = found(base=mine, weights_sha256="cd" * 32), found(base=mine, weights="checkpoint:copy.pth")

    assert other.refusals == ("weights: checkpoint abababababab for the first, checkpoint cdcdcdcdcdcd for the second",)
    assert copy == Differences()


def clocked(job_id: str, *ranges: tuple[float, float] | None, **changes: Any) -> Side:
    """Return a job with a repeat for each range of the GPU's clock."""
    ends = [limits or (None, None) for limits in ranges]
    rows = [side(job_id, gpu_clock_min_hz=low, gpu_clock_max_hz=high, **changes).repeats[0] for low, high in ends]
    return Side(job_id, rows)


FAST, SLOW = (1350e6, 1380e6), (300e6, 310e6)


@pytest.mark.parametrize(
    ("a", "b", "sentence", "forbids"),
    [
        ((FAST, FAST), (FAST, SLOW), "1350–1380 MHz for the first, 300–310 MHz and 1350–1380 MHz for the second", True),
        (
            (FAST, SLOW),
            (FAST, SLOW),
            "300–310 MHz and 1350–1380 MHz for the first, 300–310 MHz and 1350–1380 MHz for the second",
            True,
        ),
        ((FAST, FAST), (None, None), "1350–1380 MHz for the first, not recorded for the second", False),
    ],
)
def test_clock_ranges_follow_the_rules_of_all_conditions(a: Any, b: Any, sentence: str, forbids: bool) -> None:
    """Ranges that do not meet within a job forbid every comparison, and a missing range is a footnote."""
    differences = guard(clocked("a", *a), clocked("b", *b, device="xavier"), METRICS["latency"])

    assert f"clock range: {sentence}" in (differences.refusals if forbids else differences.footnotes)
