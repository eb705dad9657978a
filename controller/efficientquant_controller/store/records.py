"""The conversion of records and of the views' rows, table by table."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from math import isfinite
from typing import Any

from sqlalchemy import RowMapping

from efficientquant_controller.columns import Kind, names_of_kind
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
    RunResult,
    RunState,
    Weights,
)

Row = RowMapping
_HASHED_OF_BACKEND = ("name", "version", "providers")
# The limits of SQL's integers.
LIMITS = {Kind.INTEGER: 2**31, Kind.BIGINT: 2**63}
_JSON, _BOOLEAN, _DOUBLE = (names_of_kind(kind) for kind in (Kind.JSON, Kind.BOOLEAN, Kind.DOUBLE))


def snapshot_to_row(snapshot: DeviceSnapshot, now_s: float) -> dict[str, Any]:
    """Make the row of a snapshot, named by a SHA-256.

    The hash covers the device's properties. Of a backend it covers only `_HASHED_OF_BACKEND`, because the other fields
    come from the agent's code and change with its upgrades.
    """
    lists = {"backends": snapshot.backends, "gpus": snapshot.gpus}  # asdict would copy everything, for each result
    content = {**vars(snapshot), "library_versions": dict(snapshot.library_versions)}
    content |= {name: [dict(vars(item)) for item in items] for name, items in lists.items()}
    backends = [{name: backend[name] for name in _HASHED_OF_BACKEND} for backend in content["backends"]]
    hashed = {**content, "backends": backends}
    if not snapshot.cpu_dot_products:  # as before schema 8, so that an upgrade does not change the device
        del hashed["cpu_dot_products"]
    digest = hashlib.sha256(json.dumps(hashed, sort_keys=True).encode()).hexdigest()
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
        cpu_dot_products=tuple(row["cpu_dot_products"]),
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
        label=row["label"],
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


def require_storable(result: RunResult) -> None:
    """Raise ValueError for a result that the database can never hold.

    The store drops a single reading that is out of range, so it is not checked here.
    """
    for name, number in _numbers(result).items():
        if not isfinite(number):
            raise ValueError(f"{name} is {number}")
    for kind, integers in ((Kind.BIGINT, _sizes(result)), (Kind.INTEGER, _counts(result))):
        for name, integer in integers.items():
            if integer is not None and integer >= LIMITS[kind]:
                raise ValueError(f"{name} is {integer}, and the database holds less than {LIMITS[kind]}")
    for name, text in _texts(result).items():
        if "\0" in text:
            raise ValueError(f"{name} contains NUL")
    for series in result.series:
        if len(series.time_s) != len(series.value):
            raise ValueError(
                f"the series {series.name!r} has {len(series.time_s)} times and {len(series.value)} values"
            )


def _numbers(result: RunResult) -> dict[str, float]:
    numbers = {"the start": result.started_unix_s, "the monotonic start": result.started_monotonic_s}
    stages = {f"the duration of the stage {stage.stage!r}": stage.duration_s for stage in result.stages}
    return {**numbers, "the duration": result.duration_s, **stages}


def _sizes(result: RunResult) -> dict[str, int | None]:
    sizes = {f"the size of the stage {stage.stage!r}": stage.size_bytes for stage in result.stages}
    if result.engine is not None:
        sizes |= {
            "the engine's size": result.engine.size_bytes,
            "the engine's workspace": result.engine.workspace_bytes,
        }
    device = result.device
    return {**sizes, "the device's memory": device.memory_total_bytes, "the device's swap": device.swap_total_bytes}


def _counts(result: RunResult) -> dict[str, int]:
    return {"the protocol's version": result.protocol_version, "the device's number of CPUs": result.device.cpu_count}


def _texts(result: RunResult) -> dict[str, str]:
    """Return the texts that fill columns.

    Only JSON can hold NUL on PostgreSQL.
    """
    texts = {"the failure's type": result.failure_type, "the agent's version": result.agent_version}
    texts |= {"the backend": result.backend, "a provider": ",".join(result.providers)}
    texts |= {"the name of a stage": "".join(stage.stage for stage in result.stages)}
    texts |= {"the engine's hash": result.engine.sha256 if result.engine else ""}
    device = {name: value for name, value in vars(result.device).items() if isinstance(value, str)}
    return texts | {f"the device's {name}": value for name, value in device.items()}


def typed(rows: Sequence[RowMapping]) -> list[dict[str, Any]]:
    """Decode the JSON and booleans of a view's rows.

    SQLite returns them as text and as 1 and 0. An empty text becomes None. So does a number that is not finite, because
    rows are sent as JSON, which cannot hold it.
    """
    if not rows:
        return []
    json_names, booleans, doubles = ([name for name in rows[0] if name in kind] for kind in (_JSON, _BOOLEAN, _DOUBLE))
    return [_typed(dict(row), json_names, booleans, doubles) for row in rows]


def _typed(
    values: dict[str, Any], json_names: Sequence[str], booleans: Sequence[str], doubles: Sequence[str]
) -> dict[str, Any]:
    for name in json_names:
        if isinstance(values[name], str):
            values[name] = json.loads(values[name]) if values[name] else None
    for name in booleans:
        if values[name] is not None:
            values[name] = bool(values[name])
    for name in doubles:
        if values[name] is not None and not isfinite(values[name]):
            values[name] = None
    return values
