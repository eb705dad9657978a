"""Tests of the conversion between records and messages."""

import hashlib
import re
from dataclasses import asdict, fields, replace
from typing import Any

import pytest
from efficientquant_controller.errors import DamagedMessageError, UnstorableError
from efficientquant_controller.fleet.scheduling import run_timeout_s
from efficientquant_controller.model import (
    Agreement,
    Artifact,
    Backend,
    Build,
    BuildState,
    DeviceSnapshot,
    Engine,
    Finding,
    Gpu,
    Job,
    Measurement,
    Run,
    RunResult,
    Series,
    StageTiming,
    Window,
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
    backends=(
        Backend("ort-cpu", "1.10.0", ("CPUExecutionProvider",)),
        Backend("trt", "8.2.1", (), 1, True, True, "tensorrt", 13, ("fp16",), ("cuda_graph",)),
    ),
    jetpack="4.6.4",
    cuda_version="10.2",
    power_mode="MAXN",
    clock_control="helper",
    gpus=(
        Gpu("Tegra X1", compute_capability=53, integrated=True, fp16=True),
        Gpu("RTX 3080", "GPU-1", 86, 10 << 30, fp16=True, int8=True, tf32=True, driver_version="570.1"),
    ),
    cpu_dot_products=("dotprod", "i8mm"),
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
    backend="ort-cpu",
    providers=("CPUExecutionProvider",),
    library_versions={"onnxruntime": "1.10.0"},
    session_options={"intra_op_threads": "0"},
    device=SNAPSHOT,
    device_latency_s=(0.09, 0.1),
    windows=(Window("idle_before", 0.0, 1.0), Window("measure", 1.5, 3.0)),
    conditions={"power_mode": "MAXN", "clocks": "locked"},
    findings=(Finding("temperature", "soft", "warm"),),
    agreement=Agreement(0.0, 1.0, 0, 8),
    engine=Engine("ab" * 32, 2**40, True, 1 << 28, ("a note",), {"fp16": "on"}, {"int8": 35}, '[{"name": "conv"}]'),
    measured={"device_memory_bytes": 0, "sampler_cpu_s": 0.01, "clock_gpu_target_hz": 921.6e6},
)
MEASUREMENT = Measurement(
    "smoke", 6.0, 64, 0.3, 11, 29.0, 9, 2**64 - 1, 2, 0.2, True, "block", "mapped", True, 2.5, 45.0, 60.0, True, "MAXN"
)
ARTIFACT = Artifact(
    "ab" * 32, 5, "m", "int8", 1, "random", None, (), {}, {}, "agx-xavier", ("fp16", "int8"), "cd" * 32, 2**33
)


# Fields of agents of protocol 2, which are now in `measured`. The pattern of zones comes from analysis/telemetry.py.
OLD_FIELDS = {
    *("peak_pss_bytes", "board_available_before_bytes", "board_available_min_bytes", "swap_used_before_bytes"),
    *("swap_used_max_bytes", "sampler_cpu_s", "sampler_wakeups", "device_memory_bytes", "hot_zones"),
}


def test_a_result_survives_both_ways() -> None:
    """A round trip keeps a result equal, with absent readings absent and zeros zero."""
    assert convert.result_from_wire(convert.result_to_wire(RESULT)) == RESULT
    assert convert.result_from_wire(convert.result_to_wire(replace(RESULT, measured={}))).measured == {}


def test_what_a_device_has_not_stays_absent() -> None:
    """A result without engine and reference outputs reads back without them."""
    without = replace(RESULT, agreement=None, engine=None)
    assert convert.result_from_wire(convert.result_to_wire(without)) == without


def test_a_result_of_an_older_agent() -> None:
    """A message without the newer fields gives empty values for them."""
    message = convert.result_to_wire(RESULT)
    newer = ("device_latency_s", "windows", "conditions", "findings", "agreement", "engine", "measured")
    for name in newer:
        message.ClearField(name)
    read = convert.result_from_wire(message)
    assert [getattr(read, name) for name in newer] == [(), (), {}, (), None, None, {}]


