"""What an agent costs that waits for work, on the oldest and on the current Python."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from fleet import ROOT, Fleet
from goal import Goal

MAX_RSS_BYTES = 45 << 20
MAX_CPU_SHARE = 0.005
WATCHED_S = 20.0


def measure(folder: Path) -> Iterator[Goal]:
    """Resident memory and CPU share of an idle, connected agent."""
    for name, python in {"3.6": str(ROOT / ".venvs/py3.6/bin/python"), "current": sys.executable}.items():
        if not Path(python).exists():
            yield Goal(False, f"idle agent on Python {name}: no such interpreter here, see 'make test'")
            continue
        yield from measure_one(Fleet(folder), name, python)


def measure_one(fleet: Fleet, name: str, python: str) -> Iterator[Goal]:
    """Start a controller and one agent, and look at it twice."""
    try:
        fleet.start_controller("--heartbeat-interval", "2", "--lease", "15")
        agent = fleet.connect_agent(f"idle-{name}", python)
        before_s = cpu_time_s(agent.popen.pid)
        with contextlib.suppress(subprocess.TimeoutExpired):  # it lives on, as it should
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
    """VmRSS of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS"))


def cpu_time_s(pid: int) -> float:
    """User and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
