"""Fake agents in a process of their own.

The bench steers them through pipes. A line "go N" on the input lets the agents end N more runs. The line "done" on the
output says that they were acknowledged, with the seconds that each report took.
"""

import asyncio
import json
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent.parent / name) for name in ("chaos/harness", "e2e")]

from fake_agents import Settings
from loads import FakeFleet
from waiting import let_pass


class Permits:
    """The runs that may end."""

    def __init__(self) -> None:
        self._left = asyncio.Semaphore(0)

    async def take(self) -> None:
        """Wait until one more run may end."""
        await self._left.acquire()

    def give(self, count: int) -> None:
        """Let more runs end."""
        for _ in range(count):
            self._left.release()


async def main(address: str, count: int) -> None:
    """Connect the agents, then follow the bench's orders until its pipe ends."""
    permits = Permits()
    settings = Settings(address, run_s=(0.0, 0.0), before_report=permits.take)
    fleet = FakeFleet(settings, count)
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with fleet.serving():
        assert await fleet.connected()
        print("connected", flush=True)
        while line := await reader.readline():
            await _go(fleet, permits, int(line.split()[1]))


async def _go(fleet: FakeFleet, permits: Permits, count: int) -> None:
    record = fleet.record
    wanted, first = record.counts["acknowledged"] + count, len(record.answer_s)
    before = {name: number for name, number in record.counts.items() if "failed" in name or "ended" in name}
    permits.give(count)
    while record.counts["acknowledged"] < wanted:
        assert not fleet.has_bug(), "an agent has ended"
        await let_pass(0.01)
    failed = {
        name: number - before.get(name, 0)
        for name, number in record.counts.items()
        if ("failed" in name or "ended" in name) and number > before.get(name, 0)
    }
    print(f"done {json.dumps({'answer_s': record.answer_s[first:], 'failed': failed})}", flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
