"""Agents without a runtime, many of them in one process."""

import asyncio
import hashlib
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import grpc
from efficientquant_protos import PROTOCOL_VERSION
from efficientquant_protos.v1 import fleet_pb2 as pb
from efficientquant_protos.v1 import fleet_pb2_grpc
from record import Record
from reports import StoredReport, failed_result, good_result, stored
from seeding import BACKEND, device_id, device_name
from waiting import let_pass

FINAL = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.RESOURCE_EXHAUSTED)
_ANSWERED = ("efficientquant-answered", "1")
_FIRST_BACKOFF_S, _LAST_BACKOFF_S = 0.05, 0.5
_FETCH_TRIES = 3
_OPTIONS = [
    ("grpc.max_send_message_length", 256 << 20),
    ("grpc.max_receive_message_length", 256 << 20),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
]


@dataclass
class Settings:
    """The settings that all fake agents of a fleet share.

    They may change while the agents run. A run lasts between the two numbers of `run_s`. `before_report` is awaited at
    the end of each run. `mischief` performs a fault of messages when its report is due.
    """

    address: str
    run_s: tuple[float, float] = (0.02, 0.15)
    report_timeout_s: float = 60.0
    fetches: bool = False
    seed: int = 0
    before_report: Callable[[], Awaitable[None]] | None = None
    mischief: "Callable[[FakeAgent, StoredReport, str], Awaitable[None]] | None" = None


def was_answered(error: grpc.aio.AioRpcError) -> bool:
    """Tell whether the controller itself ended a call, not the transport."""
    return _ANSWERED in [tuple(pair)[:2] for pair in error.trailing_metadata() or ()]


