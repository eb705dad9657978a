"""The controller under the load of hundreds and thousands of agents.

The agents are fake and have a process of their own. Run alone, it takes the names of some parts.
"""

import contextlib
import json
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

_TESTS = Path(__file__).parent.parent
sys.path[:0] = [str(_TESTS / name) for name in ("bench", "chaos/harness", "e2e")]

from efficientquant_controller.config import ServerConfig
from fleet import Fleet
from goal import Goal
from idle import cpu_time_s
from seeding import Plan, seed

# (agents, highest share of a core) at rest with the default heartbeat.
REST = ((200, 0.05), (1000, 0.15))
REST_S = 20.0
HEARTBEAT = tuple(
    f"--{name}={value}"
    for name, value in (
        ("heartbeat-interval", ServerConfig.heartbeat_interval_s),
        ("lease", ServerConfig.lease_s),
    )
)
# Heartbeats are rare here, so that the cost is that of the runs alone.
RARE_HEARTBEAT = ("--heartbeat-interval", "30", "--lease", "120")
COST_AGENTS, COST_RUNS, MAX_COST_RATIO = (50, 1000, 2000), 4000, 1.3
BURST_AGENTS, REPORT_DEADLINE_S = 1000, 60.0
RATE_AGENTS, RATE_ROUNDS, RATE_RUNS, MIN_RATE_RATIO = 50, 5, 300, 0.8


class Round(NamedTuple):
    """What the agents did between an order and its end."""

    lasted_s: float
    controller_cpu_s: float
    answer_s: list[float]
    failed: dict[str, int]


class Load:
    """A controller with connected fake agents."""

    def __init__(self, fleet: Fleet, agents: subprocess.Popen[str]) -> None:
        self.fleet, self._agents = fleet, agents

    @property
    def pid(self) -> int:
        """The controller's process."""
        assert self.fleet.controller is not None
        return self.fleet.controller.popen.pid

    def go(self, count: int) -> Round:
        """Let the agents end this many runs."""
        assert self._agents.stdin is not None
        started_s, cpu_s = time.monotonic(), cpu_time_s(self.pid)
        self._agents.stdin.write(f"go {count}\n")
        self._agents.stdin.flush()
        facts: dict[str, Any] = json.loads(expect(self._agents, "done"))
        return Round(time.monotonic() - started_s, cpu_time_s(self.pid) - cpu_s, facts["answer_s"], facts["failed"])

    def rest(self, seconds: float) -> float:
        """Return the controller's share of a core while nothing is asked."""
        cpu_s = cpu_time_s(self.pid)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._agents.wait(seconds)
            raise AssertionError("the agents ended")
        return (cpu_time_s(self.pid) - cpu_s) / seconds


def expect(process: subprocess.Popen[str], word: str) -> str:
    """Return the rest of the next line, which begins with a word."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith(word), f"the agents said {line!r} and ended with {process.poll()}"
    return line.removeprefix(word).strip()


@contextlib.contextmanager
def loaded(plan: Plan, *options: str) -> Iterator[Load]:
    """Start a controller with a planned database and connect its agents."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory(prefix="eq-load-") as name:
        fleet = Fleet(Path(name))
        seed(fleet.db, Path(name) / "results-artifacts", plan)
        command = [sys.executable, str(Path(__file__).parent / "load_agents.py")]
        try:
            fleet.start_controller(*options)
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            with subprocess.Popen([*command, fleet.address, str(plan.devices)], **pipes) as agents:
                try:
                    expect(agents, "connected")
                    yield Load(fleet, agents)
                finally:
                    agents.kill()
        finally:
            fleet.close()


def measure(folder: Path) -> Iterator[Goal]:
    """Yield the goals of every part."""
    del folder
    for part in PARTS.values():
        yield from part()


def rest() -> Iterator[Goal]:
    """Yield the goals for a controller whose agents have no work."""
    for agents, most in REST:
        with loaded(Plan(agents, repeats=1, recipes=("fp32",)), *HEARTBEAT) as load:
            load.go(agents)
            share = load.rest(REST_S)
        yield Goal(
            share <= most,
            f"controller with {agents} agents at rest: {share:.1%} of a core over {REST_S:g} s (goal: at most "
            f"{most:.0%})",
        )


