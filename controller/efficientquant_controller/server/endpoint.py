"""The controller's port, which stays open whatever a peer sends."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import grpc

from efficientquant_controller.addresses import join_address, split_address
from efficientquant_controller.errors import UserError

LOG = logging.getLogger(__name__)
_GRACE_S = 1.0
# Between two attempts to open the port again.
_PAUSE_S = 2.0
# The coroutines of gRPC's server that take calls and answer one call.
_LOOP, _CALL = "_server_main_loop", "_schedule_rpc_coro"


class Endpoint:
    """A gRPC server on one address.

    `make` returns a server with its services. Server credentials will belong here once agents enroll.
    """

    def __init__(self, make: Callable[[], grpc.aio.Server], listen: str) -> None:
        self._make = make
        self._listen = listen
        self._server = make()
        self._loops: set[asyncio.Task[Any]] = set()
        self._is_closing = False

    def bind(self) -> int:
        """Open the port and return its number.

        Raises UserError when the address cannot be used.
        """
        try:
            port = int(self._server.add_insecure_port(self._listen))
        except RuntimeError as error:
            raise UserError(
                f"cannot listen on {self._listen}: another program uses that port, or the address is not this "
                "machine's; pass another --listen HOST:PORT (port 0 takes any free one)"
            ) from error
        host, _ = split_address(self._listen, listening=True)
        self._listen = join_address(host, port)
        return port

    async def start(self) -> None:
        """Answer calls from now on."""
        before = asyncio.all_tasks()
        await self._server.start()
        self._loops = _tasks_of(_LOOP) - before

    async def watch(self) -> None:
        """Open the port again whenever gRPC gives it up.

        gRPC's own loop ends at a method whose name is not UTF-8, which one changed byte on the wire can make. Agents
        and clients connect again, as after a cut connection. Runs until `close` or a cancellation.
        """
        asyncio.get_running_loop().set_exception_handler(_log_unless_known)
        while True:
            # Older releases of gRPC name their loop otherwise. Their end is noticed with the last connection.
            await asyncio.wait(self._loops or {asyncio.ensure_future(self._server.wait_for_termination())})
            if self._is_closing:
                return
            LOG.warning("a request was refused: the name of its method is not UTF-8; the port is opened again")
            await self._server.stop(0)
            await self._open_again()

    async def _open_again(self) -> None:
        """Open the port, however long another program holds it."""
        while True:
            self._server = self._make()
            try:
                self.bind()
                break
            except UserError as error:
                LOG.warning("%s; trying again in %.0f s", error, _PAUSE_S)
                await asyncio.sleep(_PAUSE_S)
        await self.start()

    async def close(self) -> None:
        """Give calls a moment to end, then cancel them."""
        self._is_closing = True
        await self._server.stop(grace=_GRACE_S)
        # Cancelled calls end a few turns of the loop later. gRPC logs a traceback for each that the loop's end cancels.
        if calls := _tasks_of(_CALL):
            await asyncio.wait(calls, timeout=_GRACE_S)


def _tasks_of(coroutine: str) -> set[asyncio.Task[Any]]:
    return {task for task in asyncio.all_tasks() if getattr(task.get_coro(), "__name__", "") == coroutine}


def _log_unless_known(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log an error that nobody awaits, unless `watch` handles it.

    gRPC raises such an error again in a task of its own.
    """
    if not isinstance(context.get("exception"), UnicodeDecodeError):
        loop.default_exception_handler(context)
