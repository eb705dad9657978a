"""Records and messages are the same thing in two shapes."""

from dataclasses import fields, replace

from efficientquant_controller.model import (
    Backend,
    DeviceSnapshot,
    Measurement,
    RunResult,
    Series,
    StageTiming,
)
from efficientquant_controller.server import convert
from efficientquant_protos.v1 import fleet_pb2 as pb

SNAPSHOT = DeviceSnapshot(
    board_id="serial",
    board="Jetson Nano",
    os="Ubuntu 18.04",
    kernel="4.9",
    architecture="aarch64",
    cpu_model="A57",
    cpu_count=4,
    memory_total_bytes=4 << 30,
    swap_total_bytes=2 << 30,
    l4t="R32.7.4",
    library_versions={"python": "3.6.9"},
    backends=(Backend("ort-cpu", "1.10.0", ("CPUExecutionProvider",)),),
)
RESULT = RunResult(
    run_id="r",
    device_id="d",
    attempt=2,
    failure_type="",
    failure_message="",
    log_tail=("last line",),
    started_unix_s=1.5,
    started_monotonic_s=2.5,
    duration_s=3.5,
    agent_version="0.1.0",
    protocol_version=1,
    stages=(StageTiming("transfer", 0.1, 10, False), StageTiming("read", 0.2, None, True)),
    warmup_converged=True,
    warmup_latency_s=(0.3, 0.2),
    latency_s=(0.1, 0.11),
    series=(Series("child_pss_bytes", (0.0, 0.1), (1.0, 2.0)),),
    peak_pss_bytes=5,
    board_available_before_bytes=6,
    board_available_min_bytes=0,
    swap_used_before_bytes=None,
    swap_used_max_bytes=None,
    backend="ort-cpu",
    providers=("CPUExecutionProvider",),
    library_versions={"onnxruntime": "1.10.0"},
    session_options={"intra_op_threads": "0"},
    sampler_cpu_s=0.01,
    sampler_wakeups=7,
    device=SNAPSHOT,
)


def test_a_result_survives_both_ways() -> None:
    """Nothing is lost or invented: an absent number stays None, and a zero stays a zero."""
    assert convert.result_from_wire(convert.result_to_wire(RESULT)) == RESULT
    read = convert.result_from_wire(convert.result_to_wire(replace(RESULT, peak_pss_bytes=None)))
    assert read.peak_pss_bytes is None
    assert read.board_available_min_bytes == 0


def test_record_and_message_have_the_same_fields() -> None:
    """A field added on one side only would be dropped without a word."""
    for record, message in (
        (RunResult, pb.RunResult),
        (DeviceSnapshot, pb.DeviceSnapshot),
        (Measurement, pb.Measurement),
    ):
        assert {one.name for one in fields(record)} == {one.name for one in message.DESCRIPTOR.fields}


def test_a_snapshot_survives_both_ways() -> None:
    """What a board says of itself is what is stored."""
    assert convert.snapshot_from_wire(convert.snapshot_to_wire(SNAPSHOT)) == SNAPSHOT
