"""Tests of the clocks that a session compares, and of what its hello says."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from efficientquant_controller.config import ServerConfig
from efficientquant_controller.fleet.artifacts import ContentStore
from efficientquant_controller.fleet.liveness import Session
from efficientquant_controller.model import Device, DeviceSnapshot
from efficientquant_controller.server import convert
from efficientquant_controller.server.agent_gateway import AgentGateway
from efficientquant_protos import PROTOCOL_VERSION
from efficientquant_protos.v1 import fleet_pb2 as pb
from efficientquant_protos.v1 import fleet_pb2_grpc

BROKEN = "backend 'trt' crashes: SIGABRT ended its probe (no message)"
HELLO = pb.Hello(protocol_version=PROTOCOL_VERSION, device_id="d1", name="nano-1", broken_backends=[BROKEN])


class OneSession:
    """A coordinator that opens its one session and notes when."""

    def __init__(self) -> None:
        self.session = Session(Device("d1", "nano-1", "0.1.0", 1, 0.0, DeviceSnapshot()), frozenset())
        self.opened_unix_s = 0.0
        self.has_heard = asyncio.Event()

    async def open_session(self, *_: Any) -> Session:
        """Return the session."""
        self.opened_unix_s = time.time()
        return self.session

    def heard(self, *_: Any) -> None:
        """Note a heartbeat."""
        self.has_heard.set()

    def close_session(self, session: Session) -> None:
        """Forget the session."""


async def exchange(tmp_path: Path, heartbeat: pb.Heartbeat) -> tuple[pb.Welcome, OneSession]:
    """Open a session with one heartbeat, and return the welcome and the coordinator."""
    coordinator, server = OneSession(), grpc.aio.server()
    gateway = AgentGateway(coordinator, ContentStore(tmp_path), ServerConfig("results.db"))
    fleet_pb2_grpc.add_AgentGatewayServicer_to_server(gateway, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()

    async def events() -> AsyncIterator[pb.AgentEvent]:
        yield pb.AgentEvent(hello=HELLO)
        yield pb.AgentEvent(heartbeat=heartbeat)
        await asyncio.Event().wait()

    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = fleet_pb2_grpc.AgentGatewayStub(channel).Connect(events())
        welcome = (await call.read()).welcome
        await coordinator.has_heard.wait()
        call.cancel()
    await server.stop(0)
    return welcome, coordinator


def test_a_welcome_has_the_controllers_times(tmp_path: Path) -> None:
    """A welcome says when the hello arrived and when the answer left."""
    before_s = time.time()

    welcome, coordinator = asyncio.run(asyncio.wait_for(exchange(tmp_path, pb.Heartbeat()), 60))

    opened_s = coordinator.opened_unix_s
    assert before_s <= welcome.hello_received_unix_s <= opened_s <= welcome.controller_unix_s <= time.time()


@pytest.mark.parametrize(
    ("heartbeat", "offset_s"),
    [
        (pb.Heartbeat(), None),
        (pb.Heartbeat(clock_offset_s=0.0), 0.0),
        (pb.Heartbeat(clock_offset_s=-3600.5), -3600.5),
        (pb.Heartbeat(clock_offset_s=float("nan")), None),
    ],
)
def test_a_heartbeat_tells_the_offset(tmp_path: Path, heartbeat: pb.Heartbeat, offset_s: float | None) -> None:
    """A session keeps the finite offset of its last heartbeat."""
    _, coordinator = asyncio.run(asyncio.wait_for(exchange(tmp_path, heartbeat), 60))

    session = coordinator.session
    assert session.clock_offset_s == offset_s
    device = convert.device_to_wire(session.device, "idle", session)
    assert device.HasField("clock_offset_s") == (offset_s is not None)
    assert list(device.broken_backends) == [BROKEN]
