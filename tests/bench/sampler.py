"""CPU cost of watching a board at 10 Hz.

The board is a Nano's tree of files, and the PSS is that of a running process.
"""

import contextlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from efficientquant_agent.host.board import Board
from efficientquant_agent.run.watcher import Cancellation, SeriesRecorder, Watcher
from efficientquant_agent.samplers import board_samplers, child_samplers
from efficientquant_agent.samplers.base import Sampler
from efficientquant_agent.samplers.tegrastats import parse_line, values
from goal import Goal

BOARD = Path(__file__).parent.parent / "fixtures/boards/nano-r32.7.4"
RATE_HZ = 10.0
REST_S = 10.0
MAX_SHARE = 0.002
CHILD_BYTES = 256 << 20
ROUNDS = 5
ROUND_S = 60.0


def measure(folder: Path) -> Iterator[Goal]:  # noqa: ARG001
    """Yield the goals for sampling everything and for parsing tegrastats.

    Each is a share of one core and the median of several rounds. The whole watch loop has a goal, too.
    """
    board = board_samplers(str(BOARD / "proc"), str(BOARD / "sys"))
    with living_child() as child:
        watched = [*board, *child_samplers(child.pid)]
        rounds = [share_of_core(watched, number * ROUND_S) for number in range(1 + ROUNDS)][1:]
        pss_s = cost_s(watched[-1].sample, 10)
        for sampler in watched:
            sampler.close()
    share = statistics.median(rounds)
    yield Goal(
        share <= MAX_SHARE,
        f"sampling a Nano's {len(watched)} quantities at {RATE_HZ:g} Hz: {share:.3%} of a core, "
        f"{share / RATE_HZ * 1e6:.0f} µs a tick (goal: at most {MAX_SHARE:.1%}; "
        f"one PSS of {CHILD_BYTES >> 20} MiB takes {pss_s * 1e3:.1f} ms and is spaced out)",
    )
    yield whole_watch()
    line = (BOARD.parent / "tegrastats/nano-r32.7.4.txt").read_text().splitlines()[0]
    share = statistics.median(cost_s(lambda: values(parse_line(line)), 500) for _ in range(ROUNDS)) * RATE_HZ
    yield Goal(
        share <= MAX_SHARE,
        f"understanding tegrastats' lines at {RATE_HZ:g} Hz, for boards without rails in sysfs: {share:.3%} of a core, "
        f"{share / RATE_HZ * 1e6:.0f} µs a line (goal: at most {MAX_SHARE:.1%}; tegrastats itself not counted)",
    )


def whole_watch() -> Goal:
    """Return the goal for the agent's own loop, which blocks between ticks.

    Waking up with cold caches costs more than the reading.
    """
    discovery = Board().discover(1 / RATE_HZ, "", use_gpu=False)
    cancellation = Cancellation()
    recorder = SeriesRecorder(time.monotonic(), print)
    recorder.add(discovery.samplers)
    watcher = Watcher(recorder, None, 1 / RATE_HZ, float("inf"), cancellation)
    watcher.rest(REST_S)
    share = watcher.cpu_s() / REST_S
    watcher.close()
    cancellation.close()
    return Goal(
        share <= MAX_SHARE,
        f"the whole watch loop at rest at {RATE_HZ:g} Hz, on this machine's own {len(discovery.samplers)} quantities: "
        f"{share:.3%} of a core, {share / RATE_HZ * 1e6:.0f} µs a tick (goal: at most {MAX_SHARE:.1%})",
    )


def share_of_core(samplers: list[Sampler], started_s: float) -> float:
    """Return the CPU seconds per second of one round of ticks.

    The ticks run without pauses and get their time as an argument.
    """
    before_s = time.thread_time()
    for tick in range(int(ROUND_S * RATE_HZ)):
        for sampler in samplers:
            if sampler.due(started_s + tick / RATE_HZ):
                sampler.sample()
    return (time.thread_time() - before_s) / ROUND_S


@contextlib.contextmanager
def living_child() -> Iterator["subprocess.Popen[bytes]"]:
    """Start a process that holds CHILD_BYTES, like a model."""
    program = f"held = bytearray(b'x' * {CHILD_BYTES}); print(flush=True); import sys; sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.readline()
        yield child
        child.stdin.close()


def cost_s(act: Callable[[], object], times: int) -> float:
    """Return the mean CPU seconds of a call.

    A first call, which opens files, does not count.
    """
    act()
    before_s = time.thread_time()
    for _ in range(times):
        act()
    return (time.thread_time() - before_s) / times