class FakeAgent:
    """An agent that does one run at a time.

    It keeps its results until they are taken. Its outbox survives lost connections and its own restarts, as the disk of
    a real agent does.
    """

    def __init__(self, number: int, settings: Settings, record: Record) -> None:
        self.device_id, self.name = device_id(number), device_name(number)
        self.settings, self.record = settings, record
        self.draw = random.Random(f"{settings.seed}:{number}")
        self.snapshot = pb.DeviceSnapshot(
            board_id=f"board-{number}",
            board="fake",
            cpu_count=2,
            backends=[pb.Backend(**vars(BACKEND))],
            library_versions={"onnxruntime": "1.32.0"},
        )
        self.outbox: dict[str, StoredReport] = {}
        self.delivered: deque[StoredReport] = deque(maxlen=5)
        self.assignments: dict[str, pb.Assignment] = {}  # waiting and running, by run id
        self.seen: set[str] = set()
        self.faults: deque[str] = deque()
        self.problem = ""
        self.offline_until_s = 0.0
        self.silent_until_s = 0.0
        self.sessions = 0
        self.latest = ""  # how the last call failed
        self._epoch = int(time.time() * 1000)
        self._failures: dict[str, int] = {}
        self._cancelled: set[str] = set()
        self._interrupted = asyncio.Event()
        self._work = asyncio.Event()
        self._turn = asyncio.Lock()
        self._session: grpc.aio.StreamStreamCall | None = None
        self._events: asyncio.Queue[pb.AgentEvent] = asyncio.Queue()

    async def serve(self) -> None:
        """Serve until cancelled."""
        async with grpc.aio.insecure_channel(self.settings.address, options=_OPTIONS) as self.channel:
            self.gateway = fleet_pb2_grpc.AgentGatewayStub(self.channel)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._serve_sessions())
                tasks.create_task(self._serve_runs())

    # what faults do to an agent

    def end_session(self) -> None:
        """Break the session off, as a lost connection does."""
        if self._session is not None:
            self._session.cancel()

    def restart(self) -> None:
        """Forget everything but the outbox, as a killed agent does."""
        self.assignments.clear()
        self._interrupted.set()
        self.end_session()

    def forget(self, report: StoredReport) -> None:
        """Drop a result from the outbox without its delivery."""
        self.outbox.pop(report.run_id, None)

    # sessions

    async def _serve_sessions(self) -> None:
        backoff_s = _FIRST_BACKOFF_S
        while True:
            before = self.sessions
            try:
                await let_pass(self.offline_until_s - time.monotonic())
                if await self._deliver():
                    await self._serve_session()
            except grpc.aio.AioRpcError as error:
                self._count_end(error)
            except asyncio.InvalidStateError:  # the call ended before the hello was written
                self.record.counts["session ended early"] += 1
            backoff_s = _FIRST_BACKOFF_S if self.sessions > before else min(2 * backoff_s, _LAST_BACKOFF_S)
            await let_pass(backoff_s * self.draw.uniform(0.5, 1.5))

    async def _serve_session(self) -> None:
        self._epoch += 1
        self._events = asyncio.Queue()
        self._session = call = self.gateway.Connect()
        writer: asyncio.Task[None] | None = None
        try:
            await call.write(self._hello())
            async for command in call:
                if command is None:  # gRPC's answer for a message that it cannot decode
                    self.record.counts["commands that cannot be decoded"] += 1
                    break
                if command.WhichOneof("command") == "welcome":
                    self.sessions += 1
                    self.record.counts["sessions"] += 1
                    writer = writer or asyncio.create_task(self._write(call, command.welcome.heartbeat_interval_s))
                self._obey(command)
        except asyncio.CancelledError:
            if _is_cancelled():
                raise
            self.record.counts["session broken off"] += 1
        finally:
            self._session = None
            if writer is not None:
                writer.cancel()
            call.cancel()

    def _count_end(self, error: grpc.aio.AioRpcError) -> None:
        kind = "answered" if was_answered(error) else "transport"
        self.record.counts[f"session ended: {error.code().name} ({kind})"] += 1
        self.latest = f"session ended: {error.code().name}: {error.details()}"

    def _hello(self) -> pb.AgentEvent:
        hello = pb.Hello(
            protocol_version=PROTOCOL_VERSION,
            agent_version="0.1.0",
            device_id=self.device_id,
            name=self.name,
            session_epoch=self._epoch,
            device=self.snapshot,
            active_run_ids=self._active(),
            problem=self.problem,
        )
        return pb.AgentEvent(hello=hello)

    def _active(self) -> list[str]:
        return list({**self.assignments, **self.outbox})

    async def _write(self, call: grpc.aio.StreamStreamCall, interval_s: float) -> None:
        """Send events as they come, and heartbeats in between."""
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            while True:
                try:
                    event = await asyncio.wait_for(self._events.get(), interval_s)
                except TimeoutError:
                    event = pb.AgentEvent(heartbeat=pb.Heartbeat(active_run_ids=self._active(), problem=self.problem))
                if time.monotonic() >= self.silent_until_s:
                    await call.write(event)

    def _obey(self, command: pb.ControllerCommand) -> None:
        match command.WhichOneof("command"):
            case "assignment":
                self._accept(command.assignment)
            case "cancel_run":
                self.record.counts["runs cancelled"] += 1
                if command.cancel_run.run_id in self.assignments:
                    self._cancelled.add(command.cancel_run.run_id)
                    self._interrupted.set()
            case "superseded":
                self.record.counts["superseded"] += 1

    def _accept(self, assignment: pb.Assignment) -> None:
        self.record.counts["assignments"] += 1
        self.seen.add(assignment.run_id)
        if assignment.run_id not in self.assignments and assignment.run_id not in self.outbox:
            self.assignments[assignment.run_id] = assignment
            self._work.set()

    # runs

    async def _serve_runs(self) -> None:
        backoff_s = _FIRST_BACKOFF_S
        while True:
            if self.assignments:
                await self._run(next(iter(self.assignments.values())))
                backoff_s = _FIRST_BACKOFF_S
            if await self._deliver() and not self.assignments:
                self._work.clear()
                await self._work.wait()
            elif self.outbox:
                await let_pass(backoff_s * self.draw.uniform(0.5, 1.5))
                backoff_s = min(2 * backoff_s, _LAST_BACKOFF_S)

    async def _run(self, assignment: pb.Assignment) -> None:
        self._interrupted.clear()
        run_id = assignment.run_id
        progress = pb.RunProgress(run_id=run_id, phase="measure", fraction=0.5)
        self._events.put_nowait(pb.AgentEvent(progress=progress))
        failure = ""
        if self.settings.fetches:
            failure = await self._fetch(assignment.artifact)
        await let_pass(self.draw.uniform(*self.settings.run_s), self._interrupted)
        if self.settings.before_report is not None:
            await self.settings.before_report()
        if run_id not in self.assignments:
            return  # the agent restarted meanwhile
        failure = "cancelled" if run_id in self._cancelled else failure
        make = partial(failed_result, failure_type=failure) if failure else good_result
        self.outbox[run_id] = stored(make(assignment, self.device_id, self.snapshot))
        self.assignments.pop(run_id)
        self._cancelled.discard(run_id)

    async def _fetch(self, artifact: pb.ArtifactRef) -> str:
        """Fetch an artifact, and return the failure or ""."""
        for _ in range(_FETCH_TRIES):
            digest = hashlib.sha256()
            try:
                async for chunk in self.gateway.FetchArtifact(pb.FetchArtifactRequest(sha256=artifact.sha256)):
                    digest.update(chunk.data if chunk is not None else b"")
            except grpc.aio.AioRpcError as error:
                if error.code() in FINAL:
                    return "artifact_unavailable"
                await let_pass(self.draw.uniform(0.1, 0.5), self._interrupted)
                continue
            if digest.hexdigest() == artifact.sha256:
                return ""
        return "artifact_corrupt"

    # delivery

    async def _deliver(self) -> bool:
        """Report every result once, and tell whether none is left."""
        async with self._turn:
            pending: Collection[StoredReport] = list(self.outbox.values())
            for report in sorted(pending, key=lambda report: self._failures.get(report.run_id, 0)):
                try:
                    await self._deliver_one(report)
                except grpc.aio.AioRpcError as error:
                    self._failures[report.run_id] = self._failures.get(report.run_id, 0) + 1
                    answered = was_answered(error)
                    kind = "answered" if answered else "transport"
                    self.record.counts[f"report failed: {error.code().name} ({kind})"] += 1
                    self.latest = f"report failed: {error.code().name}: {error.details()}"
                    if not answered:
                        break
        return not self.outbox

    async def _deliver_one(self, report: StoredReport) -> None:
        if self.faults and self.settings.mischief is not None:
            await self.settings.mischief(self, report, self.faults.popleft())
        if self.outbox.get(report.run_id) is report:
            await self.report(report)

    async def report(self, report: StoredReport) -> None:
        """Deliver a result, or set it aside when it is refused.

        Raises AioRpcError for anything that a later try may change.
        """
        self.record.sent(report)
        is_first = report.run_id not in self._failures
        started_s = time.monotonic()
        try:
            answer = await self.gateway.ReportRun(report.request, timeout=self.settings.report_timeout_s)
        except grpc.aio.AioRpcError as error:
            if error.code() not in FINAL:
                raise
            self.record.counts[f"refused: {error.code().name}"] += 1
            self.record.refusals.append(f"{report.run_id} ({report.failure_type or 'good'}): {error.details()}")
            self.forget(report)
            return
        if is_first:
            self.record.answer_s.append(time.monotonic() - started_s)
        self.take_answer(report, answer)

    def take_answer(self, report: StoredReport, answer: pb.ReportRunResponse | None) -> None:
        """Drop a result that the controller has committed.

        gRPC gives None for an answer that was lost on the way or cannot be decoded. A flipped bit also takes the commit
        out of an answer, so the result is sent again, as real agents do it. Without any commit its campaign never ends.
        """
        if answer is None or not answer.committed:
            name = "answers without a message" if answer is None else "answers without a commit"
            self.record.counts[name] += 1
            self._failures[report.run_id] = self._failures.get(report.run_id, 0) + 1
            return
        self.record.acknowledged(report, answer.duplicate)
        if self.outbox.get(report.run_id) is report:
            self.forget(report)
            self.delivered.append(report)


def _is_cancelled() -> bool:
    """Tell whether this task was cancelled, not only its call."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
