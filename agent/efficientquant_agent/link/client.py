"""The wire's client, the only module that imports the protos.

The rest of the agent sees plain records.
"""

import contextlib
import queue
import time
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Union

import grpc
from efficientquant_protos import PROTOCOL_VERSION as PROTOCOL_VERSION  # the doctor reads it here
from efficientquant_protos.v1 import fleet_pb2 as pb
from efficientquant_protos.v1 import fleet_pb2_grpc
from google.protobuf.message import DecodeError

from efficientquant_agent import __version__
from efficientquant_agent.errors import (
    ControllerTooOldError,
    ControllerUnreachableError,
    NameTakenError,
    ProtocolRefusedError,
    ReportRefusedError,
    RunFailedError,
)
from efficientquant_agent.link import reachability
from efficientquant_agent.records import (
    Assignment,
    CancelRun,
    DeviceSnapshot,
    Measurement,
    Pong,
    RunResult,
    Superseded,
    Welcome,
)
from efficientquant_agent.streams import encodable

Command = Union[Welcome, Assignment, CancelRun, Superseded]

# The controller's limit, too: enough for the samples of the longest runs.
_MESSAGE_BYTES = 256 * 1024**2
_REPORT_TIMEOUT_S = 60.0
# For a long run's samples over a poor wireless link.
_SLOWEST_BYTES_PER_S = 250e3
# A retry does not help here. gRPC itself gives the last of these when a message exceeds either side's limit.
_REFUSALS = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)
_OPTIONS = [
    ("grpc.max_send_message_length", _MESSAGE_BYTES),
    ("grpc.max_receive_message_length", _MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 20000),
    ("grpc.keepalive_timeout_ms", 10000),
    ("grpc.http2.max_pings_without_data", 0),
    # The daemon decides when to retry, so the channel must not pause for longer.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.dns_min_time_between_resolutions_ms", 1000),
    # A device talks to its controller directly, not through a proxy for web traffic.
    ("grpc.enable_http_proxy", 0),
]


class Hello(NamedTuple):
    """The device's part of the first message of a session."""

    device_id: str
    name: str
    session_epoch: int
    device: DeviceSnapshot


def open_channel(address: str, credentials: Optional[grpc.ChannelCredentials] = None) -> grpc.Channel:
    """Open the channel to the controller, with TLS if credentials are given."""
    if credentials is None:
        return grpc.insecure_channel(address, _OPTIONS)
    return grpc.secure_channel(address, credentials, _OPTIONS)


class Client:
    """The controller, as seen from a device.

    Its calls raise ControllerUnreachableError, with the reason in words, when no controller answers.
    """

    def __init__(self, host: str, port: int, address: str) -> None:
        self._host = host
        self._port = port
        self._address = address
        self._channel = open_channel(address)
        self._gateway = fleet_pb2_grpc.AgentGatewayStub(self._channel)

    def close(self) -> None:
        """Cancel every call and close the connection."""
        self._channel.close()

    @contextlib.contextmanager
    def reconnecting(self) -> Iterator[None]:
        """Let gRPC connect during a pause between two attempts.

        gRPC 1.70, the last for Python 3.8, reads its sockets only while a thread waits for it. Without this,
        calls that fail at once would find the connection unfinished every time.
        """

        def watch(state: grpc.ChannelConnectivity) -> None:
            del state

        self._channel.subscribe(watch, try_to_connect=True)
        try:
            yield
        finally:
            self._channel.unsubscribe(watch)

    def ping(self, timeout_s: float) -> Pong:
        """Ask the controller for its versions and its time.

        Opens no session and changes nothing. Raises ControllerTooOldError when the controller is too old to answer.
        """
        sent_unix_s, sent_s = time.time(), time.monotonic()
        try:
            response = self._gateway.Ping(pb.PingRequest(), timeout=timeout_s)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED and self._serves_artifacts(timeout_s):
                raise ControllerTooOldError(
                    "the controller at {} is older than this agent: it does not answer the doctor".format(self._address)
                ) from error
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                reason = reachability.explain(self._host, self._port, "no answer within {:g} s".format(timeout_s))
                raise ControllerUnreachableError(reason) from error
            raise self._explain(error) from error
        round_trip_s = time.monotonic() - sent_s
        ahead_s = sent_unix_s + round_trip_s / 2 - response.controller_unix_s
        return Pong(response.protocol_version, response.controller_version, ahead_s, round_trip_s)

    def _serves_artifacts(self, timeout_s: float) -> bool:
        """Tell whether the other side serves artifacts, as every controller does.

        It calls the protocol's oldest method, which no other gRPC server has.
        """
        call = self._gateway.FetchArtifact(pb.FetchArtifactRequest(), timeout=timeout_s)
        try:
            for _ in call:
                break
        except grpc.RpcError as error:
            return error.code() is not grpc.StatusCode.UNIMPLEMENTED
        finally:
            call.cancel()
        return True

    def connect(self, hello: Hello, active_run_ids: Callable[[], List[str]]) -> "Session":
        """Open a session.

        Only the first command shows that the controller has accepted it.
        """
        return Session(self._gateway, hello, active_run_ids, self._explain)

    def fetch(self, sha256: str, offset: int) -> Iterator[bytes]:
        """Yield the bytes of an artifact from `offset` on.

        Raises RunFailedError("artifact_unavailable") when the controller does not have it.
        """
        expected = offset
        call = self._gateway.FetchArtifact(pb.FetchArtifactRequest(sha256=sha256, offset=offset))
        try:
            for chunk in call:
                if chunk.offset != expected:
                    raise ControllerUnreachableError(
                        "the controller sent bytes at {} instead of {}".format(chunk.offset, expected)
                    )
                expected += len(chunk.data)
                yield chunk.data
        except grpc.RpcError as error:
            if error.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT):
                raise RunFailedError("artifact_unavailable", error.details()) from error
            raise self._explain(error) from error
        finally:
            call.cancel()

    def report(self, payload: bytes) -> bool:
        """Deliver a serialized result and wait until it is committed.

        Return True when the controller had it already. Raises ReportRefusedError when the controller will never accept
        it.
        """
        try:
            request = pb.ReportRunRequest(result=pb.RunResult.FromString(payload))
        except DecodeError as error:
            raise ReportRefusedError("the file is damaged on this disk") from error
        try:
            timeout_s = _REPORT_TIMEOUT_S + len(payload) / _SLOWEST_BYTES_PER_S
            response = self._gateway.ReportRun(request, timeout=timeout_s)
        except grpc.RpcError as error:
            if error.code() in _REFUSALS:
                raise ReportRefusedError(error.details()) from error
            raise self._explain(error) from error
        if not response.committed:
            raise ControllerUnreachableError("the controller has not committed the result", answered=True)
        return bool(response.duplicate)

    def _explain(self, error: grpc.RpcError) -> ControllerUnreachableError:
        code, detail = error.code(), error.details() or ""
        if code is grpc.StatusCode.UNAVAILABLE:
            return ControllerUnreachableError(reachability.explain(self._host, self._port, detail))
        if code is grpc.StatusCode.UNIMPLEMENTED:
            return ControllerUnreachableError(
                "{} is a gRPC server but not an EfficientQuant controller".format(self._address)
            )
        answered = code is not grpc.StatusCode.DEADLINE_EXCEEDED
        return ControllerUnreachableError("the controller answered {}: {}".format(code.name, detail), answered)


