"""Tests of the agents' service over a real connection."""

import asyncio
import gc
import logging
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from efficientquant_controller.config import ServerConfig
from efficientquant_controller.errors import StoreError, UserError
from efficientquant_controller.fleet.artifacts import ContentStore
from efficientquant_controller.server import endpoint
from efficientquant_controller.server.agent_gateway import AgentGateway
from efficientquant_controller.server.endpoint import Endpoint
from efficientquant_controller.server.errors import ErrorInterceptor
from efficientquant_protos import PROTOCOL_VERSION
from efficientquant_protos.v1 import fleet_pb2 as pb
from efficientquant_protos.v1 import fleet_pb2_grpc

GATEWAY = "/efficientquant.v1.AgentGateway/"
GARBAGE = b"\xff\xff\xff"


class FullStore:
    """A coordinator whose database is full."""

    async def record_result(self, *_: Any) -> bool:
        """Refuse every result."""
        raise StoreError("the database refused: database or disk is full")


@pytest.fixture
def serve(tmp_path: Path) -> Callable[[Callable[[grpc.aio.Channel], Awaitable[None]]], None]:
    """Return a function that connects a story to a served gateway."""

    def run(story: Callable[[grpc.aio.Channel], Awaitable[None]]) -> None:
        async def tell() -> None:
            server = grpc.aio.server(interceptors=[ErrorInterceptor()])
            gateway = AgentGateway(FullStore(), ContentStore(tmp_path), ServerConfig("results.db"))
            fleet_pb2_grpc.add_AgentGatewayServicer_to_server(gateway, server)
            port = server.add_insecure_port("127.0.0.1:0")
            await server.start()
            try:
                async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                    await story(channel)
            finally:
                await server.stop(0)

        asyncio.run(asyncio.wait_for(tell(), 60))

    return run


async def failure_of(call: Awaitable[Any]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await call
    return failure.value


def test_a_message_that_cannot_be_decoded_is_refused_in_one_line(
    serve: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    """An undecodable request or event is refused as damaged, with one line in the log and no traceback."""
    caplog.set_level(logging.INFO)

    async def story(channel: grpc.aio.Channel) -> None:
        unary = await failure_of(channel.unary_unary(f"{GATEWAY}ReportRun")(GARBAGE))
        streamed = await failure_of(channel.stream_stream(f"{GATEWAY}Connect")(iter([GARBAGE])).read())
        assert {unary.code(), streamed.code()} == {grpc.StatusCode.DATA_LOSS}
        assert "cannot be decoded" in str(unary.details())

    serve(story)
    assert len(caplog.records) == 2
    assert "Traceback" not in caplog.text


def test_an_agent_can_tell_that_the_controller_answered(serve: Callable) -> None:
    """A refusal for trouble with the database is UNAVAILABLE, and marked as an answer."""

    async def story(channel: grpc.aio.Channel) -> None:
        gateway = fleet_pb2_grpc.AgentGatewayStub(channel)
        failure = await failure_of(gateway.ReportRun(pb.ReportRunRequest(result=pb.RunResult(run_id="r"))))
        assert failure.code() is grpc.StatusCode.UNAVAILABLE
        assert ("efficientquant-answered", "1") in list(failure.trailing_metadata())

    serve(story)


def test_an_artifact_that_cannot_be_read_is_fetched_later(
    serve: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An artifact that cannot be read is UNAVAILABLE, without a traceback."""
    sha256 = "ab" * 32
    (tmp_path / "ab").mkdir()
    (tmp_path / "ab" / sha256).symlink_to("/proc/self/mem")  # its first byte cannot be read

    async def story(channel: grpc.aio.Channel) -> None:
        fetch = fleet_pb2_grpc.AgentGatewayStub(channel).FetchArtifact(pb.FetchArtifactRequest(sha256=sha256))
        failure = await failure_of(fetch.read())
        assert failure.code() is grpc.StatusCode.UNAVAILABLE
        assert "cannot be read: Input/output error" in str(failure.details())

    serve(story)
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("size", [100, 400_000])
def test_a_report_that_changed_on_the_way_is_asked_for_again(serve: Callable, size: int) -> None:
    """A report whose bytes are not those of its hash is refused as damaged, however large it is."""

    async def story(channel: grpc.aio.Channel) -> None:
        request = pb.ReportRunRequest(encoded_result=b"x" * size, size_bytes=size, sha256="ab" * 32)
        failure = await failure_of(fleet_pb2_grpc.AgentGatewayStub(channel).ReportRun(request))
        assert failure.code() is grpc.StatusCode.DATA_LOSS

    serve(story)


async def answer_of(address: str) -> pb.PingResponse:
    """Ping until the port answers."""
    while True:
        async with grpc.aio.insecure_channel(address) as channel:
            with suppress(grpc.aio.AioRpcError):
                return await fleet_pb2_grpc.AgentGatewayStub(channel).Ping(pb.PingRequest(), timeout=5)


def test_a_method_that_is_not_utf_8_does_not_close_the_port(caplog: pytest.LogCaptureFixture) -> None:
    """After a call of a method whose name is not UTF-8, the same port answers again."""

    def make() -> grpc.aio.Server:
        server = grpc.aio.server(interceptors=[ErrorInterceptor()])
        fleet_pb2_grpc.add_AgentGatewayServicer_to_server(AgentGateway(FullStore(), None, None), server)
        return server

    async def story() -> None:
        endpoint = Endpoint(make, "127.0.0.1:0")
        address = f"127.0.0.1:{endpoint.bind()}"
        await endpoint.start()
        watching = asyncio.create_task(endpoint.watch())
        for _ in range(2):
            async with grpc.aio.insecure_channel(address) as channel:
                await failure_of(channel.unary_unary(b"/a\xae/b")(b"x"))
            assert (await answer_of(address)).protocol_version == PROTOCOL_VERSION
        watching.cancel()
        await endpoint.close()

    asyncio.run(asyncio.wait_for(story(), 60))
    gc.collect()
    assert caplog.text.count("the port is opened again") == 2
    assert "Traceback" not in caplog.text


class Watched(Endpoint):
    """An endpoint that tells when its address was refused."""

    def bind(self) -> int:
        """Open the port, or set `refused`."""
        try:
            return super().bind()
        except UserError:
            self.refused.set()
            raise

    refused = asyncio.Event()


def test_a_port_that_another_program_takes_is_opened_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port that another program holds is opened when that ends."""
    monkeypatch.setattr(endpoint, "_PAUSE_S", 0.01)

    async def story() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            served = Watched(lambda: grpc.aio.server(options=[("grpc.so_reuseport", 0)]), address)
            again = asyncio.create_task(served._open_again())
            await served.refused.wait()
            assert not again.done()
        await again
        await served.close()

    asyncio.run(asyncio.wait_for(story(), 60))
