"""Faults of connections and messages between fake agents and a real controller."""

import asyncio
import os
import random
import secrets
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from fake_agents import Settings
from fleet import Fleet
from invariants import Scene, open_campaigns, open_devices, planned_runs
from loads import FakeFleet, Mischief, counted
from message_faults import MessageFaults
from proxy import Proxy, WireFaults
from seeding import Plan, seed
from waiting import let_pass, until

AGENTS = 12
LEASE_S = 3.0  # of the controller that `Fleet` starts
RUNS_FIRST, RUNS_PER_FAULT = 300, 2.5
FAULTS_PER_S = 15.0
# Time for the last leases to expire and the last runs to be done.
QUIET_S = 90.0


@dataclass
class Scenario:
    """The size of a test, from the environment: FAULTS, SEED and KINDS.

    KINDS names some kinds of faults, separated by commas.
    """

    faults: int
    seed: int
    kinds: tuple[str, ...]

    @classmethod
    def of_environment(cls) -> "Scenario":
        """Read the size, by default that of `make test` with a new seed."""
        kinds = tuple(filter(None, os.environ.get("KINDS", "").split(",")))
        seed = int(os.environ.get("SEED", secrets.randbelow(10**6)))
        return cls(int(os.environ.get("FAULTS", "100")), seed, kinds)

    @property
    def plan(self) -> Plan:
        """Enough runs that every fault finds a report."""
        runs = RUNS_FIRST + RUNS_PER_FAULT * self.faults
        return Plan(AGENTS, repeats=round(runs / AGENTS / 4), campaigns=2)


async def disturb(fleet: Fleet, scenario: Scenario) -> list[str]:
    """Run every campaign under faults, and return the violations."""
    proxy = Proxy(fleet.address)
    draw = random.Random(scenario.seed)
    wire = WireFaults(proxy, draw, LEASE_S)
    # The last device stays away until the others are done, so that a campaign is open in memory meanwhile.
    settings = Settings("", report_timeout_s=10.0, fetches=True, seed=scenario.seed)
    agents = FakeFleet(settings, AGENTS - 1)
    mischief = Mischief(agents, MessageFaults(LEASE_S, planned_runs(fleet.db)), wire, draw)
    scene = Scene(fleet.db, agents.record, fleet.address, [fleet.folder / "controller.log"])
    started_s = time.monotonic()
    async with proxy.listening() as settings.address, agents.serving():
        assert await agents.connected()
        for kind in mischief.drawn(scenario.faults, scenario.kinds):
            await mischief.perform(kind)
            await let_pass(draw.expovariate(FAULTS_PER_S))
        await until(lambda: not mischief.waiting() or agents.is_quiet() or agents.has_stopped(), QUIET_S)
        await wire.end()
        lasted_s = time.monotonic() - started_s
        sys.stdout.write(
            f"\nseed {scenario.seed}: {mischief.done().total()} faults in {lasted_s:.0f} s, "
            f"{agents.record.answered / lasted_s:.0f} runs/s ({counted(mischief.done(), mischief.kinds())})\n"
        )
        settings.run_s = (0.0, 0.0)
        problems = await finish(fleet, agents, scene)
    sys.stdout.write(f"{dict(sorted(agents.record.counts.items()))}\n")
    assert mischief.done().total() >= 0.9 * scenario.faults  # the last ones may find no run to disturb
    return problems


async def finish(fleet: Fleet, agents: FakeFleet, scene: Scene) -> list[str]:
    """Let the agents do the rest, compare, let the last device do its runs, and compare again."""
    last = FakeFleet(Settings(fleet.address, run_s=(0.0, 0.0)), 1, first=AGENTS - 1)
    last.record = last.agents[0].record = agents.record
    only = [last.agents[0].device_id]
    await until(lambda: agents.has_stopped() or (open_devices(fleet.db) == only and agents.is_quiet()), QUIET_S)
    if open_devices(fleet.db) != only:
        return [*agents.unfinished(), *open_campaigns(fleet.db)]
    problems = await asyncio.to_thread(scene.problems, all_ended=False)
    async with last.serving():
        await until(lambda: last.has_stopped() or not open_devices(fleet.db), QUIET_S)
        problems += await asyncio.to_thread(scene.problems)
    return problems


@pytest.fixture
def scenario(tmp_path: Path) -> Scenario:
    scenario = Scenario.of_environment()
    seed(tmp_path / "results.db", tmp_path / "results-artifacts", scenario.plan)
    return scenario


def test_no_result_is_lost_or_doubled_over_a_bad_wire(scenario: Scenario, tmp_path: Path) -> None:
    """Every acknowledged result is stored once, unchanged, and every campaign ends."""
    fleet = Fleet(tmp_path)
    controller = fleet.start_controller()
    try:
        problems = asyncio.run(disturb(fleet, scenario))
        status = controller.popen.poll()
    finally:
        fleet.close()
    assert problems == [], f"{len(problems)} violations with SEED={scenario.seed}:\n" + "\n".join(problems[:20])
    assert status is None, f"the controller ended with {status}"
