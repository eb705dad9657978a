"""One fault at a chosen point of a scenario."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from enum import StrEnum
from typing import Any

from efficientquant_controller.errors import StoreError


class Kind(StrEnum):
    """What happens at a point.

    The first five happen at a call of the store, the last at an await of an agent's or a client's call.
    """

    REFUSE = "the store refuses"
    LOSE = "the store commits and its answer is lost"
    CUT = "every call that waits is cancelled when the store has answered"
    KILL_BEFORE = "the controller is killed before the store is called"
    KILL_AFTER = "the controller is killed after the store has committed"
    CANCEL = "the call is cancelled"


class KilledError(Exception):
    """The end of a controller."""


class Faults:
    """The fault of `kind` at the `index`-th of its points, from 0.

    `points` counts the points that the scenario came by. `done` tells whether the fault happened.
    """

    def __init__(self, kind: Kind | None = None, index: int = -1) -> None:
        self._kind = kind
        self._index = index
        self.points = dict.fromkeys(Kind, 0)
        self.done = False
        self.killed = asyncio.Event()
        self._calls: set[asyncio.Task[Any]] = set()

    def _is_here(self, kind: Kind) -> bool:
        number = self.points[kind]
        self.points[kind] += 1
        if self._kind is not kind or number != self._index:
            return False
        self.done = True
        return True

    def around(self, db: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        """Return the ledger's `db` with the faults of the store."""

        async def call(method: Callable[..., Any], *arguments: object) -> Any:
            if self._is_here(Kind.KILL_BEFORE):
                await self._die()
            refuses, loses = self._is_here(Kind.REFUSE), self._is_here(Kind.LOSE)

            def store(*values: object) -> Any:
                if refuses:
                    raise StoreError("refused, as the sweep asked")
                answer = method(*values)
                if loses:
                    raise StoreError("lost, as the sweep asked")
                return answer

            answer = await db(store, *arguments)
            if self._is_here(Kind.CUT):
                for task in self._calls:
                    task.cancel()
            if self._is_here(Kind.KILL_AFTER):
                await self._die()
            return answer

        return call

    async def _die(self) -> None:
        self.killed.set()
        await asyncio.Event().wait()

    async def call(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Make an agent's or a client's call.

        Raises CancelledError when it was cut, and KilledError when the controller was killed meanwhile.
        """
        task = asyncio.create_task(self._stepped(work))
        killed = asyncio.create_task(self.killed.wait())
        self._calls.add(task)
        try:
            await asyncio.wait({task, killed}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                task.cancel()
                await asyncio.wait({task})
                raise KilledError
            return task.result()
        finally:
            self._calls.discard(task)
            killed.cancel()
            work.close()  # a task that is cancelled before its first step never begins it

    async def _stepped(self, work: Coroutine[Any, Any, Any]) -> Any:
        return await _Steps(work, lambda: self._is_here(Kind.CANCEL))


class _Steps:
    """A coroutine whose task is cancelled where `is_here` is true."""

    def __init__(self, work: Coroutine[Any, Any, Any], is_here: Callable[[], bool]) -> None:
        self._work = work
        self._is_here = is_here

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self._work.__await__()
        send: Callable[[Any], Any] = steps.send
        value: Any = None
        while True:
            try:
                waited = send(value)
            except StopIteration as end:
                return end.value
            if self._is_here():
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            try:
                value, send = (yield waited), steps.send
            except BaseException as error:  # noqa: BLE001 (it belongs to the coroutine)
                value, send = error, steps.throw
