"""Records as the wire's messages, and back."""

from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Union

from efficientquant_protos import PROTOCOL_VERSION
from efficientquant_protos.v1 import fleet_pb2 as pb
from google.protobuf.message import DecodeError

from efficientquant_agent import __version__
from efficientquant_agent.records import (
    Assignment,
    CancelRun,
    DeviceSnapshot,
    Measurement,
    RunResult,
    Superseded,
    Welcome,
)
from efficientquant_agent.streams import encodable

Command = Union[Welcome, Assignment, CancelRun, Superseded]


class Hello(NamedTuple):
    """The device's part of the first message of a session."""

    device_id: str
    name: str
    session_epoch: int
    device: DeviceSnapshot
    # Why installed runtimes do not work here, one sentence each.
    broken_backends: Sequence[str] = ()


def hello_to_wire(hello: Hello, active_run_ids: List[str], problem: str) -> pb.Hello:
    """Return the first message of a session."""
    return pb.Hello(
        protocol_version=PROTOCOL_VERSION,
        agent_version=__version__,
        device_id=hello.device_id,
        name=hello.name,
        session_epoch=hello.session_epoch,
        device=snapshot_to_wire(hello.device),
        active_run_ids=active_run_ids,
        problem=encodable(problem),
        broken_backends=[encodable(sentence) for sentence in hello.broken_backends],
    )


def command_from_wire(command: pb.ControllerCommand) -> Optional[Command]:
    """Return the record for a command, None for an unknown one.

    A newer controller may send commands that this agent does not know.
    """
    kind = command.WhichOneof("command")
    if kind == "welcome":
        return Welcome(*[getattr(command.welcome, field) for field in Welcome._fields])
    if kind == "assignment":
        return assignment_from_wire(command.assignment)
    if kind == "cancel_run":
        return CancelRun(command.cancel_run.run_id)
    if kind == "superseded":
        return Superseded(command.superseded.by_session_epoch)
    return None


def assignment_from_wire(message: pb.Assignment) -> Assignment:
    """Return the record of an Assignment message."""
    converted: Dict[str, Any] = {
        "sha256": message.artifact.sha256,
        "size_bytes": message.artifact.size_bytes,
        "builder_flags": list(message.builder_flags),
        "reference_sha256": message.reference.sha256,
        "reference_bytes": message.reference.size_bytes,
        "measurement": Measurement(*[getattr(message.measurement, field) for field in Measurement._fields]),
    }
    plain = {field: getattr(message, field) for field in Assignment._fields if field not in converted}
    return Assignment(**plain, **converted)


def snapshot_to_wire(device: DeviceSnapshot) -> pb.DeviceSnapshot:
    """Return the message of a DeviceSnapshot record."""
    converted = {
        "backends": [pb.Backend(**_fields(backend)) for backend in device.backends],
        "gpus": [pb.Gpu(**_fields(gpu)) for gpu in device.gpus],
    }
    return pb.DeviceSnapshot(**dict(_fields(device), **converted))


def encode_result(result: RunResult) -> bytes:
    """Serialize a result for the outbox and the wire."""
    converted = {
        "device": snapshot_to_wire(result.device),
        "stages": [pb.StageTiming(**_fields(stage)) for stage in result.stages],
        "series": [pb.Series(**_fields(series)) for series in result.series],
        "windows": [pb.Window(**_fields(window)) for window in result.windows],
        "findings": [pb.Finding(**_fields(finding)) for finding in result.findings],
        "agreement": result.agreement and pb.Agreement(**_fields(result.agreement)),
        "engine": result.engine and pb.Engine(**_fields(result.engine)),
        "agent_version": __version__,
        "protocol_version": PROTOCOL_VERSION,
    }
    return pb.RunResult(**dict(_fields(result), **converted)).SerializeToString()


def is_result_of(run_id: str, payload: bytes) -> bool:
    """Tell whether bytes are a serialized result of a run."""
    try:
        return bool(pb.RunResult.FromString(payload).run_id == run_id)
    except (DecodeError, UnicodeDecodeError):  # the second from protobuf without its C extension
        return False


def _fields(record: Any) -> Dict[str, Any]:
    """Return a record's fields with texts that protobuf accepts.

    File names may hold bytes that are not UTF-8.
    """
    return {name: _encodable(value) for name, value in record._asdict().items()}


def _encodable(value: Any) -> Any:
    if isinstance(value, str):
        return encodable(value)
    if isinstance(value, list) and value and isinstance(value[0], str):
        return [encodable(text) for text in value]
    if isinstance(value, Mapping):
        return {_encodable(key): _encodable(item) for key, item in value.items()}
    return value
