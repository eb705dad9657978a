"""Records to rows and back: one pair of functions for each table."""

import hashlib
import json
from dataclasses import asdict
from typing import Any

from sqlalchemy import RowMapping

from efficientquant_controller.analysis.statistics import summarize
from efficientquant_controller.model import (
    Artifact,
    Backend,
    Build,
    BuildState,
    Calibration,
    Campaign,
    CampaignState,
    Device,
    DeviceSnapshot,
    Event,
    Job,
    JobState,
    Measurement,
    Run,
    RunResult,
    RunState,
    StageTiming,
    Weights,
)
from efficientquant_controller.store.series import RawSamples

Row = RowMapping


def snapshot_to_row(snapshot: DeviceSnapshot, now_s: float) -> dict[str, Any]:
    """Name a snapshot by the SHA-256 of its content."""
    content = {**asdict(snapshot), "library_versions": dict(snapshot.library_versions)}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return {**content, "snapshot_sha256": digest, "first_seen_unix_s": now_s}


def snapshot_from_row(row: Row) -> DeviceSnapshot:
    """Inverse of `snapshot_to_row`."""
    names = [
        "board_id",
        "board",
        "os",
        "kernel",
        "architecture",
        "cpu_model",
        "cpu_count",
        "memory_total_bytes",
        "swap_total_bytes",
        "l4t",
    ]
    backends = tuple(Backend(one["name"], one["version"], tuple(one["providers"])) for one in row["backends"])
    return DeviceSnapshot(
        **{name: row[name] for name in names}, library_versions=row["library_versions"], backends=backends
    )


def device_from_row(row: Row) -> Device:
    """Read a row of devices joined with its snapshot."""
    names = ("device_id", "name", "agent_version", "session_epoch", "last_seen_unix_s")
    return Device(**{name: row[name] for name in names}, snapshot=snapshot_from_row(row))


def artifact_from_row(row: Row) -> Artifact:
    """Read a row of artifact_builds joined with artifacts."""
    return Artifact(
        sha256=row["artifact_sha256"],
        notes=tuple(row["notes"]),
        **{
            name: row[name]
            for name in (
                [
                    "size_bytes",
                    "model",
                    "recipe",
                    "recipe_version",
                    "weights",
                    "parity_max_abs",
                    "provenance",
                    "manifest",
                ]
            )
        },
    )


def campaign_to_row(campaign: Campaign) -> dict[str, Any]:
    """Spread weights and calibration over columns, keep the measurement whole and its tier as a column too."""
    row = asdict(campaign)
    weights, calibration = row.pop("weights"), row.pop("calibration") or {"sha256": None, "filename": None}
    return {
        **row,
        **{f"weights_{key}": value for key, value in weights.items()},
        **{f"calibration_{key}": value for key, value in calibration.items()},
        "tier": row["measurement"]["tier"],
    }


def campaign_from_row(row: Row) -> Campaign:
    """Inverse of `campaign_to_row`."""
    sha256 = row["calibration_sha256"]
    return Campaign(
        campaign_id=row["campaign_id"],
        state=CampaignState(row["state"]),
        created_unix_s=row["created_unix_s"],
        models=tuple(row["models"]),
        recipes=tuple(row["recipes"]),
        devices=tuple(row["devices"]),
        weights=Weights(row["weights_kind"], row["weights_sha256"], row["weights_filename"]),
        measurement=Measurement(**row["measurement"]),
        repeats=row["repeats"],
        seed=row["seed"],
        ended_unix_s=row["ended_unix_s"],
        calibration=None if sha256 is None else Calibration(sha256, row["calibration_filename"]),
    )


def build_from_row(row: Row) -> Build:
    """Read a row of builds."""
    return Build(
        row["campaign_id"],
        row["model"],
        row["recipe"],
        BuildState(row["state"]),
        row["message"],
        row["artifact_sha256"],
    )


def job_from_row(row: Row) -> Job:
    """Read a row of jobs."""
    names = ("job_id", "campaign_id", "device_id", "model", "recipe", "failure_type", "failure_message")
    return Job(**{name: row[name] for name in names}, state=JobState(row["state"]))


def run_from_row(row: Row) -> Run:
    """Read the planned half of a row of runs."""
    names = ("run_id", "job_id", "repeat_index", "position", "attempt")
    return Run(**{name: row[name] for name in names}, state=RunState(row["state"]))


def event_from_row(row: Row) -> Event:
    """Read a row of events."""
    return Event(**{name: row[name] for name in ("time_unix_s", "campaign_id", "device_id", "kind", "message")})


