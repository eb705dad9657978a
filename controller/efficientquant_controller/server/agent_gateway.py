"""The gRPC service for agents: sessions, artifacts and results."""

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator

import grpc
from efficientquant_protos import PROTOCOL_VERSION
from efficientquant_protos.v1 import fleet_pb2 as pb
from efficientquant_protos.v1 import fleet_pb2_grpc

import efficientquant_controller
from efficientquant_controller.config import ServerConfig
from efficientquant_controller.errors import StoreError, UserError, VersionSkewError
from efficientquant_controller.fleet.artifacts import ContentStore
from efficientquant_controller.fleet.coordinator import Coordinator
from efficientquant_controller.fleet.liveness import Assign, CancelRun, Command, Progress, Session
from efficientquant_controller.server import convert
from efficientquant_controller.server.errors import shorten

LOG = logging.getLogger(__name__)
CHUNK_BYTES = 1 << 20
LARGE_BYTES = 256 << 10
# A thread reads this much from the disk at once. It is then sent in chunks.
READ_BYTES = 8 * CHUNK_BYTES


class AgentGateway(fleet_pb2_grpc.AgentGatewayServicer):
    """The AgentGateway service, which converts messages for the coordinator."""

    def __init__(self, coordinator: Coordinator, artifacts: ContentStore, config: ServerConfig) -> None:
        self._coordinator = coordinator
        self._artifacts = artifacts
        self._config = config

    async def Connect(
        self, request_iterator: AsyncIterator[pb.AgentEvent], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.ControllerCommand]:
        """Serve one session until either side ends it.

        Raises UserError unless the first event is a complete hello, and VersionSkewError for another protocol version.
        """
        hello = await anext(aiter(request_iterator), pb.AgentEvent())
        received_unix_s = time.time()
        session = await self._open(hello)
        reader = asyncio.create_task(self._listen(request_iterator, session))
        try:
            yield self._welcome(received_unix_s)
            while (command := await session.commands.get()) is not None:
                yield _command_to_wire(command)
            if reader.done():
                reader.result()  # raises for a message that cannot be decoded
        finally:
            reader.cancel()
            self._coordinator.close_session(session)

    async def FetchArtifact(
        self, request: pb.FetchArtifactRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.Chunk]:
        """Send an artifact from a byte offset to its end.

        Raises NotFoundError when it is not stored, StoreError when it cannot be read, and UserError when the offset is
        beyond its end.
        """
        with self._artifacts.reading(request.sha256) as file:
            size_bytes = os.fstat(file.fileno()).st_size
            if request.offset > size_bytes:
                raise UserError(
                    f"artifact {request.sha256} has {size_bytes} bytes, so it cannot be sent from byte "
                    f"{request.offset}; fetch it from the start"
                )
            file.seek(request.offset)
            offset = request.offset
            while block := await asyncio.to_thread(file.read, READ_BYTES):
                for start in range(0, len(block), CHUNK_BYTES):
                    yield pb.Chunk(offset=offset + start, data=block[start : start + CHUNK_BYTES])
                offset += len(block)

    async def ReportRun(self, request: pb.ReportRunRequest, context: grpc.aio.ServicerContext) -> pb.ReportRunResponse:
        """Commit a result, then answer.

        Raises DamagedMessageError when its bytes changed on the way, StoreError when a retry can help, and another
        UserError for a result that is never accepted.
        """
        # A long run's result takes seconds to parse, which must not delay heartbeats.
        is_large = len(request.encoded_result) > LARGE_BYTES
        read = convert.report_from_wire
        try:
            report = await asyncio.to_thread(read, request) if is_large else read(request)
            new = await self._coordinator.record_result(report.result, report.lease_id, report.sha256)
        except StoreError:
            raise
        except UserError as error:
            LOG.warning("a result was refused: %s", shorten(str(error)))
            raise
        return pb.ReportRunResponse(committed=True, duplicate=not new)

    async def Ping(self, request: pb.PingRequest, context: grpc.aio.ServicerContext) -> pb.PingResponse:
        """Return the controller's versions and clock."""
        return pb.PingResponse(
            protocol_version=PROTOCOL_VERSION,
            controller_version=efficientquant_controller.__version__,
            controller_unix_s=time.time(),
        )

    async def _open(self, event: pb.AgentEvent) -> Session:
        if event.WhichOneof("event") != "hello":
            raise UserError("a session starts with a hello; this peer sent something else")
        hello = event.hello
        _check_version(hello)
        if not hello.device_id or not hello.name:
            raise UserError("the hello names no device; give the agent a --name")
        snapshot = convert.snapshot_from_wire(hello.device)
        session = await self._coordinator.open_session(
            hello.device_id,
            hello.name,
            hello.agent_version,
            hello.session_epoch,
            snapshot,
            hello.active_run_ids,
            hello.problem,
        )
        session.broken_backends = tuple(hello.broken_backends)
        return session

    async def _listen(self, events: AsyncIterator[pb.AgentEvent], session: Session) -> None:
        try:
            async for event in events:
                kind = event.WhichOneof("event")
                if kind == "heartbeat":
                    heartbeat = event.heartbeat
                    self._coordinator.heard(session, heartbeat.active_run_ids, heartbeat.problem)
                    session.clock_offset_s = convert.clock_offset_from_wire(heartbeat)
                elif kind == "progress":
                    progress = event.progress
                    self._coordinator.progressed(session, Progress(progress.run_id, progress.phase, progress.fraction))
        finally:
            session.commands.put_nowait(None)

    def _welcome(self, hello_received_unix_s: float) -> pb.ControllerCommand:
        welcome = pb.Welcome(
            protocol_version=PROTOCOL_VERSION,
            controller_version=efficientquant_controller.__version__,
            heartbeat_interval_s=self._config.heartbeat_interval_s,
            lease_s=self._config.lease_s,
            hello_received_unix_s=hello_received_unix_s,
            controller_unix_s=time.time(),
        )
        return pb.ControllerCommand(welcome=welcome)


def _check_version(hello: pb.Hello) -> None:
    theirs = hello.protocol_version
    if theirs == PROTOCOL_VERSION:
        return
    side = "the controller" if theirs > PROTOCOL_VERSION else f"the agent on {hello.name}"
    raise VersionSkewError(
        f"agent {hello.name} ({hello.agent_version}) speaks protocol {theirs}, this controller "
        f"({efficientquant_controller.__version__}) speaks {PROTOCOL_VERSION}; upgrade {side}"
    )


def _command_to_wire(command: Command) -> pb.ControllerCommand:
    if isinstance(command, Assign):
        assignment = convert.assignment_to_wire(
            command.run, command.job, command.artifact, command.backend, command.measurement, command.lease_id
        )
        return pb.ControllerCommand(assignment=assignment)
    if isinstance(command, CancelRun):
        return pb.ControllerCommand(cancel_run=pb.CancelRun(run_id=command.run_id))
    return pb.ControllerCommand(superseded=pb.Superseded(by_session_epoch=command.by_session_epoch))
