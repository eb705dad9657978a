"""Pairs of to and from: the wire's messages and the controller's records meet here and nowhere else."""

from collections.abc import Mapping
from typing import Any

from efficientquant_protos.v1 import fleet_pb2 as pb

from efficientquant_controller.errors import UserError
from efficientquant_controller.fleet.scheduling import run_timeout_s
from efficientquant_controller.model import (
    Artifact,
    Backend,
    Build,
    Calibration,
    Campaign,
    Device,
    DeviceSnapshot,
    Job,
    Measurement,
    Run,
    RunResult,
    Series,
    StageTiming,
    Weights,
)


def snapshot_from_wire(message: pb.DeviceSnapshot) -> DeviceSnapshot:
    """Read a device snapshot."""
    return DeviceSnapshot(
        **_read(message, _SNAPSHOT_SCALARS),
        library_versions=dict(message.library_versions),
        backends=tuple(Backend(one.name, one.version, tuple(one.providers)) for one in message.backends),
    )


def snapshot_to_wire(snapshot: DeviceSnapshot) -> pb.DeviceSnapshot:
    """Write a device snapshot."""
    return pb.DeviceSnapshot(
        **_read(snapshot, _SNAPSHOT_SCALARS),
        library_versions=dict(snapshot.library_versions),
        backends=[pb.Backend(name=one.name, version=one.version, providers=one.providers) for one in snapshot.backends],
    )


def device_to_wire(device: Device, state: str) -> pb.Device:
    """Write a device; `state` is "idle", "busy" or "offline"."""
    return pb.Device(
        device_id=device.device_id,
        name=device.name or "",
        state=state,
        last_seen_unix_s=device.last_seen_unix_s,
        agent_version=device.agent_version,
        snapshot=snapshot_to_wire(device.snapshot),
    )


def weights_from_wire(message: pb.Weights) -> Weights:
    """Read where weights come from; raises UserError when the message does not say."""
    source = message.WhichOneof("source")
    if source is None:
        raise UserError("the request names no weights; choose pretrained, random or a checkpoint file")
    if source == "checkpoint":
        return Weights(source, message.checkpoint.sha256, message.checkpoint.filename)
    return Weights(source)


def calibration_from_wire(message: pb.SubmitCampaignRequest) -> Calibration | None:
    """Read what to calibrate on; None when the request does not say."""
    if not message.HasField("calibration"):
        return None
    return Calibration(message.calibration.sha256, message.calibration.filename)


def measurement_to_wire(measurement: Measurement) -> pb.Measurement:
    """Write how to measure."""
    return pb.Measurement(**vars(measurement))


def assignment_to_wire(run: Run, job: Job, artifact: Artifact, backend: str, measurement: Measurement) -> pb.Assignment:
    """Write the order to do one run."""
    return pb.Assignment(
        run_id=run.run_id,
        job_id=job.job_id,
        campaign_id=job.campaign_id,
        attempt=run.attempt,
        repeat_index=run.repeat_index,
        model=job.model,
        recipe=job.recipe,
        artifact=pb.ArtifactRef(sha256=artifact.sha256, size_bytes=artifact.size_bytes),
        backend=backend,
        measurement=measurement_to_wire(measurement),
        timeout_s=run_timeout_s(measurement),
    )


def result_from_wire(message: pb.RunResult) -> RunResult:
    """Read a run's result; what the agent left out stays None."""
    stages = tuple(
        StageTiming(one.stage, one.duration_s, one.size_bytes if one.HasField("size_bytes") else None, one.cold)
        for one in message.stages
    )
    return RunResult(
        **_read(message, _RESULT_SCALARS),
        **_read_optional(message, _RESULT_OPTIONALS),
        **_read_lists(message, _RESULT_LISTS),
        stages=stages,
        series=tuple(Series(one.name, tuple(one.time_s), tuple(one.value)) for one in message.series),
        library_versions=dict(message.library_versions),
        session_options=dict(message.session_options),
        device=snapshot_from_wire(message.device),
    )


def result_to_wire(result: RunResult) -> pb.RunResult:
    """Write a run's result."""
    # A field that is None is left out: the constructor takes None for "not set".
    return pb.RunResult(
        **_read(result, (*_RESULT_SCALARS, *_RESULT_LISTS, *_RESULT_OPTIONALS)),
        stages=[pb.StageTiming(**vars(one)) for one in result.stages],
        series=[pb.Series(name=one.name, time_s=one.time_s, value=one.value) for one in result.series],
        library_versions=dict(result.library_versions),
        session_options=dict(result.session_options),
        device=snapshot_to_wire(result.device),
    )


def campaign_to_wire(campaign: Campaign, device_names: Mapping[str, str]) -> pb.Campaign:
    """Write a campaign; `device_names` by id."""
    job_count = len(campaign.models) * len(campaign.recipes) * len(campaign.devices)
    return pb.Campaign(
        campaign_id=campaign.campaign_id,
        state=campaign.state,
        created_unix_s=campaign.created_unix_s,
        models=campaign.models,
        recipes=campaign.recipes,
        devices=[device_names.get(one, one) for one in campaign.devices],
        weights=campaign.weights.label,
        tier=campaign.measurement.tier,
        repeats=campaign.repeats,
        job_count=job_count,
        run_count=job_count * campaign.repeats,
        ended_unix_s=campaign.ended_unix_s,
    )


def build_to_wire(build: Build, artifact: Artifact | None) -> pb.BuildStatus:
    """Write where a build stands."""
    reference = pb.ArtifactRef(sha256=artifact.sha256, size_bytes=artifact.size_bytes) if artifact else None
    return pb.BuildStatus(
        model=build.model, recipe=build.recipe, state=build.state, message=build.message, artifact=reference
    )


def result_row_to_wire(row: Mapping[str, Any]) -> pb.ResultRow:
    """Write one row of results with its comparison; NULL stays absent."""
    return pb.ResultRow(**{name: value for name, value in row.items() if value is not None})


def _read(source: object, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(source, name) for name in names}


def _read_optional(message: Any, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(message, name) if message.HasField(name) else None for name in names}


def _read_lists(message: object, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: tuple(getattr(message, name)) for name in names}


_SNAPSHOT_SCALARS = (
    *("board_id", "board", "os", "kernel", "architecture", "cpu_model", "cpu_count"),
    *("memory_total_bytes", "swap_total_bytes", "l4t"),
)
_RESULT_SCALARS = (
    *("run_id", "device_id", "attempt", "failure_type", "failure_message", "started_unix_s", "started_monotonic_s"),
    *("duration_s", "agent_version", "protocol_version", "warmup_converged", "backend"),
)
_RESULT_OPTIONALS = (
    *("peak_pss_bytes", "board_available_before_bytes", "board_available_min_bytes", "swap_used_before_bytes"),
    *("swap_used_max_bytes", "sampler_cpu_s", "sampler_wakeups"),
)
_RESULT_LISTS = ("log_tail", "warmup_latency_s", "latency_s", "providers")