# What a run's row and its report call by the same name.
_REPORTED = [
    "device_id",
    "started_unix_s",
    "started_monotonic_s",
    "duration_s",
    "agent_version",
    "protocol_version",
    "warmup_converged",
    "peak_pss_bytes",
    "board_available_before_bytes",
    "board_available_min_bytes",
    "swap_used_before_bytes",
    "swap_used_max_bytes",
    "backend",
    "sampler_cpu_s",
    "sampler_wakeups",
]


def result_to_row(result: RunResult, now_s: float) -> dict[str, Any]:
    """Make the reported half of a row of runs, with the metrics that a query needs.

    Raises ValueError when a run that succeeded has no latencies, or one that is not a finite number.
    """
    return {
        **{name: getattr(result, name) for name in _REPORTED},
        "reported_unix_s": now_s,
        "reported_attempt": result.attempt,
        "reported_failure_type": result.failure_type,
        "reported_failure_message": storable(result.failure_message),
        "log_tail": list(result.log_tail),
        "providers": ",".join(result.providers),
        "library_versions": dict(result.library_versions),
        "session_options": dict(result.session_options),
        "runtime_version": _runtime_version(result),
        "warmup_count": len(result.warmup_latency_s),
        **_latency_columns(result),
        **_load_columns(result),
        "board_memory_delta_bytes": _rise(result.board_available_min_bytes, result.board_available_before_bytes),
        "swap_delta_bytes": _rise(result.swap_used_before_bytes, result.swap_used_max_bytes),
        "sampler_core_share": _core_share(result),
    }


def result_from_row(
    row: Row, stages: tuple[StageTiming, ...], samples: RawSamples, device: DeviceSnapshot
) -> RunResult:
    """Inverse of `result_to_row`, with what other tables hold."""
    return RunResult(
        run_id=row["run_id"],
        attempt=row["reported_attempt"],
        failure_type=row["reported_failure_type"],
        failure_message=row["reported_failure_message"],
        log_tail=tuple(row["log_tail"]),
        providers=tuple(row["providers"].split(",")) if row["providers"] else (),
        library_versions=row["library_versions"],
        session_options=row["session_options"],
        **{name: row[name] for name in _REPORTED},
        stages=stages,
        warmup_latency_s=samples.warmup_latency_s,
        latency_s=samples.latency_s,
        series=samples.series,
        device=device,
    )


def storable(message: str) -> str:
    """Replace NUL, which PostgreSQL's text cannot hold."""
    return message.replace("\0", "\ufffd")


def _latency_columns(result: RunResult) -> dict[str, Any]:
    if result.failure_type:
        return {}
    summary = asdict(summarize(result.latency_s))
    return {f"latency_{name}": value for name, value in summary.items()}


def _load_columns(result: RunResult) -> dict[str, Any]:
    """The stages that have a column of their own; `load_s` is known when all three of its parts are."""
    durations: dict[str, float] = {}
    for one in result.stages:
        durations[one.stage] = durations.get(one.stage, 0.0) + one.duration_s
    parts = [durations.get(stage) for stage in ("read", "session_create", "first_inference")]
    known = [part for part in parts if part is not None]
    transferred = [one.size_bytes for one in result.stages if one.stage == "transfer" and one.size_bytes is not None]
    cold = [one.cold for one in result.stages if one.stage == "read"]
    return {
        "transfer_s": durations.get("transfer"),
        "transfer_bytes": sum(transferred) if transferred else None,
        "read_s": parts[0],
        "session_create_s": parts[1],
        "first_inference_s": parts[2],
        "load_s": sum(known) if len(known) == len(parts) else None,
        "load_cold": cold[0] if cold else None,
    }


def _runtime_version(result: RunResult) -> str:
    """The version of the backend's library: as the device lists its backend, else as the run's libraries name it."""
    for backend in result.device.backends:
        if backend.name == result.backend and backend.version:
            return backend.version
    library = {"ort": "onnxruntime", "trt": "tensorrt"}.get(result.backend.split("-")[0], result.backend)
    return result.library_versions.get(library, "")


def _rise(low: int | None, high: int | None) -> int | None:
    """How far a quantity moved; nothing where it moved the other way, None where an end is unknown."""
    return None if low is None or high is None else max(high - low, 0)


def _core_share(result: RunResult) -> float | None:
    if result.sampler_cpu_s is None or result.duration_s <= 0:
        return None
    return result.sampler_cpu_s / result.duration_s
