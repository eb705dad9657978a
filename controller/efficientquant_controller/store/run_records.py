"""The conversion of an agent's report to rows and back.

A row has the reported values and the numbers derived from them.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from math import inf, isfinite, nan
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
from efficientquant_controller.store.records import LIMITS, storable
from efficientquant_controller.store.series import RawSamples

Row = RowMapping

# The stages of loading, without and with an engine.
_LOADING = (("read", "session_create", "first_inference"), ("read", "deserialize", "create_context", "first_inference"))
# The first protocol whose agents leave the extremes of their series to the controller.
_OWN_PEAKS = 3
# TensorRT nests its layers five deep.
_LAYER_DEPTH = 32
# The paper's load time does not include the first inference.
_PAPER_LOADING = (("read", "session_create"), ("read", "deserialize", "create_context"))


def result_to_row(result: RunResult, measurement: Measurement, now_s: float) -> dict[str, Any]:
    """Make every column that a report writes into a row of runs.

    The verdict depends on the campaign's `measurement`. Raises ValueError when a run that succeeded has no latencies,
    or a latency that is not a finite number.
    """
    possible = _storable_readings(result.measured)
    others = {name: value for name, value in result.measured.items() if name not in possible and isfinite(value)}
    result = replace(result, measured=possible)
    series = {series.name: _readings(series) for series in result.series}
    extremes = _peaks(result, series)
    sources: Mapping[Origin, Mapping[str, Any]] = {
        Origin.REPORTED: vars(result),
        Origin.MEASURED: result.measured,
        Origin.PEAK: extremes,
        Origin.RECORDED: _recorded(result, extremes, now_s),
        Origin.LATENCIES: _latency_columns(result),
        Origin.STAGES: _load_columns(result),
        Origin.OUTPUTS: _output_columns(result),
        Origin.ENGINE: _engine_columns(result),
        Origin.DERIVED: {} if result.failure_type else derived_columns(_facts(result, measurement, series)),
    }
    values = {column.name: _stored(column.kind, sources[column.origin].get(column.name)) for column in OF_REPORTS}
    return {
        **values,
        "device_id": result.device_id,
        "log_tail": list(result.log_tail),
        "other_readings": others or None,
    }


def _storable_readings(readings: Mapping[str, float]) -> dict[str, float]:
    """Return the readings that have a column and fit into it.

    One broken reading must not lose the whole run.
    """
    return {name: value for name, value in readings.items() if abs(value) < _READING_LIMITS.get(name, 0)}


_READING_LIMITS = {column.name: LIMITS.get(column.kind, inf) for column in OF_REPORTS}


def _stored(kind: Kind, value: Any) -> Any:
    """Convert a value to the kind of its column.

    Returns None for a number that is too large for the column.
    """
    if not kind.whole or value is None:
        return value
    return whole if abs(whole := round(value)) < LIMITS[kind] else None


def _peaks(result: RunResult, series: Mapping[str, Readings]) -> dict[str, float]:
    """Find the extremes of the series.

    Extremes that an agent before protocol 3 reported take precedence.
    """
    extremes = peaks(series, _windows(result))
    return _storable_readings(extremes if result.protocol_version >= _OWN_PEAKS else {**extremes, **result.measured})


def _recorded(result: RunResult, extremes: Mapping[str, float], now_s: float) -> dict[str, Any]:
    reading = result.measured.get
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
        "findings": [asdict(finding) for finding in result.findings],
        "board_memory_delta_bytes": _rise(
            extremes.get("board_available_min_bytes"), reading("board_available_before_bytes")
        ),
        "swap_delta_bytes": _rise(reading("swap_used_before_bytes"), extremes.get("swap_used_max_bytes")),
        "sampler_core_share": _core_share(result),
    }


def _facts(result: RunResult, measurement: Measurement, series: Mapping[str, Readings]) -> RunFacts:
    """Return the facts that the analysis needs of a successful run."""
    return RunFacts(
        latency_s=result.latency_s,
        required_count=measurement.min_count,
        required_time_s=measurement.min_time_s,
        warmup_converged=result.warmup_converged,
        series=series,
        windows=_windows(result),
        conditions=result.conditions,
        readings=result.measured,
        findings=result.findings,
        sampler_core_share=_core_share(result),
        clocks_asked=measurement.lock_clocks,
    )


def _windows(result: RunResult) -> dict[str, tuple[float, float]]:
    return {window.name: (window.start_s, window.end_s) for window in result.windows}


def _readings(series: Series) -> Readings:
    """Return the finite readings of a series.

    One broken reading must not lose the whole run.
    """
    if all(map(isfinite, series.time_s)) and all(map(isfinite, series.value)):
        return series.time_s, series.value
    kept = [pair for pair in zip(series.time_s, series.value, strict=True) if all(map(isfinite, pair))]
    return [time_s for time_s, _ in kept], [value for _, value in kept]


def engine_to_row(result: RunResult) -> dict[str, Any] | None:
    """Make the row of a run's engine.

    Returns None for a run without an engine.
    """
    if result.engine is None:
        return None
    row = asdict(result.engine)
    return {
        **row,
        "run_id": result.run_id,
        "engine_sha256": row.pop("sha256"),
        "notes": list(row["notes"]),
        "layers": _layers(row.pop("layers_json")),
    }


def _layers(text: str) -> Any:
    """Decode the layers of an engine.

    JSON has neither NaN nor infinity, so they become null. Raises ValueError for text that is not JSON or is nested too
    deeply.
    """
    too_deep = f"its layers are nested deeper than {_LAYER_DEPTH} levels"
    try:
        layers = json.loads(text or "[]", parse_constant=lambda _: None, parse_float=_finite)
    except RecursionError:
        raise ValueError(too_deep) from None
    level = [layers]
    for _ in range(_LAYER_DEPTH):
        level = [child for item in level if isinstance(item, dict | list) for child in _children(item)]
        if not level:
            return layers
    raise ValueError(too_deep)


def _finite(text: str) -> float | None:
    return number if isfinite(number := float(text)) else None


def _children(item: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return item.values() if isinstance(item, dict) else item


def engine_from_row(row: Row) -> Engine:
    """Read a row that `engine_to_row` made."""
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
    """Read a row that `result_to_row` made, with the other tables' parts."""
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
        **{column.name: row[column.name] for column in OF_REPORTS if column.origin is Origin.REPORTED},
        stages=stages,
        warmup_latency_s=samples.warmup_latency_s,
        latency_s=samples.latency_s,
        series=samples.series,
        device_latency_s=samples.device_latency_s,
        windows=samples.windows,
        conditions=row["conditions"] or {},
        findings=tuple(Finding(**finding) for finding in row["findings"] or ()),
        agreement=_agreement(row),
        engine=engine,
        device=device,
        measured=_measured(row),
    )


