"""The wire's client, which with messages.py alone imports the protos.

The rest of the agent sees plain records.
"""

import contextlib
import logging
import queue
import time
from typing import Any, Callable, Iterator, List, Optional

import grpc
from efficientquant_protos import PROTOCOL_VERSION as PROTOCOL_VERSION  # the doctor reads it here
from efficientquant_protos.v1 import fleet_pb2 as pb
from efficientquant_protos.v1 import fleet_pb2_grpc

from efficientquant_agent.errors import (
    AnswerTimeoutError,
    ControllerBusyError,
    ControllerTooOldError,
    ControllerUnreachableError,
    NameTakenError,
    ProtocolRefusedError,
    ReportRefusedError,
    RunFailedError,
    StaleEpochError,
)
from efficientquant_agent.link import reachability
from efficientquant_agent.link.clock import ControllerClock
from efficientquant_agent.link.messages import Command, Hello, command_from_wire, hello_to_wire
from efficientquant_agent.link.stored import StoredResult
from efficientquant_agent.records import Pong, Welcome
from efficientquant_agent.streams import encodable

# The controller's limit, too: enough for the samples of the longest runs.
_MESSAGE_BYTES = 256 * 1024**2
_REPORT_TIMEOUT_S = 60.0
# For a long run's samples over a poor wireless link.
_SLOWEST_BYTES_PER_S = 250e3
# A retry does not help after these answers.
_REFUSALS = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)
# gRPC's words, with RESOURCE_EXHAUSTED, for a message beyond either side's limit. Proxies give that status when busy.
_TOO_LARGE = "larger than max"
# The controller's own answers have this in their trailing metadata. A transport's UNAVAILABLE has not.
_ANSWERED = ("efficientquant-answered", "1")
# gRPC's words for a message that it cannot decode: in its log with a traceback, and as the details of the call.
_UNDECODABLE = "Exception deserializing"
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


def _is_worth_logging(record: logging.LogRecord) -> bool:
    """Leave out messages that gRPC cannot decode.

    The call fails as well, and the agent logs that in one line.
    """
    return not str(record.msg).startswith(_UNDECODABLE)


logging.getLogger("grpc._common").addFilter(_is_worth_logging)


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
        self._fetch_call: Any = None
        self.clock = ControllerClock()

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
        if response is None:
            raise ControllerUnreachableError("the controller's answer was damaged on the way", answered=True)
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

    def connect(self, hello: Hello, active_run_ids: Callable[[], List[str]], problem: Callable[[], str]) -> "Session":
        """Open a session.

        Only the first command shows that the controller has accepted it.
        """
        return Session(self._gateway, hello, active_run_ids, problem, self._explain, self.clock)

    def fetch(self, sha256: str, offset: int) -> Iterator[bytes]:
        """Return the bytes of an artifact from `offset` on, in chunks.

        Raises RunFailedError("artifact_unavailable") when the controller does not have it.
        """
        self.interrupt_fetch()  # one that was cancelled before its first chunk
        # The call begins here, not with the first chunk, so that it can be interrupted from now on.
        call = self._gateway.FetchArtifact(pb.FetchArtifactRequest(sha256=sha256, offset=offset))
        self._fetch_call = call
        return self._chunks(call, offset)

    def interrupt_fetch(self) -> None:
        """Cancel the call of the current fetch, from any thread."""
        if self._fetch_call is not None:
            self._fetch_call.cancel()

    def _chunks(self, call: Any, offset: int) -> Iterator[bytes]:
        expected = offset
        try:
            for chunk in call:
                if chunk.offset != expected:
                    raise ControllerUnreachableError(
                        "the controller sent bytes at {} instead of {}".format(chunk.offset, expected), answered=True
                    )
                expected += len(chunk.data)
                yield chunk.data
        except grpc.RpcError as error:
            if error.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT):
                raise RunFailedError("artifact_unavailable", error.details()) from error
            if error.code() is grpc.StatusCode.UNAVAILABLE and not _was_answered(error):
                # Without a diagnosis, which takes seconds, because a cancellation must end the fetch at once.
                raise ControllerUnreachableError("no controller: {}".format(error.details())) from error
            raise self._explain(error) from error
        finally:
            call.cancel()

    def report(self, result: StoredResult) -> bool:
        """Deliver a result and wait until it is committed.

        Its SHA-256 is that from when it was made. Return True when the controller had it already. Raises
        ReportRefusedError when the controller will never accept it.
        """
        request = pb.ReportRunRequest(encoded_result=result.payload, size_bytes=result.size_bytes, sha256=result.sha256)
        timeout_s = _REPORT_TIMEOUT_S + result.size_bytes / _SLOWEST_BYTES_PER_S
        try:
            response = self._gateway.ReportRun(request, timeout=timeout_s)
        except grpc.RpcError as error:
            if _is_too_large(error) or (error.code() in _REFUSALS and _was_answered(error)):
                raise ReportRefusedError(error.details()) from error
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise AnswerTimeoutError(timeout_s) from error
            raise self._explain(error) from error
        if response is None or not response.committed:  # None: the answer was damaged on the way
            raise ControllerUnreachableError("the controller has not committed the result", answered=True)
        return bool(response.duplicate)

    def _explain(self, error: grpc.RpcError) -> ControllerUnreachableError:
        code, detail = error.code(), error.details() or ""
        if code is grpc.StatusCode.UNAVAILABLE:
            if _was_answered(error):
                return ControllerBusyError(detail)
            return ControllerUnreachableError(reachability.explain(self._host, self._port, detail))
        if code is grpc.StatusCode.UNIMPLEMENTED:
            return ControllerUnreachableError(
                "{} is a gRPC server but not an EfficientQuant controller".format(self._address)
            )
        if code is grpc.StatusCode.INTERNAL and detail.startswith(_UNDECODABLE):
            return ControllerUnreachableError("the controller sent a message that cannot be decoded", answered=True)
        return ControllerUnreachableError("the controller answered {}: {}".format(code.name, detail), answered=True)


