"""The records that the daemon and its child processes exchange.

A spec goes to a child's standard input. An outcome comes back in OUTCOME_FILE. Both are one JSON object of exactly the
fields below. The fields differ only when an agent was upgraded while its daemon was running.
"""

import json
from types import MappingProxyType
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Type, TypeVar

from efficientquant_agent.errors import RunFailedError
from efficientquant_agent.files import write_whole
from efficientquant_agent.records import Agreement, Finding, Measurement, Readings, Series, StageTiming, Window

# The modules of the children, for `python -m`.
RUN_MODULE = "efficientquant_agent.child.measure"
BUILD_MODULE = "efficientquant_agent.child.build"
# Files in the scratch folder. Samples are float64 without a header.
OUTCOME_FILE = "result.json"
LATENCY_FILE = "latency_s.f64"
DEVICE_LATENCY_FILE = "device_latency_s.f64"
WARMUP_FILE = "warmup_latency_s.f64"
PLAN_FILE = "engine.plan"
REPORT_FILE = "build.json"
# A child's exit code for a spec that it does not understand. The child's last line says why.
EXIT_MISMATCH = 78  # EX_CONFIG of sysexits.h
MISMATCH = "the agent's processes are of different releases"

Record = TypeVar("Record")


class BuildOptions(NamedTuple):
    """The options of an engine build.

    run.engines.build_settings() says which of them a kept plan depends on.
    """

    # From the artifact's metadata: "fp16", "int8". TF32 is off unless "tf32" is named. Typed files need none.
    builder_flags: Sequence[str] = ()
    # Tried in this order until a build succeeds. 0 is the runtime's own limit.
    workspace_ladder_bytes: Sequence[int] = (1 << 30, 256 << 20, 128 << 20, 64 << 20)
    timing_iterations: int = 8
    # Where the timing cache is read from and written to; empty for none.
    timing_cache_path: str = ""
    # The SM to build for, e.g. 86. 0 is this device's. Only TensorRT-RTX builds for the SM of another GPU.
    compute_capability: int = 0


class BuildReport(NamedTuple):
    """The report of an engine build.

    It is stored with the plan and with every result of that plan.
    """

    engine_sha256: str
    engine_bytes: int
    workspace_bytes: int
    parse_s: float
    build_s: float
    # Changes that the build needed, e.g. "Q/DQ of stem.conv dropped: no INT8 kernel". Empty without any.
    notes: Sequence[str]
    # The settings of the build, for a person to read, e.g. {"tensorrt": "8.2.1", "sm": "53", "precision": "fp16"}.
    settings: Mapping[str, str]


class RunSpec(NamedTuple):
    """The spec of one run.

    `reference_path` is empty without a reference.
    """

    parent_pid: int
    scratch: str
    backend: str
    device_name: str
    content_path: str
    reference_path: str
    measurement: Measurement


class BuildSpec(NamedTuple):
    """The spec of one engine build."""

    parent_pid: int
    scratch: str
    backend: str
    device_name: str
    artifact_path: str
    options: BuildOptions


class Outcome(NamedTuple):
    """The outcome of a run, as its child knows it.

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
    """The reason why a build left no plan.

    It is a failure type of fleet.proto, and a sentence.
    """

    failure_type: str
    failure_message: str


class ProtocolError(RunFailedError):
    """A record that another process of the agent cannot read."""

    def __init__(self, message: str) -> None:
        super().__init__("agent_error", message)


class MismatchError(ProtocolError):
    """A record whose fields belong to another release of the agent."""

    def __init__(self, problem: str) -> None:
        super().__init__("{} ({}); restart the agent".format(MISMATCH, problem))


class DamagedError(ProtocolError):
    """A record that is not JSON or holds an invalid value."""

    def __init__(self, problem: str) -> None:
        super().__init__(
            "what a process of the agent left cannot be read ({}); measure again, and report it when it happens "
            "twice".format(problem)
        )


def encode(record: Any) -> bytes:
    """Return a spec, an outcome or a report as JSON."""
    return json.dumps(_plain(record)).encode()


def decode_run_spec(content: bytes) -> RunSpec:
    """Parse a RunSpec.

    Raises ProtocolError when the content is not a RunSpec.
    """
    return _read(RunSpec, content)


def decode_build_spec(content: bytes) -> BuildSpec:
    """Parse a BuildSpec.

    Raises ProtocolError when the content is not a BuildSpec.
    """
    return _read(BuildSpec, content)


def decode_outcome(content: bytes) -> Outcome:
    """Parse an Outcome.

    Raises ProtocolError when the content is not an Outcome.
    """
    return _read(Outcome, content)


def decode_build_failure(content: bytes) -> BuildFailure:
    """Parse a BuildFailure.

    Raises ProtocolError when the content is not a BuildFailure.
    """
    return _read(BuildFailure, content)


def decode_report(content: bytes) -> BuildReport:
    """Parse a BuildReport.

    Raises ProtocolError when the content is not a BuildReport.
    """
    report = _read(BuildReport, content)
    return report._replace(notes=tuple(report.notes))


def write(path: str, record: Any) -> None:
    """Write a record as JSON, completely or not at all."""
    write_whole(path, encode(record))


def read(path: str, decode: Callable[[bytes], Record]) -> Optional[Record]:
    """Read the record in a file, or return None without a file.

    Raises ProtocolError when the file cannot be read.
    """
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
        return {name: _plain(item) for name, item in value._asdict().items()}
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _read(kind: Type[Record], content: bytes) -> Record:
    try:
        value = json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise DamagedError("{} is no JSON".format(kind.__name__)) from error
    record: Record = _value(kind, value, kind.__name__)
    return record


def _record(kind: Type[Any], value: Any, place: str) -> Any:
    """Return a record from a mapping of exactly its fields.

    Raises MismatchError for other fields, and DamagedError for anything else.
    """
    if not isinstance(value, dict):
        raise DamagedError("{} is no object".format(place))
    missing = [name for name in kind._fields if name not in value]
    unknown = sorted(set(value) - set(kind._fields))
    if missing or unknown:
        differences = (("lacks", missing), ("has besides", unknown))
        problems = ["{} {}".format(verb, names) for verb, names in differences if names]
        raise MismatchError("{} {}".format(kind.__name__, " and ".join(problems)))
    types = kind.__annotations__
    return kind(**{name: _value(types[name], item, place + "." + name) for name, item in value.items()})


def _value(kind: Any, value: Any, place: str) -> Any:
    """Return a value of a field's type.

    Raises DamagedError, which names the place, for a value of another type.
    """
    if hasattr(kind, "_fields"):
        return _record(kind, value, place)
    if kind in _OPTIONAL:
        return None if value is None else _value(_OPTIONAL[kind], value, place)
    if kind in _LISTS and isinstance(value, list):
        return [_value(_LISTS[kind], item, "{}[{}]".format(place, index)) for index, item in enumerate(value)]
    if kind in _MAPPINGS and isinstance(value, dict):
        return {name: _value(_MAPPINGS[kind], item, place + "." + name) for name, item in value.items()}
    if kind not in _SCALARS or not _SCALARS[kind](value):
        raise DamagedError("{} is {}".format(place, repr(value)[:60]))
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


# How each type in the records above is checked. A test covers every record.
_SCALARS: Dict[Any, Callable[[Any], bool]] = {
    str: lambda value: isinstance(value, str),
    bool: lambda value: isinstance(value, bool),
    # The range of the wire's unsigned numbers.
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