def test_a_result_of_protocol_2() -> None:
    """Fields and clock targets of protocol 2 become readings."""
    message = convert.result_to_wire(replace(RESULT, measured={}))
    message.peak_pss_bytes, message.board_available_min_bytes, message.sampler_cpu_s = 5, 0, 0.25
    message.conditions.update(clock_gpu_target_hz="921600000", clock_cpu_target_hz="as it likes")

    read = convert.result_from_wire(message)

    assert read.measured == {
        "peak_pss_bytes": 5, "board_available_min_bytes": 0, "sampler_cpu_s": 0.25, "clock_gpu_target_hz": 921.6e6
    }  # fmt: skip
    assert read.conditions == {**RESULT.conditions, "clock_cpu_target_hz": "as it likes"}


def test_the_zones_that_compute_travel_with_the_assignment() -> None:
    """The agent's gate by temperature uses the controller's expression."""
    zones = convert.measurement_to_wire(MEASUREMENT).hot_zones
    assert re.fullmatch(zones, "temperature_gpu_c")
    assert not re.fullmatch(zones, "temperature_pmic_c")


def test_record_and_message_have_the_same_fields() -> None:
    """Record and message have the same fields, since a missing one would be dropped silently."""
    for record, message in (
        (RunResult, pb.RunResult),
        (DeviceSnapshot, pb.DeviceSnapshot),
        (Measurement, pb.Measurement),
        (Gpu, pb.Gpu),
        (Backend, pb.Backend),
        (Window, pb.Window),
        (Finding, pb.Finding),
        (Agreement, pb.Agreement),
        (Engine, pb.Engine),
        (StageTiming, pb.StageTiming),
        (Series, pb.Series),
    ):
        names = {field.name for field in message.DESCRIPTOR.fields} - OLD_FIELDS
        assert {field.name for field in fields(record)} == names - {"lease_id"}, "Report has the lease id"


def test_a_snapshot_survives_both_ways() -> None:
    """A round trip keeps a snapshot equal."""
    assert convert.snapshot_from_wire(convert.snapshot_to_wire(SNAPSHOT)) == SNAPSHOT


def test_a_measurement_is_sent_whole() -> None:
    """Every field of a measurement is sent with its value."""
    message = convert.measurement_to_wire(MEASUREMENT)
    assert {field.name: getattr(message, field.name) for field in fields(Measurement)} == asdict(MEASUREMENT)
    defaults = {field.name: field.default for field in fields(Measurement)}
    assert all(value != defaults[name] for name, value in asdict(MEASUREMENT).items()), "a default would prove nothing"


@pytest.mark.parametrize("builds_engines", [True, False])
def test_an_assignment_says_what_to_run_and_how(builds_engines: bool) -> None:
    """An assignment names file, reference, target and flags, and its time limit includes an engine build."""
    backend = Backend("any", "1", builds_engines=builds_engines)
    run, job = Run("r", "j", 2, 5, attempt=3), Job("j", "c", "d", "m", "int8", target="agx-xavier")

    message = convert.assignment_to_wire(run, job, ARTIFACT, backend, MEASUREMENT, "lease")

    assert (message.run_id, message.attempt, message.repeat_index, message.backend) == ("r", 3, 2, "any")
    assert message.lease_id == "lease"
    assert message.artifact == pb.ArtifactRef(sha256="ab" * 32, size_bytes=5)
    assert message.reference == pb.ArtifactRef(sha256="cd" * 32, size_bytes=2**33)
    assert (message.target, list(message.builder_flags)) == ("agx-xavier", ["fp16", "int8"])
    assert message.measurement == convert.measurement_to_wire(MEASUREMENT)
    assert message.timeout_s == run_timeout_s(MEASUREMENT, builds_engine=builds_engines)


