"""What an agent reports of a run, as a row and back: raw facts, and the numbers that follow from them."""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from math import inf, isfinite
from typing import Any

from sqlalchemy import RowMapping

from efficientquant_controller.analysis.derived import derived_columns
from efficientquant_controller.analysis.energy import Readings
from efficientquant_controller.analysis.facts import RunFacts
from efficientquant_controller.analysis.statistics import percentile, summarize
from efficientquant_controller.analysis.telemetry import peaks
from efficientquant_controller.columns import OF_REPORTS, Kind, Origin
from efficientquant_controller.model import (
    Agreement,
    DeviceSnapshot,
    Engine,
    Finding,
    Measurement,
    RunResult,
    Series,
    StageTiming,
)
from efficientquant_controller.store.records import storable
from efficientquant_controller.store.series import RawSamples

Row = RowMapping

# What a run must have been loaded by: the stages of one of these.
_LOADING = (("read", "session_create", "first_inference"), ("read", "deserialize", "create_context", "first_inference"))
# The first protocol whose agents leave the extremes of their series to the controller.
_OWN_PEAKS = 3
# Where SQL's whole numbers end.
_LIMITS = {Kind.INTEGER: 2**31, Kind.BIGINT: 2**63}
# The paper's load time leaves the first inference out.
_PAPER_LOADING = (("read", "session_create"), ("read", "deserialize", "create_context"))


def result_to_row(result: RunResult, measurement: Measurement, now_s: float) -> dict[str, Any]:
    """Make every column of a row of runs that a report writes.

    `measurement` is what the campaign asked for: a verdict depends on it.

    Raises ValueError when a run that succeeded has no latencies, or one that is not a finite number.
    """
    possible = _possible(result.measured)
    others = {name: value for name, value in result.measured.items() if name not in possible and isfinite(value)}
    result = replace(result, measured=possible)
    sources: Mapping[Origin, Mapping[str, Any]] = {
        Origin.REPORTED: vars(result),
        Origin.MEASURED: result.measured,
        Origin.PEAK: _peaks(result),
        Origin.RECORDED: _recorded(result, now_s),
        Origin.LATENCIES: _latency_columns(result),
        Origin.STAGES: _load_columns(result),
        Origin.OUTPUTS: _output_columns(result),
        Origin.ENGINE: _engine_columns(result),
        Origin.DERIVED: {} if result.failure_type else derived_columns(facts_of(result, measurement)),
    }
    values = {one.name: _stored(one.kind, sources[one.origin].get(one.name)) for one in OF_REPORTS}
    return {
        **values,
        "device_id": result.device_id,
        "log_tail": list(result.log_tail),
        "other_readings": others or None,
    }


def _possible(readings: Mapping[str, float]) -> dict[str, float]:
    """Leave out readings that their columns cannot hold.

    One broken reading must not cost the run.
    """
    limits = {one.name: _LIMITS.get(one.kind, inf) for one in OF_REPORTS}
    return {name: value for name, value in readings.items() if abs(value) < limits.get(name, 0)}


def _stored(kind: Kind, value: Any) -> Any:
    """A value as its column holds it; None for a number that is beyond it."""
    if not kind.whole or value is None:
        return value
    return whole if abs(whole := round(value)) < _LIMITS[kind] else None


def _peaks(result: RunResult) -> dict[str, float]:
    """Find the extremes of the series.

    What an agent before protocol 3 found itself goes first.
    """
    found = peaks({one.name: _readings(one) for one in result.series}, _windows(result))
    return _possible(found if result.protocol_version >= _OWN_PEAKS else {**found, **result.measured})


def _recorded(result: RunResult, now_s: float) -> dict[str, Any]:
    found, before = _peaks(result), result.measured.get
    return {
        "reported_unix_s": now_s,
        "reported_attempt": result.attempt,
        "reported_failure_type": result.failure_type,
        "reported_failure_message": storable(result.failure_message),
        "providers": ",".join(result.providers),
        "library_versions": dict(result.library_versions),
        "session_options": dict(result.session_options),
        "runtime_version": _runtime_version(result),
        "warmup_count": len(result.warmup_latency_s),
        "conditions": dict(result.conditions),
        "findings": [asdict(one) for one in result.findings],
        "board_memory_delta_bytes": _rise(
            found.get("board_available_min_bytes"), before("board_available_before_bytes")
        ),
        "swap_delta_bytes": _rise(before("swap_used_before_bytes"), found.get("swap_used_max_bytes")),
        "sampler_core_share": _core_share(result),
    }


def facts_of(result: RunResult, measurement: Measurement) -> RunFacts:
    """What the analysis looks at, of a run that succeeded."""
    return RunFacts(
        latency_s=result.latency_s,
        required_count=measurement.min_count,
        required_time_s=measurement.min_time_s,
        warmup_converged=result.warmup_converged,
        series={one.name: _readings(one) for one in result.series},
        windows=_windows(result),
        conditions=result.conditions,
        readings=result.measured,
        findings=result.findings,
        sampler_core_share=_core_share(result),
        clocks_asked=measurement.lock_clocks,
    )


def _windows(result: RunResult) -> dict[str, tuple[float, float]]:
    return {one.name: (one.start_s, one.end_s) for one in result.windows}