class Session:
    """An open session, which yields the controller's commands.

    Heartbeats are sent automatically.
    """

    def __init__(
        self,
        gateway: Any,
        hello: Hello,
        active_run_ids: Callable[[], List[str]],
        explain: Callable[[grpc.RpcError], ControllerUnreachableError],
    ) -> None:
        self._hello = hello
        self._active_run_ids = active_run_ids
        self._explain = explain
        self._heartbeat_interval_s: Optional[float] = None
        self._outgoing: "queue.Queue[Any]" = queue.Queue()
        self._call = gateway.Connect(self._events())

    def __iter__(self) -> Iterator[Command]:
        """Yield commands until the session ends.

        Raises NameTakenError or ProtocolRefusedError when the controller refuses for good, else
        ControllerUnreachableError at the end.
        """
        try:
            for command in self._call:
                record = _command_from_wire(command)
                if isinstance(record, Welcome):
                    self._heartbeat_interval_s = record.heartbeat_interval_s
                    self._outgoing.put(_WAKE)
                if record is not None:
                    yield record
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.FAILED_PRECONDITION:
                raise ProtocolRefusedError(error.details()) from error
            if error.code() is grpc.StatusCode.ALREADY_EXISTS:
                raise NameTakenError(error.details()) from error
            raise self._explain(error) from error
        raise ControllerUnreachableError("the controller closed the session")

    def send_progress(self, run_id: str, phase: str, fraction: float) -> None:
        """Tell the controller how far a run is.

        The message may be lost with the session, which does no harm.
        """
        progress = pb.RunProgress(run_id=run_id, phase=phase, fraction=fraction)
        self._outgoing.put(pb.AgentEvent(progress=progress))

    def close(self) -> None:
        """End the session from this side."""
        self._outgoing.put(_END)
        self._call.cancel()

    def _events(self) -> Iterator[pb.AgentEvent]:
        """Yield the hello, then queued events and heartbeats as they fall due.

        Runs in gRPC's thread.
        """
        yield pb.AgentEvent(hello=_hello_to_wire(self._hello, self._active_run_ids()))
        due_s: Optional[float] = None
        while True:
            if due_s is None and self._heartbeat_interval_s:
                due_s = time.monotonic() + self._heartbeat_interval_s
            try:
                event = self._outgoing.get(timeout=None if due_s is None else max(0.0, due_s - time.monotonic()))
            except queue.Empty:
                yield pb.AgentEvent(heartbeat=pb.Heartbeat(active_run_ids=self._active_run_ids()))
                due_s = None
                continue
            if event is _END:
                return
            if event is not _WAKE:
                yield event


_WAKE = object()
_END = object()


def _hello_to_wire(hello: Hello, active_run_ids: List[str]) -> pb.Hello:
    return pb.Hello(
        protocol_version=PROTOCOL_VERSION,
        agent_version=__version__,
        device_id=hello.device_id,
        name=hello.name,
        session_epoch=hello.session_epoch,
        device=snapshot_to_wire(hello.device),
        active_run_ids=active_run_ids,
    )


def _command_from_wire(command: pb.ControllerCommand) -> Optional[Command]:
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
