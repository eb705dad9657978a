"""Waiting for time and for conditions, on an event loop."""

import asyncio
import contextlib
import time
from collections.abc import Callable

_LOOK_S = 0.05


async def let_pass(seconds: float, unless: asyncio.Event | None = None) -> None:
    """Let time pass, or return earlier when `unless` is set."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(max(0.0, seconds)):
            await (unless or asyncio.Event()).wait()


async def until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Wait for a condition, and tell whether it held in time."""
    end_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end_s:
            return False
        await let_pass(_LOOK_S)
    return True