def test_an_artifact_of_an_older_release_has_no_reference() -> None:
    """An artifact without a reference gives an assignment without one."""
    old = replace(ARTIFACT, reference_sha256="", reference_bytes=0)
    run, job = Run("r", "j", 0, 0), Job("j", "c", "d", "m", "int8")
    message = convert.assignment_to_wire(run, job, old, Backend("trt", "8.2.1"), MEASUREMENT, "")
    assert not message.HasField("reference")


CHANGES = {
    "cuda_graph": True,
    "sync_mode": "block",
    "memory_kind": "pinned",
    "profile_layers": True,
    "idle_s": 0.0,
    "max_start_temperature_c": 0.0,
    "lock_clocks": True,
    "power_mode": "MAXN",
}


@pytest.mark.parametrize("changes", [{}, CHANGES, *({name: value} for name, value in CHANGES.items())])
def test_only_what_was_asked_for_changes_a_tier(changes: dict[str, Any]) -> None:
    """A request changes only the fields that it sets, and a requested zero is a change."""
    assert convert.changes_from_wire(pb.SubmitCampaignRequest(models=["m"], **changes)) == changes


def test_a_build_says_for_what() -> None:
    """A build's status has its target, and its artifact once it is built."""
    build = Build("c", "m", "int8", BuildState.READY, "done", "ab" * 32, "agx-xavier")
    message = convert.build_to_wire(build, ARTIFACT)
    assert (message.target, message.state, message.artifact.size_bytes) == ("agx-xavier", "ready", 5)
    assert not convert.build_to_wire(replace(build, state=BuildState.BUILDING), None).HasField("artifact")


def request_of(result: pb.RunResult, **changes: Any) -> pb.ReportRunRequest:
    encoded = result.SerializeToString()
    facts = {"encoded_result": encoded, "size_bytes": len(encoded), "sha256": hashlib.sha256(encoded).hexdigest()}
    return pb.ReportRunRequest(**{**facts, **changes})


def test_a_report_is_read_only_as_it_was_sent() -> None:
    """Whichever byte of a report changes, it is refused as damaged, and an intact one keeps its hash and lease."""
    message = pb.RunResult(run_id="r", lease_id="lease", latency_s=[0.25])
    intact = request_of(message)
    report = convert.report_from_wire(intact)
    assert (report.result.latency_s, report.lease_id, report.sha256) == ((0.25,), "lease", intact.sha256)
    for index in range(len(intact.encoded_result)):
        damaged = bytearray(intact.encoded_result)
        damaged[index] ^= 1
        with pytest.raises(DamagedMessageError, match="send it again"):
            convert.report_from_wire(request_of(message, encoded_result=bytes(damaged)))


@pytest.mark.parametrize("changes", [{"sha256": ""}, {"size_bytes": 1}, {"encoded_result": b""}])
def test_a_report_without_its_proof_is_refused(changes: dict[str, Any]) -> None:
    """A report whose length or hash is missing or wrong is refused as damaged."""
    with pytest.raises(DamagedMessageError):
        convert.report_from_wire(request_of(pb.RunResult(run_id="r"), **changes))


def test_bytes_that_are_no_result_are_never_asked_for_again() -> None:
    """Bytes that arrived intact and are no result are refused for good."""
    garbage = b"\xff\xfe"
    digest = hashlib.sha256(garbage).hexdigest()
    with pytest.raises(UnstorableError, match="no result"):
        convert.report_from_wire(pb.ReportRunRequest(encoded_result=garbage, size_bytes=2, sha256=digest))


def test_an_agent_of_protocol_3_can_still_deliver() -> None:
    """A result without a proof is read, since an older agent delivers what it has before its session is refused."""
    report = convert.report_from_wire(pb.ReportRunRequest(result=pb.RunResult(run_id="r")))
    assert (report.result.run_id, report.lease_id, report.sha256) == ("r", "", "")
