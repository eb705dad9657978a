"""The conversion of records to rows and back, table by table."""

import hashlib
import json
from dataclasses import asdict
from typing import Any

from sqlalchemy import RowMapping

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
    Gpu,
    Job,
    JobState,
    Measurement,
    Run,
    RunState,
    Weights,
)

Row = RowMapping
_HASHED_OF_BACKEND = ("name", "version", "providers")


def snapshot_to_row(snapshot: DeviceSnapshot, now_s: float) -> dict[str, Any]:
    """Make the row of a snapshot, named by a SHA-256.

    The hash covers the device's properties. Of a backend it covers only `_HASHED_OF_BACKEND`, because the other fields
    come from the agent's code and change with its upgrades.
    """
    content = {**asdict(snapshot), "library_versions": dict(snapshot.library_versions)}
    backends = [{name: backend[name] for name in _HASHED_OF_BACKEND} for backend in content["backends"]]
    digest = hashlib.sha256(json.dumps({**content, "backends": backends}, sort_keys=True).encode()).hexdigest()
    return {**content, "snapshot_sha256": digest, "first_seen_unix_s": now_s}


def snapshot_from_row(row: Row) -> DeviceSnapshot:
    """Read a row that `snapshot_to_row` made."""
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
        "jetpack",
        "cuda_version",
        "power_mode",
        "clock_control",
    ]
    backends = tuple(map(Backend.from_plain, row["backends"]))
    return DeviceSnapshot(
        **{name: row[name] for name in names},
        library_versions=row["library_versions"],
        backends=backends,
        gpus=tuple(Gpu(**gpu) for gpu in row["gpus"]),
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
        builder_flags=tuple(row["builder_flags"]),
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
                    "target",
                    "reference_sha256",
                    "reference_bytes",
                ]
            )
        },
    )


def campaign_to_row(campaign: Campaign) -> dict[str, Any]:
    """Make the row of a campaign.

    Weights and calibration are spread over columns. The measurement stays whole, and its tier is also a column.
    """
    row = asdict(campaign)
    weights, calibration = row.pop("weights"), row.pop("calibration") or {"sha256": None, "filename": None}
    return {
        **row,
        **{f"weights_{key}": value for key, value in weights.items()},
        **{f"calibration_{key}": value for key, value in calibration.items()},
        "tier": row["measurement"]["tier"],
    }


def campaign_from_row(row: Row) -> Campaign:
    """Read a row that `campaign_to_row` made."""
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
        paper=row["paper"],
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
        row["target"],
        row["build_key"],
    )


def job_from_row(row: Row) -> Job:
    """Read a row of jobs."""
    names = (
        *("job_id", "campaign_id", "device_id", "model", "recipe", "failure_type", "failure_message"),
        *("target", "backend"),
    )
    return Job(**{name: row[name] for name in names}, state=JobState(row["state"]))


def run_from_row(row: Row) -> Run:
    """Read a run from its row, without the result."""
    names = ("run_id", "job_id", "repeat_index", "position", "attempt")
    return Run(**{name: row[name] for name in names}, state=RunState(row["state"]))


def event_from_row(row: Row) -> Event:
    """Read a row of events."""
    return Event(**{name: row[name] for name in ("time_unix_s", "campaign_id", "device_id", "kind", "message")})


def storable(message: str) -> str:
    """Replace NUL, which PostgreSQL's text cannot hold."""
    return message.replace("\0", "\ufffd")
