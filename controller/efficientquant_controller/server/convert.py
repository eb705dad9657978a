"""Conversion between wire messages and the controller's records."""

import hashlib
import json
from collections.abc import Mapping
from math import isfinite
from typing import Any

from efficientquant_protos.v1 import fleet_pb2 as pb
from google.protobuf.message import DecodeError

from efficientquant_controller.analysis.facts import finite_number
from efficientquant_controller.analysis.telemetry import HOT_ZONES
from efficientquant_controller.errors import DamagedMessageError, UnstorableError, UserError
from efficientquant_controller.fleet.liveness import Session
from efficientquant_controller.fleet.scheduling import run_timeout_s
from efficientquant_controller.model import (
    Agreement,
    Artifact,
    Backend,
    Build,
    Calibration,
    Campaign,
    Device,
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
    Weights,
    Window,
)
from efficientquant_controller.store.base import Report


def snapshot_from_wire(message: pb.DeviceSnapshot) -> DeviceSnapshot:
    """Read a device snapshot."""
    return DeviceSnapshot(
        **_read(message, _SNAPSHOT_SCALARS),
        **_read_lists(message, _SNAPSHOT_LISTS),
        library_versions=dict(message.library_versions),
        backends=tuple(
            Backend(**_read(backend, _BACKEND_SCALARS), **_read_lists(backend, _BACKEND_LISTS))
            for backend in message.backends
            if backend.name
        ),
        gpus=tuple(
            Gpu(**_read(gpu, _GPU_SCALARS), **_read_optional(gpu, ("memory_total_bytes",))) for gpu in message.gpus
        ),
    )


def snapshot_to_wire(snapshot: DeviceSnapshot) -> pb.DeviceSnapshot:
    """Write a device snapshot."""
    return pb.DeviceSnapshot(
        **_read(snapshot, (*_SNAPSHOT_SCALARS, *_SNAPSHOT_LISTS)),
        library_versions=dict(snapshot.library_versions),
        backends=[pb.Backend(**vars(backend)) for backend in snapshot.backends],
        gpus=[pb.Gpu(**vars(gpu)) for gpu in snapshot.gpus],
    )


def clock_offset_from_wire(message: pb.Heartbeat) -> float | None:
    """Read how far a device's clock is ahead, None when unknown."""
    known = message.HasField("clock_offset_s") and isfinite(message.clock_offset_s)
    return message.clock_offset_s if known else None


def device_to_wire(device: Device, state: str, session: Session | None = None) -> pb.Device:
    """Write a device with its state and what its session says.

    `state` is "idle", "busy" or "offline".
    """
    return pb.Device(
        device_id=device.device_id,
        name=device.name or "",
        state=state,
        last_seen_unix_s=device.last_seen_unix_s,
        agent_version=device.agent_version,
        snapshot=snapshot_to_wire(device.snapshot),
        problem=session.problem if session else "",
        clock_offset_s=session.clock_offset_s if session else None,
        broken_backends=session.broken_backends if session else (),
    )


def weights_from_wire(message: pb.Weights) -> Weights:
    """Read the source of the weights.

    Raises UserError when the message has none.
    """
    source = message.WhichOneof("source")
    if source is None:
        raise UserError("the request names no weights; choose pretrained, random or a checkpoint file")
    if source == "checkpoint":
        return Weights(source, message.checkpoint.sha256, message.checkpoint.filename)
    return Weights(source)


def calibration_from_wire(message: pb.SubmitCampaignRequest) -> Calibration | None:
    """Read the calibration images, or None when the request has none."""
    if not message.HasField("calibration"):
        return None
    return Calibration(message.calibration.sha256, message.calibration.filename)


def measurement_to_wire(measurement: Measurement) -> pb.Measurement:
    """Write a measurement."""
    return pb.Measurement(**vars(measurement), hot_zones=HOT_ZONES)


def assignment_to_wire(
    run: Run, job: Job, artifact: Artifact, backend: Backend, measurement: Measurement, lease_id: str
) -> pb.Assignment:
    """Write the assignment of one run."""
    return pb.Assignment(
        run_id=run.run_id,
        job_id=job.job_id,
        campaign_id=job.campaign_id,
        attempt=run.attempt,
        repeat_index=run.repeat_index,
        model=job.model,
        recipe=job.recipe,
        artifact=pb.ArtifactRef(sha256=artifact.sha256, size_bytes=artifact.size_bytes),
        backend=backend.name,
        measurement=measurement_to_wire(measurement),
        timeout_s=run_timeout_s(measurement, builds_engine=backend.builds_engines),
        target=job.target,
        builder_flags=artifact.builder_flags,
        reference=_reference_to_wire(artifact),
        lease_id=lease_id,
    )