def _is_too_large(error: grpc.RpcError) -> bool:
    return error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and _TOO_LARGE in (error.details() or "")


def _was_answered(error: grpc.RpcError) -> bool:
    """Tell whether the controller itself ended a call, not the transport."""
    return any(tuple(pair)[:2] == _ANSWERED for pair in error.trailing_metadata() or ())


class Session:
    """An open session, which yields the controller's commands.

    Heartbeats are sent automatically.
    """

    def __init__(
        self,
        gateway: Any,
        hello: Hello,
        active_run_ids: Callable[[], List[str]],
        problem: Callable[[], str],
        explain: Callable[[grpc.RpcError], ControllerUnreachableError],
        clock: ControllerClock,
    ) -> None:
        self._hello = hello
        self._active_run_ids = active_run_ids
        self._problem = problem
        self._explain = explain
        self._clock = clock
        self._hello_sent_s = 0.0
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
                record = command_from_wire(command)
                if isinstance(record, Welcome):
                    self._clock.learn(
                        self._hello_sent_s, record.hello_received_unix_s, record.controller_unix_s, time.monotonic()
                    )
                    self._heartbeat_interval_s = record.heartbeat_interval_s
                    self._outgoing.put(_WAKE)
                if record is not None:
                    yield record
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.FAILED_PRECONDITION:
                raise ProtocolRefusedError(error.details()) from error
            if error.code() is grpc.StatusCode.ALREADY_EXISTS:
                raise NameTakenError(error.details()) from error
            if error.code() is grpc.StatusCode.ABORTED:
                raise StaleEpochError(error.details()) from error
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
        hello = hello_to_wire(self._hello, self._active_run_ids(), self._problem())
        self._hello_sent_s = time.monotonic()
        yield pb.AgentEvent(hello=hello)
        due_s: Optional[float] = None
        while True:
            if due_s is None and self._heartbeat_interval_s:
                due_s = time.monotonic() + self._heartbeat_interval_s
            try:
                event = self._outgoing.get(timeout=None if due_s is None else max(0.0, due_s - time.monotonic()))
            except queue.Empty:
                heartbeat = pb.Heartbeat(
                    active_run_ids=self._active_run_ids(),
                    problem=encodable(self._problem()),
                    clock_offset_s=self._clock.offset_now_s(),
                )
                yield pb.AgentEvent(heartbeat=heartbeat)
                due_s = None
                continue
            if event is _END:
                return
            if event is not _WAKE:
                yield event


_WAKE = object()
_END = object()
