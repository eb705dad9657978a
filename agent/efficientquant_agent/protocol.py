"""What the daemon and the children of a run agree on: their specs, their outcomes, and the files between them.

A spec goes to a child's standard input, an outcome comes back in OUTCOME_FILE, both as one JSON object of exactly the
fields below. They differ only where an agent was upgraded while its daemon went on.
"""

import json
from types import MappingProxyType
from typing import Any, Callable, List, Mapping, NamedTuple, Optional, Sequence, Type, TypeVar

from efficientquant_agent.errors import RunFailedError
from efficientquant_agent.files import write_whole
from efficientquant_agent.records import Agreement, Finding, Measurement, Readings, Series, StageTiming, Window

# The children, as `python -m` takes them.
RUN_MODULE = "efficientquant_agent.child.measure"
BUILD_MODULE = "efficientquant_agent.child.build"
# In the scratch folder. Samples are float64 without a header.
OUTCOME_FILE = "result.json"
LATENCY_FILE = "latency_s.f64"
DEVICE_LATENCY_FILE = "device_latency_s.f64"
WARMUP_FILE = "warmup_latency_s.f64"
PLAN_FILE = "engine.plan"
REPORT_FILE = "build.json"
# A child's exit code for a spec that it does not understand; the sentence is its last line.
EXIT_MISMATCH = 78  # EX_CONFIG of sysexits.h
MISMATCH = "the agent's processes are of different releases"

Record = TypeVar("Record")


class BuildOptions(NamedTuple):
    """What an engine is built with; which of it decides about a kept plan, engines.build_settings() says."""

    # From the artifact's metadata: "fp16", "int8". TF32 is off unless "tf32" is named. Typed files need none.
    builder_flags: Sequence[str] = ()
    # Tried in this order until a build succeeds; 0 is the runtime's own limit.
    workspace_ladder_bytes: Sequence[int] = (1 << 30, 256 << 20, 128 << 20, 64 << 20)
    timing_iterations: int = 8
    # Where the timing cache is read from and written to; empty for none.
    timing_cache_path: str = ""
    # The SM to build for, e.g. 86; 0 is this device's. Only TensorRT-RTX builds for one that is not here.
    compute_capability: int = 0


class BuildReport(NamedTuple):
    """How an engine was made, stored beside the plan and with every result that it gives."""

    engine_sha256: str
    engine_bytes: int
    workspace_bytes: int
    parse_s: float
    build_s: float
    # What had to be changed to build it, e.g. "Q/DQ of stem.conv dropped: no INT8 kernel"; empty is as asked.
    notes: Sequence[str]
    # What it was built with, for a person to read, e.g. {"tensorrt": "8.2.1", "sm": "53", "precision": "fp16"}.
    settings: Mapping[str, str]


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


class ProtocolError(RunFailedError):
    """What one process of the agent says is not what another expects."""

    def __init__(self, message: str) -> None:
        super().__init__("agent_error", message)


class MismatchError(ProtocolError):
    """Daemon and child are of different releases: a record has other fields."""

    def __init__(self, problem: str) -> None:
        super().__init__("{} ({}); restart the agent".format(MISMATCH, problem))


class DamagedError(ProtocolError):
    """A record is not JSON, or has a value that its field cannot hold."""

    def __init__(self, problem: str) -> None:
        super().__init__(
            "what a process of the agent left cannot be read ({}); measure again, and report it when it happens "
            "twice".format(problem)
        )


def encode(record: Any) -> bytes:
    """Return a spec, an outcome or a report as JSON."""
    return json.dumps(_plain(record)).encode()


def decode_run_spec(content: bytes) -> RunSpec:
    """Read a RunSpec; raises ProtocolError."""
    return _read(RunSpec, content)


def decode_build_spec(content: bytes) -> BuildSpec:
    """Read a BuildSpec; raises ProtocolError."""
    return _read(BuildSpec, content)


def decode_outcome(content: bytes) -> Outcome:
    """Read an Outcome; raises ProtocolError."""
    return _read(Outcome, content)


def decode_build_failure(content: bytes) -> BuildFailure:
    """Read a BuildFailure; raises ProtocolError."""
    return _read(BuildFailure, content)


def decode_report(content: bytes) -> BuildReport:
    """Read a BuildReport; raises ProtocolError."""
    report = _read(BuildReport, content)
    return report._replace(notes=tuple(report.notes))


def write(path: str, record: Any) -> None:
    """Write a record as JSON, complete or not at all."""
    write_whole(path, encode(record))


def read(path: str, decode: Callable[[bytes], Record]) -> Optional[Record]:
    """Read the record in a file, None without a file; raises ProtocolError."""
    try:
        with open(path, "rb") as stream:
            content = stream.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DamagedError(str(error)) from error
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
        found = json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise DamagedError("{} is no JSON".format(kind.__name__)) from error
    return _value(kind, found, kind.__name__)


def _record(kind: Type[Any], found: Any, place: str) -> Any:
    """Return a record of exactly its fields."""
    if not isinstance(found, dict):
        raise DamagedError("{} is no object".format(place))
    missing = [name for name in kind._fields if name not in found]
    unknown = sorted(set(found) - set(kind._fields))
    if missing or unknown:
        problems = ["{} {}".format(*each) for each in (("lacks", missing), ("has besides", unknown)) if each[1]]
        raise MismatchError("{} {}".format(kind.__name__, " and ".join(problems)))
    types = kind.__annotations__
    return kind(**{name: _value(types[name], value, place + "." + name) for name, value in found.items()})


def _value(kind: Any, found: Any, place: str) -> Any:
    """Return a value of a field's type; raises DamagedError, naming the place, for any other."""
    if hasattr(kind, "_fields"):
        return _record(kind, found, place)
    if kind in _OPTIONAL:
        return None if found is None else _value(_OPTIONAL[kind], found, place)
    if kind in _LISTS and isinstance(found, list):
        return [_value(_LISTS[kind], each, "{}[{}]".format(place, at)) for at, each in enumerate(found)]
    if kind in _MAPPINGS and isinstance(found, dict):
        return {name: _value(_MAPPINGS[kind], each, place + "." + name) for name, each in found.items()}
    if kind not in _SCALARS or not _SCALARS[kind](found):
        raise DamagedError("{} is {}".format(place, repr(found)[:60]))
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


# How each type in the records above is read; a test walks all of them.
_SCALARS = {
    str: lambda value: isinstance(value, str),
    bool: lambda value: isinstance(value, bool),
    # What the wire's unsigned numbers hold.
    int: lambda value: isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 64,
    float: _is_number,
    Any: lambda _: True,
}
_OPTIONAL = {Optional[int]: int, Optional[float]: float, Optional[Agreement]: Agreement}
_LISTS = {
    Sequence[str]: str,
    Sequence[int]: int,
    List[float]: float,
    Sequence[StageTiming]: StageTiming,
    Sequence[Window]: Window,
    Sequence[Finding]: Finding,
    Sequence[Mapping[str, Any]]: Mapping[str, Any],
}
_MAPPINGS = {Mapping[str, str]: str, Mapping[str, int]: int, Mapping[str, Any]: Any}
