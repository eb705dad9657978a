"""Contention for the CPU, from trees of /proc and with a busy neighbour."""

import os
import subprocess
import sys
import threading
import time

import pytest
from efficientquant_agent.child import contention
from efficientquant_agent.child.contention import Snapshot, shares, snapshot

STAT = """cpu  1000 100 500 90000 700 20 30 50 0 0
cpu0 500 50 250 45000 350 10 15 25 0 0
cpu1 500 50 250 45000 350 10 15 25 0 0
intr 1 2
"""


def write_proc(folder, stat="", **threads):
    """Write a tree of /proc with these schedstats, and return it."""
    for thread, schedstat in threads.items():
        task = folder / "self" / "task" / thread.lstrip("t")
        task.mkdir(parents=True)
        if schedstat:
            (task / "schedstat").write_text(schedstat)
    (folder / "stat").write_text(stat)
    return str(folder)


def counted(monotonic_s, **waited_s):
    """Return a snapshot of threads."""
    return Snapshot(monotonic_s, waited_s, None, 0)


def others(monotonic_s, busy_s):
    """Return a snapshot of the other processes on two CPUs."""
    return Snapshot(monotonic_s, None, busy_s, 2)


def test_the_waiting_of_each_thread_is_read(tmp_path):
    """Each thread's waiting is the second number of its schedstat, in nanoseconds."""
    proc = write_proc(tmp_path, t7="900 1500000000 12\n", t8="0 250000000 3\n", t9="")

    taken = snapshot(proc)

    assert (taken.waited_s, taken.others_s) == ({"7": 1.5, "8": 0.25}, None)


@pytest.mark.parametrize("schedstat", ["", "0 0 0\n", "nonsense\n"])
def test_a_kernel_that_does_not_count_waiting(tmp_path, monkeypatch, schedstat):
    """Where schedstat is missing or zero, other processes' CPU time is read."""
    proc = write_proc(tmp_path, STAT, t7=schedstat)
    monkeypatch.setattr(contention.os, "times", lambda: os.times_result((2.0, 1.0, 9.0, 9.0, 50.0)))

    taken = snapshot(proc)

    assert (taken.waited_s, taken.cpu_count) == (None, 2)
    assert taken.others_s == pytest.approx(1700 / os.sysconf("SC_CLK_TCK") - 3.0)


@pytest.mark.parametrize("stat", ["", "cpu  1 2\n", "cpu  a b c d e f g h\n"])
def test_nothing_can_be_read(tmp_path, stat):
    """Without either file there is no reading."""
    proc = write_proc(tmp_path, stat)

    assert shares(snapshot(proc), snapshot(proc)) == {}


@pytest.mark.parametrize(
    ("after", "share"),
    [
        ({"7": 1.5, "8": 1.25}, 0.25),
        ({"7": 1.0, "9": 0.5}, 0.25),  # 9 started meanwhile, 8 ended
        ({"7": 1.5, "8": 0.75}, 0.375),  # 8 is another thread with the id of an earlier one
        ({"7": 1.0, "8": 1.0}, 0.0),
        ({"7": 3.5, "8": 1.0}, 1.0),
    ],
)
def test_the_thread_that_waited_longest_counts(after, share):
    """The share is that of the thread that waited longest."""
    before = counted(10.0, **{"7": 1.0, "8": 1.0})

    assert shares(before, counted(12.0, **after)) == {"cpu_wait_share": share}


@pytest.mark.parametrize(("busy_s", "share"), [(5.0, 0.0), (6.0, 0.25), (4.9, 0.0), (99.0, 1.0)])
def test_the_share_of_other_processes(busy_s, share):
    """Other processes' share of all CPU time is 0 to 1."""
    assert shares(others(10.0, 5.0), others(12.0, busy_s)) == {"other_cpu_share": share}


@pytest.fixture
def neighbour():
    """Pin this thread and a busy process to one CPU."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    busy = subprocess.Popen(
        [sys.executable, "-c", "print('busy', flush=True)\nwhile True: pass"], stdout=subprocess.PIPE
    )
    busy.stdout.readline()
    yield
    busy.kill()
    busy.wait()
    busy.stdout.close()
    os.sched_setaffinity(0, allowed)


@pytest.mark.usefixtures("neighbour")
def test_a_busy_neighbour_on_the_same_cpu():
    """Two busy processes on one CPU wait for each other."""
    before = snapshot()
    until_s = time.monotonic() + 0.5
    while time.monotonic() < until_s:
        pass

    assert shares(before, snapshot())["cpu_wait_share"] > 0.25


@pytest.mark.usefixtures("neighbour")
def test_a_thread_that_waits_for_something_else():
    """A thread that blocks does not wait for a CPU, however busy that is."""
    before = snapshot()
    threading.Event().wait(0.5)

    assert shares(before, snapshot())["cpu_wait_share"] < 0.25