def _measured(row: Row) -> dict[str, float]:
    """Read the single readings of a row.

    Agents before protocol 3 reported the extremes of their series among them.
    """
    origins = {Origin.MEASURED} if row["protocol_version"] >= _OWN_PEAKS else {Origin.MEASURED, Origin.PEAK}
    names = [column.name for column in OF_REPORTS if column.origin in origins]
    readings = {name: row[name] for name in names if row[name] is not None}
    return {**(row["other_readings"] or {}), **readings}


def _agreement(row: Row) -> Agreement | None:
    """Read the agreement of a row, where SQLite keeps NaN as NULL."""
    if row["output_count"] is None:
        return None
    max_abs, cosine = (nan if row[name] is None else row[name] for name in ("output_max_abs", "output_cosine"))
    return Agreement(max_abs, cosine, row["output_argmax_matches"], row["output_count"])


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
    """Make the columns of the stages.

    `load_s` is None unless all its stages are known, and `transfer_s` where the cache had the artifact.
    """
    durations: dict[str, float] = {}
    for timing in result.stages:
        durations[timing.stage] = durations.get(timing.stage, 0.0) + timing.duration_s
    transfers = [timing.size_bytes for timing in result.stages if timing.stage == "transfer"]
    transferred = [size_bytes for size_bytes in transfers if size_bytes is not None]
    cold = [timing.cold for timing in result.stages if timing.stage == "read"]
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
        **{f"{name}_s": durations.get(name) for name in stages if name != "transfer"},
        "transfer_s": durations.get("transfer") if sum(transferred) or not transferred else None,
        "transfer_bytes": sum(transferred) if transferred else None,
        "load_s": _sum_of(_LOADING, durations),
        "warm_load_s": _sum_of(_PAPER_LOADING, warm),
        "paper_load_s": _sum_of(_PAPER_LOADING, durations),
        "load_cold": cold[0] if cold else None,
    }


def _sum_of(sequences: tuple[tuple[str, ...], ...], durations: dict[str, float]) -> float | None:
    """Return the duration of the first sequence whose stages are all known.

    Returns None when there is none.
    """
    return next(
        (sum(durations[name] for name in stages) for stages in sequences if durations.keys() >= set(stages)), None
    )


def _output_columns(result: RunResult) -> dict[str, Any]:
    agreement = result.agreement
    if agreement is None:
        return {}
    return {f"output_{name}": value for name, value in asdict(agreement).items()}


def _engine_columns(result: RunResult) -> dict[str, Any]:
    engine = result.engine
    if engine is None:
        return {}
    return {
        # A runtime that compiles in memory has no file.
        "engine_sha256": engine.sha256 or None,
        "engine_bytes": engine.size_bytes or None,
        "realised_precision": dict(engine.realised_precision),
    }


def _runtime_version(result: RunResult) -> str:
    """Return the runtime's version from the device's list of backends.

    It is empty when the device does not list the backend.
    """
    backend = result.device.backend(result.backend)
    return backend.version if backend else ""


def _rise(low: float | None, high: float | None) -> float | None:
    """Return how far a quantity rose.

    Returns 0 where it fell, and None where an end is unknown.
    """
    return None if low is None or high is None else max(high - low, 0)


def _core_share(result: RunResult) -> float | None:
    cpu_s = result.measured.get("sampler_cpu_s")
    return None if cpu_s is None or result.duration_s <= 0 else cpu_s / result.duration_s