def cost() -> Iterator[Goal]:
    """Yield the goal for the CPU of a run in growing fleets."""
    costs = {}
    for agents in COST_AGENTS:
        with loaded(Plan(agents, repeats=COST_RUNS // agents, recipes=("fp32",)), *RARE_HEARTBEAT) as load:
            done = load.go(COST_RUNS)
        costs[agents] = done.controller_cpu_s / COST_RUNS
        yield Goal(
            None,
            f"controller with {agents} agents: {costs[agents] * 1e3:.2f} ms of CPU a run, "
            f"{COST_RUNS / done.lasted_s:.0f} runs/s",
        )
    ratio = max(costs.values()) / min(costs.values())
    yield Goal(
        ratio <= MAX_COST_RATIO,
        f"controller's CPU a run with {', '.join(map(str, COST_AGENTS))} agents: largest ratio {ratio:.2f} (goal: at "
        f"most {MAX_COST_RATIO:g}; {COST_RUNS} runs each)",
    )


def burst() -> Iterator[Goal]:
    """Yield the goal for a thousand reports that arrive at once."""
    with loaded(Plan(BURST_AGENTS, repeats=1, recipes=("fp32",)), *HEARTBEAT) as load:
        done = load.go(BURST_AGENTS)
    answer_s = sorted(done.answer_s)
    late = BURST_AGENTS - len(answer_s)
    p50_s, p99_s = statistics.median(answer_s), answer_s[int(0.99 * len(answer_s))]
    yield Goal(
        late == 0 and answer_s[-1] < REPORT_DEADLINE_S and not done.failed,
        f"{BURST_AGENTS} reports at once: answered after {p50_s:.2f} s (p50), {p99_s:.2f} s (p99), "
        f"{answer_s[-1]:.2f} s (last), {late} first tries without an answer, {done.failed or 'no failures'} "
        f"(goal: all first tries within {REPORT_DEADLINE_S:g} s)",
    )


def rate() -> Iterator[Goal]:
    """Yield the goal for durable results a second against bare inserts.

    Both write the same blob to the same disk, in turns.
    """
    ours, bare = [], []
    repeats = RATE_RUNS * (RATE_ROUNDS + 1) // RATE_AGENTS
    with loaded(Plan(RATE_AGENTS, repeats=repeats, recipes=("fp32",)), *HEARTBEAT) as load:
        load.go(RATE_RUNS)  # warm-up
        blob = a_blob(load.fleet.db)
        with contextlib.closing(bare_database(load.fleet.folder / "bare.db")) as database:
            for _ in range(RATE_ROUNDS):
                ours.append(RATE_RUNS / load.go(RATE_RUNS).lasted_s)
                bare.append(RATE_RUNS / insert_time_s(database, blob))
    ratio = statistics.median(ours) / statistics.median(bare)
    yield Goal(
        ratio >= MIN_RATE_RATIO,
        f"durable results through the controller: {statistics.median(ours):.0f}/s, bare durable inserts of the same "
        f"blob ({len(blob)} bytes): {statistics.median(bare):.0f}/s, ratio {ratio:.2f} (goal: at least "
        f"{MIN_RATE_RATIO:g}; medians of {RATE_ROUNDS} turns of {RATE_RUNS})",
    )


def a_blob(database: Path) -> bytes:
    """Return the samples of one stored result."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        return bytes(connection.execute("SELECT samples FROM series LIMIT 1").fetchone()[0])


def bare_database(path: Path) -> sqlite3.Connection:
    """Make a database with the controller's durability and one table."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE series (run_id TEXT PRIMARY KEY, samples BLOB NOT NULL)")
    return connection


def insert_time_s(database: sqlite3.Connection, blob: bytes) -> float:
    """Return the seconds for a round of inserts, each its own transaction."""
    (first,) = database.execute("SELECT count(*) FROM series").fetchone()
    started_s = time.monotonic()
    for number in range(first, first + RATE_RUNS):
        database.execute("INSERT INTO series VALUES (?, ?)", (f"run-{number}", blob))
    return time.monotonic() - started_s


PARTS = {"rest": rest, "cost": cost, "burst": burst, "rate": rate}


if __name__ == "__main__":
    for part_name in sys.argv[1:] or PARTS:
        for goal in PARTS[part_name]():
            print({True: "met   ", False: "MISSED", None: "      "}[goal.met], goal.sentence, flush=True)
