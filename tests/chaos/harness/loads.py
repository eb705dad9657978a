"""A fleet of fake agents on one event loop."""

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence

from fake_agents import FakeAgent, Settings
from message_faults import MessageFaults
from proxy import WireFaults
from record import Record
from waiting import until

CONNECT_S = 30.0
# Longer than any pause that a fault makes.
STALLED_S = 30.0


class FakeFleet:
    """Fake agents that serve until the end of the context."""

    def __init__(self, settings: Settings, count: int, first: int = 0) -> None:
        self.settings = settings
        self.record = Record()
        self.agents = [FakeAgent(number, settings, self.record) for number in range(first, first + count)]
        self._tasks: list[asyncio.Task[None]] = []

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Serve within the context."""
        self.record.latest_s = time.monotonic()
        self._tasks = [asyncio.create_task(agent.serve()) for agent in self.agents]
        try:
            yield
        finally:
            for task in self._tasks:
                task.cancel()
            ends = await asyncio.gather(*self._tasks, return_exceptions=True)
            bugs = [end for end in ends if isinstance(end, Exception)]
            if bugs:
                raise ExceptionGroup("fake agents ended by their own bugs", bugs)

    async def connected(self) -> bool:
        """Wait until every agent has had a session."""
        return await until(lambda: all(agent.sessions for agent in self.agents) or self.has_bug(), CONNECT_S)

    def has_bug(self) -> bool:
        """Tell whether an agent has ended, which only a bug does."""
        return any(task.done() for task in self._tasks)

    def has_stopped(self) -> bool:
        """Tell whether waiting for more results is useless."""
        return self.has_bug() or time.monotonic() - self.record.latest_s > STALLED_S

    def is_quiet(self) -> bool:
        """Tell whether no agent has a run or a result left."""
        return not any(agent.outbox or agent.assignments for agent in self.agents)

    def unfinished(self) -> list[str]:
        """Return a sentence on each agent that is not quiet."""
        return [
            f"{agent.name} still has {len(agent.outbox)} results and {len(agent.assignments)} runs: {agent.latest}"
            for agent in self.agents
            if agent.outbox or agent.assignments
        ]


class Mischief:
    """The seeded order of faults, on the wire and in messages."""

    def __init__(self, fleet: FakeFleet, messages: MessageFaults, wire: WireFaults | None, draw: random.Random) -> None:
        self._fleet, self._messages, self._wire, self._draw = fleet, messages, wire, draw
        fleet.settings.mischief = messages.perform
        self._of_wire: Counter[str] = Counter()

    def kinds(self) -> list[str]:
        """Return every kind of fault."""
        return [*self._messages.kinds, *(WireFaults.KINDS if self._wire is not None else ())]

    def drawn(self, count: int, only: Sequence[str] = ()) -> list[str]:
        """Return kinds of faults in a seeded order, all about equally often."""
        kinds = [kind for kind in self.kinds() if kind in only or not only]
        self._draw.shuffle(kinds)
        drawn = [kinds[number % len(kinds)] for number in range(count)]
        self._draw.shuffle(drawn)
        return drawn

    async def perform(self, kind: str) -> None:
        """Do a fault of the wire, or leave it to an agent.

        An agent performs a fault of messages with its next report.
        """
        if kind in self._messages.kinds:
            idle = min(len(agent.faults) for agent in self._fleet.agents)
            self._draw.choice([agent for agent in self._fleet.agents if len(agent.faults) == idle]).faults.append(kind)
        elif self._wire is not None:
            wire = self._wire
            assert await until(lambda: wire.perform(kind), CONNECT_S), "no agent is connected any more"
            self._of_wire[kind] += 1

    def done(self) -> Counter[str]:
        """Return how many faults of each kind were done."""
        counts = self._fleet.record.counts
        messages = {kind: counts[f"fault: {kind}"] for kind in self._messages.kinds}
        return Counter({**messages, **self._of_wire})

    def waiting(self) -> int:
        """Return how many faults still wait for a report."""
        return sum(len(agent.faults) for agent in self._fleet.agents)


def counted(counts: Counter[str], kinds: Sequence[str]) -> str:
    """Return counts as text, also those of 0."""
    return ", ".join(f"{kind} {counts[kind]}" for kind in kinds)
