"""Contention for the CPU: how long this process waited for one."""

import os
import time
from typing import Any, Dict, Mapping, NamedTuple, Optional, Tuple


class Snapshot(NamedTuple):
    """The counters of one moment.

    `waited_s` has each thread's time of waiting for a CPU, None where the kernel does not count it. `others_s` is the
    CPU time of all other processes, None where it cannot be read.
    """

    monotonic_s: float
    waited_s: Optional[Mapping[str, float]]
    others_s: Optional[float]
    cpu_count: int


def snapshot(proc: str = "/proc") -> Snapshot:
    """Read the counters of this process, a millisecond's work at most."""
    waited_s = _waited_s(os.path.join(proc, "self", "task"))
    others_s, cpu_count = (None, 0) if waited_s is not None else _others_s(os.path.join(proc, "stat"))
    return Snapshot(time.monotonic(), waited_s, others_s, cpu_count)


def shares(before: Snapshot, after: Snapshot) -> Dict[str, Any]:
    """Return the readings of the time between two snapshots.

    `cpu_wait_share` is that of the thread that waited longest: the share of the time in which it could have run and had
    no CPU. A thread that started meanwhile counts, a thread that ended does not. Where the kernel counts no waiting,
    `other_cpu_share` takes its place: the other processes' share of the time of all CPUs. Without either it is empty.
    """
    elapsed_s = after.monotonic_s - before.monotonic_s
    if elapsed_s <= 0:
        return {}
    if before.waited_s is not None and after.waited_s is not None:
        longest_s = max(_gained_s(before.waited_s, thread, now_s) for thread, now_s in after.waited_s.items())
        return {"cpu_wait_share": min(1.0, longest_s / elapsed_s)}
    if before.others_s is not None and after.others_s is not None and after.cpu_count:
        share = (after.others_s - before.others_s) / (elapsed_s * after.cpu_count)
        return {"other_cpu_share": min(1.0, max(0.0, share))}
    return {}


def _gained_s(before: Mapping[str, float], thread: str, now_s: float) -> float:
    """Return how long a thread waited since a snapshot.

    A smaller number than before is a new thread's with the id of an earlier one.
    """
    then_s = before.get(thread, 0.0)
    return now_s - then_s if now_s >= then_s else now_s


def _waited_s(tasks: str) -> Optional[Dict[str, float]]:
    """Return the waiting time of each thread, None where unknown.

    The second number of schedstat is the time on a run queue, in nanoseconds. A kernel that has the file and does not
    count writes three zeros, although a thread that reads it has run at least once.
    """
    waited_s = {}
    has_run = False
    try:
        threads = os.listdir(tasks)
    except OSError:
        return None
    for thread in threads:
        try:
            with open(os.path.join(tasks, thread, "schedstat"), "rb") as stream:
                _, waited_ns, count = map(int, stream.read().split())
        except (OSError, ValueError):  # the thread has ended, or the kernel has no such file
            continue
        waited_s[thread] = waited_ns / 1e9
        has_run = has_run or count > 0
    return waited_s if has_run else None


def _others_s(path: str) -> Tuple[Optional[float], int]:
    """Return the CPU time of all others, and the number of CPUs.

    Interrupts and what a hypervisor took count as others'. The time is None when the file cannot be read.
    """
    try:
        with open(path, "rb") as stream:
            lines = [line.split() for line in stream if line.startswith(b"cpu")]
        user, nice, system, _, _, irq, softirq, steal = map(int, lines[0][1:9])
    except (OSError, ValueError, IndexError):
        return None, 0
    busy_s = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    own = os.times()
    return busy_s - own.user - own.system, len(lines) - 1
