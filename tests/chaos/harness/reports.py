"""Results that fake agents report: good, failed and poisonous."""

import hashlib
import random
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from efficientquant_protos import PROTOCOL_VERSION
from efficientquant_protos.v1 import fleet_pb2 as pb

LATENCIES = 64
SERIES_POINTS = 60
_SERIES = ("child_pss_bytes", "board_available_bytes", "temperature_cpu_c", "cpu_clock_hz")
_STAGES = ("transfer", "read", "session_create", "first_inference")
_DEEP = 5000


class StoredReport(NamedTuple):
    """A result in an outbox, as bytes with their hash."""

    run_id: str
    payload: bytes
    sha256: str
    first_latency_s: float | None
    failure_type: str

    @property
    def request(self) -> pb.ReportRunRequest:
        """The message that delivers it."""
        return pb.ReportRunRequest(encoded_result=self.payload, size_bytes=len(self.payload), sha256=self.sha256)


def of_bytes(run_id: str, payload: bytes) -> StoredReport:
    """Return a report of bytes that need not be a result."""
    return StoredReport(run_id, payload, hashlib.sha256(payload).hexdigest(), None, "")


def stored(result: pb.RunResult) -> StoredReport:
    """Encode a result for the outbox."""
    first_s = result.latency_s[0] if result.latency_s else None
    report = of_bytes(result.run_id, result.SerializeToString())
    return report._replace(first_latency_s=first_s, failure_type=result.failure_type)


def empty_result(assignment: pb.Assignment, device_id: str, snapshot: pb.DeviceSnapshot) -> pb.RunResult:
    """Return what every result of an assignment has."""
    return pb.RunResult(
        run_id=assignment.run_id,
        device_id=device_id,
        attempt=assignment.attempt,
        lease_id=assignment.lease_id,
        started_unix_s=time.time(),
        started_monotonic_s=time.monotonic(),
        agent_version="0.1.0",
        protocol_version=PROTOCOL_VERSION,
        backend=assignment.backend,
        library_versions=snapshot.library_versions,
        device=snapshot,
    )


def failed_result(
    assignment: pb.Assignment, device_id: str, snapshot: pb.DeviceSnapshot, failure_type: str
) -> pb.RunResult:
    """Return the result of a run that failed."""
    result = empty_result(assignment, device_id, snapshot)
    result.failure_type, result.failure_message = failure_type, f"{failure_type}, as the chaos harness asked"
    return result


def good_result(assignment: pb.Assignment, device_id: str, snapshot: pb.DeviceSnapshot) -> pb.RunResult:
    """Return the result of a run that succeeded."""
    draw = random.Random()
    latency_s = [0.01 + draw.random() * 0.001 for _ in range(LATENCIES)]
    result = empty_result(assignment, device_id, snapshot)
    result.duration_s = 2.0
    result.warmup_converged = True
    result.warmup_latency_s.extend(latency_s[:10])
    result.latency_s.extend(latency_s)
    result.providers.append("CPUExecutionProvider")
    result.session_options["intra_op_threads"] = "0"
    result.conditions["clocks"] = "unlocked"
    result.measured["board_available_before_bytes"] = float(4 << 30)
    for stage in _STAGES:
        result.stages.add(stage=stage, duration_s=0.1, size_bytes=1000)
    result.windows.add(name="measure", start_s=1.0, end_s=2.0)
    times = [0.1 * point for point in range(SERIES_POINTS)]
    for name in _SERIES:
        result.series.add(name=name, time_s=times, value=[draw.random() * 1e8 for _ in times])
    return result


def _nan_stage(result: pb.RunResult) -> None:
    result.stages[0].duration_s = float("nan")


def _huge_stage(result: pb.RunResult) -> None:
    result.stages[0].size_bytes = 2**63


def _deep_layers(result: pb.RunResult) -> None:
    result.engine.sha256 = "ab" * 32
    result.engine.layers_json = "[" * _DEEP + "]" * _DEEP


def _uneven_series(result: pb.RunResult) -> None:
    del result.series[0].value[0]


def _no_latencies(result: pb.RunResult) -> None:
    del result.latency_s[:]


def _infinite_latency(result: pb.RunResult) -> None:
    result.latency_s[0] = float("inf")


# What makes a result one that the database can never hold.
POISONS: Mapping[str, Callable[[pb.RunResult], None]] = {
    "nan_stage": _nan_stage,
    "huge_stage": _huge_stage,
    "deep_layers": _deep_layers,
    "uneven_series": _uneven_series,
    "no_latencies": _no_latencies,
    "infinite_latency": _infinite_latency,
}


def poisoned(report: StoredReport, poison: str) -> StoredReport:
    """Return a report that the database can never hold."""
    result = pb.RunResult.FromString(report.payload)
    POISONS[poison](result)
    return stored(result)
