"""A TCP proxy on loopback, and faults of its connections."""

import asyncio
import contextlib
import random
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable, Sequence

from waiting import let_pass

_BLOCK_BYTES = 1 << 16


class FrameBodies:
    """A reader of HTTP/2 that finds the bodies of frames.

    Only DATA and HEADERS frames count. Source: RFC 9113, sections 4.1 and 6.
    """

    _HEADER_BYTES = 9
    _KINDS = (0, 1)

    def __init__(self) -> None:
        self._header = bytearray()
        self._left = 0

    def positions(self, data: bytes) -> list[int]:
        """Return the positions of the bytes that lie in such a body."""
        inside: list[int] = []
        at = 0
        while at < len(data):
            missing = self._HEADER_BYTES - len(self._header)
            if missing:
                self._header += data[at : at + missing]
                at += missing
                self._left = int.from_bytes(self._header[:3], "big")
            taken = min(self._left, max(0, len(data) - at))
            if self._header[3:4] and self._header[3] in self._KINDS:
                inside += range(at, at + taken)
            at, self._left = at + taken, self._left - taken
            if len(self._header) == self._HEADER_BYTES and not self._left:
                self._header.clear()
        return inside


class Direction:
    """The bytes of a connection in one direction.

    With `bodies`, `corrupt` gets the positions of frames' bodies only: gRPC's client ends its process at a GOAWAY frame
    with a code that it does not know.
    """

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, bodies: FrameBodies | None = None
    ) -> None:
        self._reader, self._writer, self._bodies = reader, writer, bodies
        self.delay_s = 0.0
        self.frozen_until_s = 0.0
        # Changes one of the next bytes, once, at one of the positions that it is given.
        self.corrupt: Callable[[bytes, Sequence[int]], bytes] | None = None

    async def forward(self) -> None:
        """Copy bytes until one side ends."""
        with contextlib.suppress(OSError):
            while data := await self._reader.read(_BLOCK_BYTES):
                while (left_s := self.frozen_until_s - time.monotonic()) > 0:
                    await let_pass(left_s)
                if self.delay_s:
                    await let_pass(self.delay_s)
                positions = range(len(data)) if self._bodies is None else self._bodies.positions(data)
                if self.corrupt is not None and positions:
                    data, self.corrupt = self.corrupt(data, positions), None
                self._writer.write(data)
                await self._writer.drain()
        self._writer.close()


class Link:
    """A connection through the proxy."""

    def __init__(
        self, client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:  # fmt: skip
        self.up = Direction(client[0], server[1])
        self.down = Direction(server[0], client[1], FrameBodies())
        self._writers = (client[1], server[1])

    async def forward(self) -> None:
        """Copy bytes both ways until the connection ends."""
        await asyncio.gather(self.up.forward(), self.down.forward())

    def cut(self, reset: bool) -> None:
        """End both sides: by RST when `reset`, else by FIN."""
        for writer in self._writers:
            raw = writer.get_extra_info("socket")
            if reset and raw is not None and raw.fileno() >= 0:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
            else:
                writer.close()


class Proxy:
    """A proxy between the agents and one controller."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.links: list[Link] = []

    async def listen(self) -> None:
        """Accept connections, on the same port every time."""
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port)
            self._port = self._server.sockets[0].getsockname()[1]

    def refuse(self) -> None:
        """Refuse new connections until `listen`."""
        if self._server is not None:
            self._server.close()
            self._server = None

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """Forward connections within the context, and give the address for agents."""
        await self.listen()
        try:
            yield f"127.0.0.1:{self._port}"
        finally:
            self.refuse()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        link = Link((reader, writer), server)
        self.links.append(link)
        try:
            await link.forward()
        finally:
            link.cut(reset=True)
            self.links.remove(link)


class WireFaults:
    """The faults of connections, drawn from one seed.

    `lease_s` is the length of a lease, which a frozen direction may outlast.
    """

    KINDS = ("cut by RST", "cut by FIN", "delay", "freeze up", "freeze down", "corrupt up", "corrupt down", "refuse")

    def __init__(self, proxy: Proxy, draw: random.Random, lease_s: float) -> None:
        self._proxy, self._draw, self._lease_s = proxy, draw, lease_s
        self._listening: set[asyncio.Task[None]] = set()

    def perform(self, kind: str) -> bool:
        """Do one fault, or return False when there is no connection."""
        if kind == "refuse":
            self._refuse()
            return True
        if not self._proxy.links:
            return False
        link = self._draw.choice(self._proxy.links)
        way, _, side = kind.partition(" ")
        direction = link.up if side == "up" else link.down
        if way == "cut":
            link.cut(reset=side == "by RST")
        elif way == "delay":
            link.up.delay_s = link.down.delay_s = self._draw.uniform(0.001, 0.05)
        elif way == "freeze":
            direction.frozen_until_s = time.monotonic() + self._lease_s * self._draw.uniform(0.1, 1.2)
        else:
            direction.corrupt = lambda data, positions: flip_a_bit(data, positions, self._draw)
        return True

    def _refuse(self) -> None:
        self._proxy.refuse()
        task = asyncio.create_task(self._listen_again(self._draw.uniform(0.05, 0.5)))
        self._listening.add(task)
        task.add_done_callback(self._listening.discard)

    async def _listen_again(self, after_s: float) -> None:
        await let_pass(after_s)
        await self._proxy.listen()

    async def end(self) -> None:
        """Heal the wire: accept, and cut what is slow, frozen or corrupted."""
        await asyncio.gather(*self._listening)
        await self._proxy.listen()
        for link in list(self._proxy.links):
            for direction in (link.up, link.down):
                direction.delay_s = direction.frozen_until_s = 0.0
                direction.corrupt = None
            link.cut(reset=True)


def flip_a_bit(data: bytes, positions: Sequence[int], draw: random.Random) -> bytes:
    """Return bytes that differ in one bit, at one of the positions."""
    changed = bytearray(data)
    changed[draw.choice(positions)] ^= 1 << draw.randrange(8)
    return bytes(changed)