def _reference_to_wire(artifact: Artifact) -> pb.ArtifactRef | None:
    if not artifact.reference_sha256:  # the artifact of a release that made no references
        return None
    return pb.ArtifactRef(sha256=artifact.reference_sha256, size_bytes=artifact.reference_bytes)


def changes_from_wire(message: pb.SubmitCampaignRequest) -> dict[str, Any]:
    """Read the fields of Measurement that a request changes."""
    changes = {name: value for name in _CHANGES if (value := getattr(message, name))}
    optional = _read_optional(message, _OPTIONAL_CHANGES)
    return changes | {name: value for name, value in optional.items() if value is not None}


def report_from_wire(request: pb.ReportRunRequest) -> Report:
    """Read a report after a check of its length and SHA-256.

    Raises DamagedMessageError when they differ, and UnstorableError when the bytes are no result.
    """
    encoded = request.encoded_result
    if not encoded and not request.sha256 and request.HasField("result"):  # from an agent of protocol 3
        return Report(result_from_wire(request.result))
    if len(encoded) != request.size_bytes or hashlib.sha256(encoded).hexdigest() != request.sha256:
        raise DamagedMessageError(
            "the result arrived damaged: its length or SHA-256 is not the device's; send it again"
        )
    try:
        message = pb.RunResult.FromString(encoded)
    except DecodeError as error:
        raise UnstorableError("the report is no result that this release can read") from error
    return Report(result_from_wire(message), message.lease_id, request.sha256)


def result_from_wire(message: pb.RunResult) -> RunResult:
    """Read a run's result.

    A stage's size, the agreement and the engine are None where the agent sent none.
    """
    stages = tuple(
        StageTiming(
            stage.stage, stage.duration_s, stage.size_bytes if stage.HasField("size_bytes") else None, stage.cold
        )
        for stage in message.stages
    )
    conditions = dict(message.conditions)
    return RunResult(
        **_read(message, _RESULT_SCALARS),
        **_read_lists(message, _RESULT_LISTS),
        stages=stages,
        series=tuple(Series(series.name, tuple(series.time_s), tuple(series.value)) for series in message.series),
        library_versions=dict(message.library_versions),
        session_options=dict(message.session_options),
        device=snapshot_from_wire(message.device),
        windows=tuple(Window(window.name, window.start_s, window.end_s) for window in message.windows),
        conditions=conditions,
        measured={**_readings_of_protocol_2(message, conditions), **message.measured},
        findings=tuple(Finding(finding.check, finding.severity, finding.message) for finding in message.findings),
        agreement=Agreement(**_read(message.agreement, _AGREEMENT)) if message.HasField("agreement") else None,
        engine=_engine_from_wire(message.engine) if message.HasField("engine") else None,
    )


def _readings_of_protocol_2(message: pb.RunResult, conditions: dict[str, str]) -> dict[str, float]:
    """Return the readings that an older agent sent as fields or conditions.

    They are removed from `conditions`.
    """
    fields = _read_optional(message, _READINGS_OF_PROTOCOL_2)
    readings: dict[str, float] = {name: value for name, value in fields.items() if value is not None}
    for name in _TARGETS_OF_PROTOCOL_2:
        if (target := finite_number(conditions.get(name))) is not None:
            readings[name] = target
            del conditions[name]
    return readings


def _engine_from_wire(message: pb.Engine) -> Engine:
    return Engine(
        **_read(message, ("sha256", "size_bytes", "from_cache", "workspace_bytes", "layers_json")),
        notes=tuple(message.notes),
        settings=dict(message.settings),
        realised_precision=dict(message.realised_precision),
    )


def result_to_wire(result: RunResult) -> pb.RunResult:
    """Write a run's result."""
    return pb.RunResult(
        **_read(result, (*_RESULT_SCALARS, *_RESULT_LISTS)),
        stages=[pb.StageTiming(**vars(stage)) for stage in result.stages],
        series=[pb.Series(name=series.name, time_s=series.time_s, value=series.value) for series in result.series],
        library_versions=dict(result.library_versions),
        session_options=dict(result.session_options),
        device=snapshot_to_wire(result.device),
        windows=[pb.Window(**vars(window)) for window in result.windows],
        conditions=dict(result.conditions),
        findings=[pb.Finding(**vars(finding)) for finding in result.findings],
        agreement=pb.Agreement(**vars(result.agreement)) if result.agreement else None,
        engine=pb.Engine(**vars(result.engine)) if result.engine else None,
        measured=dict(result.measured),
    )


