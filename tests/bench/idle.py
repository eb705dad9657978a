"""Memory and CPU of an idle agent.

It runs on a Nano's, a Xavier's and the current Python.
"""

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from fleet import ROOT, Fleet
from goal import Goal

MAX_RSS_BYTES = 40 << 20
MAX_CPU_SHARE = 0.003
WATCHED_S = 20.0


def measure(folder: Path) -> Iterator[Goal]:
    """Yield the goals for memory and CPU share, for each Python."""
    pythons = {version: str(ROOT / f".venvs/py{version}/bin/python") for version in ("3.6", "3.8")}
    for name, python in {**pythons, "current": sys.executable}.items():
        if not Path(python).exists():
            yield Goal(False, f"idle agent on Python {name}: no such interpreter here, see 'make test'")
            continue
        yield from measure_one(Fleet(folder), name, python)


def measure_one(fleet: Fleet, name: str, python: str) -> Iterator[Goal]:
    """Start a controller and one agent, and yield the agent's two goals."""
    try:
        fleet.start_controller("--heartbeat-interval", "2", "--lease", "15")
        agent = fleet.connect_agent(f"idle-{name}", python)
        before_s = cpu_time_s(agent.popen.pid)
        with contextlib.suppress(subprocess.TimeoutExpired):  # the agent keeps running
            agent.popen.wait(WATCHED_S)
            raise AssertionError("the idle agent ended")
        share = (cpu_time_s(agent.popen.pid) - before_s) / WATCHED_S
        rss = resident_bytes(agent.popen.pid)
    finally:
        fleet.close()
    yield Goal(
        rss <= MAX_RSS_BYTES,
        f"idle agent on Python {name}: {rss / 2**20:.1f} MiB resident (goal: at most {MAX_RSS_BYTES >> 20})",
    )
    yield Goal(
        share <= MAX_CPU_SHARE,
        f"idle agent on Python {name}: {share:.2%} of a core over {WATCHED_S:g} s (goal: at most {MAX_CPU_SHARE:.1%})",
    )


def resident_bytes(pid: int) -> int:
    """Return VmRSS of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS"))


def cpu_time_s(pid: int) -> float:
    """Return user and system time of a process, from its own clock.

    /proc counts in ticks of 10 ms, which is too coarse.
    """
    return time.clock_gettime(~pid << 3 | 2)  # CPUCLOCK_SCHED, which clock_getcpuclockid(3) returns on Linux
