"""The first steps of every child process of a run."""

import ctypes
import os
import signal
import sys
from typing import Callable

from efficientquant_agent.protocol import EXIT_MISMATCH, ProtocolError, Record

_PR_SET_PDEATHSIG = 1


def read_spec(decode: Callable[[bytes], Record]) -> Record:
    """Read the spec from standard input.

    Exits with EXIT_MISMATCH when it cannot be read, such as the spec of another release.
    """
    try:
        return decode(sys.stdin.buffer.read())
    except ProtocolError as error:
        sys.stderr.write("{}\n".format(error))
        raise SystemExit(EXIT_MISMATCH) from error


def die_with_parent(parent_pid: int) -> None:
    """Make the kernel kill this process when the daemon dies."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:  # the daemon died before the line above
        os.kill(os.getpid(), signal.SIGKILL)


def volunteer_for_oom_kill() -> None:
    """Ask the kernel to kill this process first when memory runs out."""
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as stream:
            stream.write("1000")
    except OSError as error:
        sys.stderr.write("oom_score_adj stays as it is: {}\n".format(error))