def campaign_to_wire(campaign: Campaign, device_names: Mapping[str, str]) -> pb.Campaign:
    """Write a campaign.

    `device_names` has the names by device id.
    """
    job_count = len(campaign.models) * len(campaign.recipes) * len(campaign.devices)
    return pb.Campaign(
        campaign_id=campaign.campaign_id,
        state=campaign.state,
        created_unix_s=campaign.created_unix_s,
        models=campaign.models,
        recipes=campaign.recipes,
        devices=[device_names.get(device_id, device_id) for device_id in campaign.devices],
        weights=campaign.weights.label,
        tier=campaign.measurement.tier,
        repeats=campaign.repeats,
        job_count=job_count,
        run_count=job_count * campaign.repeats,
        ended_unix_s=campaign.ended_unix_s,
        request=_request_to_wire(campaign, device_names),
    )


def _request_to_wire(campaign: Campaign, device_names: Mapping[str, str]) -> pb.SubmitCampaignRequest:
    """Write the request that makes the same campaign again, without its backend."""
    calibration = campaign.calibration
    return pb.SubmitCampaignRequest(
        models=campaign.models,
        recipes=campaign.recipes,
        devices=[device_names.get(device_id, device_id) for device_id in campaign.devices],
        weights=_weights_to_wire(campaign.weights),
        repeats=campaign.repeats,
        seed=campaign.seed,
        calibration=None if calibration is None else pb.Calibration(**vars(calibration)),
        paper=campaign.paper,
        label=campaign.label,
        **_read(campaign.measurement, ("tier", "intra_op_threads", *_CHANGES, *_OPTIONAL_CHANGES)),
    )


def _weights_to_wire(weights: Weights) -> pb.Weights:
    if weights.kind == "checkpoint":
        return pb.Weights(checkpoint=pb.Checkpoint(sha256=weights.sha256, filename=weights.filename))
    return pb.Weights(pretrained=True) if weights.kind == "pretrained" else pb.Weights(random=True)


def build_to_wire(build: Build, artifact: Artifact | None) -> pb.BuildStatus:
    """Write a build's status."""
    reference = pb.ArtifactRef(sha256=artifact.sha256, size_bytes=artifact.size_bytes) if artifact else None
    return pb.BuildStatus(
        model=build.model,
        recipe=build.recipe,
        target=build.target,
        state=build.state,
        message=build.message,
        artifact=reference,
    )


def job_row_to_wire(row: Mapping[str, Any]) -> pb.JobRow:
    """Write one row of results with its comparison."""
    return pb.JobRow(columns_json=json.dumps(dict(row), allow_nan=False))


def _read(source: object, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(source, name) for name in names}


def _read_optional(message: Any, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(message, name) if message.HasField(name) else None for name in names}


def _read_lists(message: object, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: tuple(getattr(message, name)) for name in names}


_SNAPSHOT_SCALARS = (
    *("board_id", "board", "os", "kernel", "architecture", "cpu_model", "cpu_count"),
    *("memory_total_bytes", "swap_total_bytes", "l4t", "jetpack", "cuda_version", "power_mode", "clock_control"),
)
_SNAPSHOT_LISTS = ("cpu_dot_products",)
_BACKEND_SCALARS = ("name", "version", "preference", "uses_gpu", "builds_engines", "form", "opset")
_BACKEND_LISTS = ("providers", "precision_flags", "options")
_GPU_SCALARS = (*("name", "uuid", "compute_capability", "integrated", "fp16", "int8", "tf32", "driver_version"),)
_AGREEMENT = ("max_abs", "cosine", "argmax_matches", "count")
_CHANGES = ("cuda_graph", "sync_mode", "memory_kind", "profile_layers", "lock_clocks", "power_mode")
_OPTIONAL_CHANGES = ("idle_s", "max_start_temperature_c")
_RESULT_SCALARS = (
    *("run_id", "device_id", "attempt", "failure_type", "failure_message", "started_unix_s", "started_monotonic_s"),
    *("duration_s", "agent_version", "protocol_version", "warmup_converged", "backend"),
)
# An agent may deliver results that it measured before its upgrade (docs/wire.md).
_READINGS_OF_PROTOCOL_2 = (
    *("peak_pss_bytes", "board_available_before_bytes", "board_available_min_bytes", "swap_used_before_bytes"),
    *("swap_used_max_bytes", "sampler_cpu_s", "sampler_wakeups", "device_memory_bytes"),
)
_TARGETS_OF_PROTOCOL_2 = tuple(f"clock_{domain}_target_hz" for domain in ("gpu", "emc", "cpu"))
_RESULT_LISTS = ("log_tail", "warmup_latency_s", "latency_s", "device_latency_s", "providers")