def _readings(series: Series) -> Readings:
    """A series without what is no number: one broken reading must not cost the run."""
    kept = [pair for pair in zip(series.time_s, series.value, strict=True) if all(map(isfinite, pair))]
    return [time_s for time_s, _ in kept], [value for _, value in kept]


def engine_to_row(result: RunResult) -> dict[str, Any] | None:
    """Make the row of engines; None for a runtime that builds none and lists no layers."""
    if result.engine is None:
        return None
    row = asdict(result.engine)
    return {
        **row,
        "run_id": result.run_id,
        "engine_sha256": row.pop("sha256"),
        "notes": list(row["notes"]),
        "layers": json.loads(row.pop("layers_json") or "[]"),
    }


def engine_from_row(row: Row) -> Engine:
    """Inverse of `engine_to_row`."""
    names = ("size_bytes", "from_cache", "workspace_bytes", "settings", "realised_precision")
    return Engine(
        sha256=row["engine_sha256"],
        notes=tuple(row["notes"]),
        layers_json=json.dumps(row["layers"]),
        **{name: row[name] for name in names},
    )


def result_from_row(
    row: Row, stages: tuple[StageTiming, ...], samples: RawSamples, device: DeviceSnapshot, engine: Engine | None
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
        device_id=row["device_id"],
        **{one.name: row[one.name] for one in OF_REPORTS if one.origin is Origin.REPORTED},
        stages=stages,
        warmup_latency_s=samples.warmup_latency_s,
        latency_s=samples.latency_s,
        series=samples.series,
        device_latency_s=samples.device_latency_s,
        windows=samples.windows,
        conditions=row["conditions"] or {},
        findings=tuple(Finding(**one) for one in row["findings"] or ()),
        agreement=_agreement(row),
        engine=engine,
        device=device,
        measured=_measured(row),
    )


def _measured(row: Row) -> dict[str, float]:
    """Read the single readings back.

    Agents before protocol 3 reported the extremes of their series among them.
    """
    origins = {Origin.MEASURED} if row["protocol_version"] >= _OWN_PEAKS else {Origin.MEASURED, Origin.PEAK}
    found = {one.name: row[one.name] for one in OF_REPORTS if one.origin in origins and row[one.name] is not None}
    return {**(row["other_readings"] or {}), **found}


def _agreement(row: Row) -> Agreement | None:
    if row["output_count"] is None:
        return None
    names = ("output_max_abs", "output_cosine", "output_argmax_matches", "output_count")
    return Agreement(*(row[name] for name in names))


def _latency_columns(result: RunResult) -> dict[str, Any]:
    if result.failure_type:
        return {}
    summary = asdict(summarize(result.latency_s))
    device = sorted(result.device_latency_s)
    return {
        **{f"latency_{name}": value for name, value in summary.items()},
        "device_latency_p50_s": percentile(device, 50) if device else None,
        "device_latency_p99_s": percentile(device, 99) if device else None,
    }


def _load_columns(result: RunResult) -> dict[str, Any]:
    """The stages that have a column of their own; `load_s` is known when all of its parts are."""
    durations: dict[str, float] = {}
    for one in result.stages:
        durations[one.stage] = durations.get(one.stage, 0.0) + one.duration_s
    transferred = [one.size_bytes for one in result.stages if one.stage == "transfer" and one.size_bytes is not None]
    cold = [one.cold for one in result.stages if one.stage == "read"]
    stages = (
        "transfer",
        "parse",
        "build",
        "read",
        "session_create",
        "deserialize",
        "create_context",
        "first_inference",
    )
    warm = {name.removeprefix("warm_"): value for name, value in durations.items() if name.startswith("warm_")}
    return {
        **{f"{name}_s": durations.get(name) for name in stages},
        "transfer_bytes": sum(transferred) if transferred else None,
        "load_s": _sum_of(_LOADING, durations),
        "warm_load_s": _sum_of(_PAPER_LOADING, warm),
        "paper_load_s": _sum_of(_PAPER_LOADING, durations),
        "load_cold": cold[0] if cold else None,
    }


def _sum_of(ways: tuple[tuple[str, ...], ...], durations: dict[str, float]) -> float | None:
    """The duration of the first way of which every stage is known."""
    return next((sum(durations[name] for name in way) for way in ways if durations.keys() >= set(way)), None)


def _output_columns(result: RunResult) -> dict[str, Any]:
    found = result.agreement
    if found is None:
        return {}
    return {f"output_{name}": value for name, value in asdict(found).items()}


def _engine_columns(result: RunResult) -> dict[str, Any]:
    engine = result.engine
    if engine is None:
        return {}
    return {
        "engine_sha256": engine.sha256,
        "engine_bytes": engine.size_bytes,
        "realised_precision": dict(engine.realised_precision),
    }


def _runtime_version(result: RunResult) -> str:
    """The version of the runtime, as the device lists its backend; empty where it does not."""
    backend = result.device.backend(result.backend)
    return backend.version if backend else ""


def _rise(low: float | None, high: float | None) -> float | None:
    """How far a quantity moved; nothing where it moved the other way, None where an end is unknown."""
    return None if low is None or high is None else max(high - low, 0)


def _core_share(result: RunResult) -> float | None:
    cpu_s = result.measured.get("sampler_cpu_s")
    return None if cpu_s is None or result.duration_s <= 0 else cpu_s / result.duration_s
