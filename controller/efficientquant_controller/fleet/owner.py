"""The one task that changes the fleet's state."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

Answer = TypeVar("Answer")


class Owner:
    """A queue of commands, which one task carries out in order.

    A call from an agent or a client may be cancelled at any moment, for example when its connection is cut. What it
    asked for goes on nevertheless, so no change is left half done. The task exists only while there are commands.
    """

    def __init__(self) -> None:
        self._commands: deque[tuple[Callable[[], Awaitable[Any]], asyncio.Future[Any]]] = deque()
        self._task: asyncio.Task[None] | None = None

    async def do(self, command: Callable[[], Awaitable[Answer]]) -> Answer:
        """Carry out a command and return its answer or raise its error."""
        answer: Answer = await asyncio.shield(self.begin(command))
        return answer

    def begin(self, command: Callable[[], Awaitable[Answer]]) -> "asyncio.Future[Answer]":
        """Queue a command and return the future of its answer."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        answer.add_done_callback(retrieve_error)
        self._commands.append((command, answer))
        if self._task is None:
            self._start()
        return answer

    def _start(self) -> None:
        self._task = asyncio.create_task(self._work(), name="owner of the fleet's state")
        self._task.add_done_callback(self._end)

    async def _work(self) -> None:
        while self._commands:
            command, answer = self._commands[0]
            try:
                result = await command()
            except Exception as error:  # noqa: BLE001 (it belongs to the caller, and the next command goes on)
                answer.set_exception(error)
            else:
                answer.set_result(result)
            self._commands.popleft()

    def _end(self, task: asyncio.Task[None]) -> None:
        """Answer the waiting calls when the task has ended."""
        self._task = None
        if task.cancelled():  # the controller stops
            while self._commands:
                self._commands.popleft()[1].cancel()
        elif self._commands:
            self._start()


def retrieve_error(answer: asyncio.Future[Any]) -> None:
    """Retrieve an error without a caller, so that asyncio logs nothing."""
    if not answer.cancelled():
        answer.exception()
