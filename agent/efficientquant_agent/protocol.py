"""What the daemon and the children of a run agree on: their specs, their outcomes, and the files between them.

A spec goes to a child's standard input, an outcome comes back in OUTCOME_FILE, both as one JSON object of exactly the
fields below. They differ only where an agent was upgraded while its daemon went on.
"""

import json
import os
from types import MappingProxyType
from typing import Any, Callable, Dict, Mapping, NamedTuple, Optional, Sequence, Type, TypeVar

from efficientquant_agent.backends.base import BuildOptions, BuildReport
from efficientquant_agent.errors import RunFailedError
from efficientquant_agent.records import Agreement, Finding, Measurement, Readings, Series, StageTiming, Window

# The children, as `python -m` takes them.
RUN_MODULE = "efficientquant_agent.worker"
BUILD_MODULE = "efficientquant_agent.building"
# In the scratch folder. Samples are float64 without a header.
OUTCOME_FILE = "result.json"
LATENCY_FILE = "latency_s.f64"
DEVICE_LATENCY_FILE = "device_latency_s.f64"
WARMUP_FILE = "warmup_latency_s.f64"
PLAN_FILE = "engine.plan"
REPORT_FILE = "build.json"
# A child's exit code for a spec that it does not understand; the sentence is its last line.
EXIT_MISMATCH = 3

Record = TypeVar("Record")


class RunSpec(NamedTuple):
    """The order to measure; `reference_path` is empty without a reference."""

    parent_pid: int
    scratch: str
    backend: str
    device_name: str
    content_path: str
    reference_path: str
    measurement: Measurement


class BuildSpec(NamedTuple):
    """The order to build an engine."""

    parent_pid: int
    scratch: str
    backend: str
    device_name: str
    artifact_path: str
    options: BuildOptions


class Outcome(NamedTuple):
    """What the child of a run knows at its end.

    Times of windows and of `own_pss` are monotonic, not since the run's start.
    """

    failure_type: str = ""
    failure_message: str = ""
    stages: Sequence[StageTiming] = ()
    windows: Sequence[Window] = ()
    own_pss: Series = Series("child_pss_bytes", [], [])
    findings: Sequence[Finding] = ()
    readings: Readings = Readings()
    agreement: Optional[Agreement] = None
    warmup_converged: bool = False
    providers: Sequence[str] = ()
    library_versions: Mapping[str, str] = MappingProxyType({})
    session_options: Mapping[str, str] = MappingProxyType({})
    realised_precision: Mapping[str, int] = MappingProxyType({})
    # One object per layer: {"name", "type", "precision", …}, with "mean_s" where they were profiled.
    layers: Sequence[Mapping[str, Any]] = ()


class BuildFailure(NamedTuple):
    """Why a build left no plan: a failure type of fleet.proto, and a sentence."""

    failure_type: str
    failure_message: str


class MismatchError(RunFailedError):
    """Daemon and child do not understand each other."""

    def __init__(self, problem: str) -> None:
        super().__init__(
            "agent_error",
            "the agent's processes are of different releases ({}); restart the agent".format(problem),
        )


def encode(record: Any) -> bytes:
    """Return a spec, an outcome or a report as JSON."""
    return json.dumps(_plain(record)).encode()


def decode_run_spec(content: bytes) -> RunSpec:
    """Read a RunSpec; raises MismatchError."""
    spec = _read(RunSpec, content)
    return spec._replace(measurement=_record(Measurement, spec.measurement))


def decode_build_spec(content: bytes) -> BuildSpec:
    """Read a BuildSpec; raises MismatchError."""
    spec = _read(BuildSpec, content)
    return spec._replace(options=_record(BuildOptions, spec.options))


def decode_outcome(content: bytes) -> Outcome:
    """Read an Outcome; raises MismatchError."""
    outcome = _read(Outcome, content)
    return outcome._replace(
        stages=_records(StageTiming, outcome.stages),
        windows=_records(Window, outcome.windows),
        own_pss=_record(Series, outcome.own_pss),
        findings=_records(Finding, outcome.findings),
        readings=_record(Readings, outcome.readings),
        agreement=None if outcome.agreement is None else _record(Agreement, outcome.agreement),
    )


def decode_build_failure(content: bytes) -> BuildFailure:
    """Read a BuildFailure; raises MismatchError."""
    return _read(BuildFailure, content)


def decode_report(content: bytes) -> BuildReport:
    """Read a BuildReport; raises MismatchError."""
    report = _read(BuildReport, content)
    return report._replace(notes=tuple(report.notes), settings=dict(report.settings))


def write(path: str, record: Any) -> None:
    """Write a record as JSON, complete or not at all."""
    part = path + ".part"
    with open(part, "wb") as stream:
        stream.write(encode(record))
    os.replace(part, path)


def read(path: str, decode: Callable[[bytes], Record]) -> Optional[Record]:
    """Read the record in a file, None without a file; raises MismatchError."""
    try:
        with open(path, "rb") as stream:
            content = stream.read()
    except FileNotFoundError:
        return None
    return decode(content)


def _plain(value: Any) -> Any:
    if hasattr(value, "_asdict"):
        return {name: _plain(each) for name, each in value._asdict().items()}
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value


def _read(kind: Type[Any], content: bytes) -> Any:
    try:
        return _record(kind, json.loads(content.decode()))
    except ValueError as error:
        raise MismatchError("{} is no JSON".format(kind.__name__)) from error


def _records(kind: Type[Any], found: Any) -> Any:
    if not isinstance(found, list):
        raise MismatchError("no list of {}".format(kind.__name__))
    return [_record(kind, each) for each in found]


def _record(kind: Type[Any], found: Any) -> Any:
    """Return a record of exactly its fields."""
    if not isinstance(found, dict):
        raise MismatchError("{} is no object".format(kind.__name__))
    fields: Dict[str, Any] = found
    missing = [name for name in kind._fields if name not in fields]
    unknown = sorted(set(fields) - set(kind._fields))
    if missing or unknown:
        problems = ["{} {}".format(*each) for each in (("lacks", missing), ("has besides", unknown)) if each[1]]
        raise MismatchError("{} {}".format(kind.__name__, " and ".join(problems)))
    return kind(**fields)
