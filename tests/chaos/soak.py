"""The program of `make soak`, half an hour of faults.

It prints its progress, and exits with 1 when an invariant fails.
"""

import argparse
import asyncio
import random
import resource
import secrets
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import neighbours  # noqa: F401 (it finds the harness)
from fake_agents import Settings
from fleet import Fleet
from invariants import Scene, open_devices, planned_runs
from loads import FakeFleet, Mischief, counted
from message_faults import MessageFaults
from proxy import Proxy, WireFaults
from seeding import Plan, seed
from waiting import let_pass, until

LEASE_S, HEARTBEAT_S = 15.0, 2.0
CAMPAIGNS = 5
# The window of the first reading and the length of the last, in minutes of a soak of 30.
EARLY, LATE, WHOLE = (3.0, 8.0), 5.0, 30.0
MAX_GROWTH = 0.10
# The share of the time that the runs would take without faults.
PACE = 0.9
PROGRESS_S = 30.0
# For the last leases, and the runs that are left.
QUIET_S = 300.0


@dataclass
class Memory:
    """Resident memory of the controller over time."""

    pid: int
    started_s: float = field(default_factory=time.monotonic)
    readings: list[tuple[float, int]] = field(default_factory=list)

    def read(self) -> None:
        """Add a reading."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        kib = next((int(line.split()[1]) for line in lines if line.startswith("VmRSS")), 0)
        self.readings.append((time.monotonic() - self.started_s, kib))

    def growth(self, lasted_s: float) -> float:
        """Return the growth from the early window, as a share."""
        minute_s = lasted_s / WHOLE
        early = [kib for at_s, kib in self.readings if EARLY[0] * minute_s <= at_s <= EARLY[1] * minute_s]
        late = [kib for at_s, kib in self.readings if lasted_s - LATE * minute_s <= at_s <= lasted_s]
        return statistics.median(late) / statistics.median(early) - 1


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--agents", type=int, default=200, help="fake agents (default: 200)")
    parser.add_argument("--runs", type=int, default=50_000, help="runs of all campaigns (default: 50000)")
    parser.add_argument("--minutes", type=float, default=30.0, help="minutes with faults (default: 30)")
    parser.add_argument("--faults-per-second", type=float, default=1.0, help="faults a second (default: 1)")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6), help="the order of the faults")
    parser.add_argument("--kinds", type=lambda text: text.split(","), default=[], help="only these faults, by commas")
    return parser.parse_args()


def main() -> int:
    """Soak a controller, and return the exit status."""
    options = arguments()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    plan = Plan(options.agents, max(1, round(options.runs / options.agents / 2 / CAMPAIGNS)), CAMPAIGNS)
    with tempfile.TemporaryDirectory(prefix="eq-soak-") as name:
        fleet = Fleet(Path(name))
        say(f"seed {options.seed}: {plan.devices} agents, {plan.runs} runs, {options.minutes:g} minutes")
        seed(fleet.db, Path(name) / "results-artifacts", plan)
        try:
            fleet.start_controller("--lease", str(LEASE_S), "--heartbeat-interval", str(HEARTBEAT_S))
            problems = asyncio.run(soak(fleet, plan, options))
        finally:
            fleet.close()
    for problem in problems:
        say(f"VIOLATED: {problem}")
    say(f"{len(problems)} violations with --seed {options.seed}")
    return 1 if problems else 0


async def soak(fleet: Fleet, plan: Plan, options: argparse.Namespace) -> list[str]:
    """Run every campaign under faults, and return the violations."""
    draw = random.Random(options.seed)
    proxy = Proxy(fleet.address)
    wire = WireFaults(proxy, draw, LEASE_S)
    mean_s = PACE * options.minutes * 60 * plan.devices / plan.runs
    settings = Settings("", run_s=(0.5 * mean_s, 1.5 * mean_s), fetches=True, seed=options.seed)
    agents = FakeFleet(settings, plan.devices)
    mischief = Mischief(agents, MessageFaults(LEASE_S, planned_runs(fleet.db)), wire, draw)
    async with proxy.listening() as settings.address, agents.serving():
        assert await agents.connected()
        memory = await disturb(fleet, agents, mischief, options, draw)
        lasted_s = options.minutes * 60
        await wire.end()
        settings.run_s = (0.0, 0.0)
        agents.record.latest_s = time.monotonic()
        await until(lambda: agents.has_stopped() or (not open_devices(fleet.db) and agents.is_quiet()), QUIET_S)
        say(f"{mischief.done().total()} faults: {counted(mischief.done(), mischief.kinds())}")
        say(f"{dict(sorted(agents.record.counts.items()))}")
        scene = Scene(fleet.db, agents.record, fleet.address, [fleet.folder / "controller.log"])
        problems = await asyncio.to_thread(scene.problems)
    growth = memory.growth(lasted_s)
    say(f"memory of the controller: {growth:+.1%} (limit: {MAX_GROWTH:.0%}), {memory.readings[-1][1] / 1024:.0f} MiB")
    if growth > MAX_GROWTH:
        problems.append(f"the controller's memory grew by {growth:.1%}")
    if fleet.controller is not None and fleet.controller.popen.poll() is not None:
        problems.append(f"the controller ended with {fleet.controller.popen.returncode}")
    return [*problems, *agents.unfinished()]


async def disturb(
    fleet: Fleet, agents: FakeFleet, mischief: Mischief, options: argparse.Namespace, draw: random.Random
) -> Memory:
    """Do faults until the end, and return the readings of memory."""
    assert fleet.controller is not None
    memory = Memory(fleet.controller.popen.pid)
    lasted_s, said_s = options.minutes * 60, 0.0
    while (elapsed_s := time.monotonic() - memory.started_s) < lasted_s and not agents.has_stopped():
        (kind,) = mischief.drawn(1, options.kinds)
        await mischief.perform(kind)
        memory.read()
        if elapsed_s - said_s >= PROGRESS_S:
            said_s = elapsed_s
            say(
                f"{elapsed_s / 60:.1f} min, {(lasted_s - elapsed_s) / 60:.1f} min left: "
                f"{agents.record.answered} runs, {mischief.done().total()} faults, "
                f"{memory.readings[-1][1] / 1024:.0f} MiB"
            )
        await let_pass(draw.uniform(0.5, 1.5) / options.faults_per_second)
    return memory


def say(text: str) -> None:
    """Print a line."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
