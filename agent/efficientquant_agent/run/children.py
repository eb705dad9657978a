"""The child processes of a run, from their spec to their outcome."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from array import array
from collections import deque
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence

from efficientquant_agent import protocol
from efficientquant_agent.errors import RunFailedError
from efficientquant_agent.files import NO_ROOM
from efficientquant_agent.run.watcher import Watcher, kill_group
from efficientquant_agent.samplers.base import Sampler

_LOG_TAIL_LINES = 20
_EXIT_TIMEOUT_S = 10.0


class Ended(NamedTuple):
    """The end of a child process.

    `returncode` is its exit code, negative for a signal. `log_tail` holds its last lines.
    """

    returncode: int
    log_tail: List[str]


def run_child(
    module: str,
    spec: Any,
    watcher: Watcher,
    samplers_of: Callable[[int], Sequence[Sampler]],
    progress: Callable[[str, float], None],
) -> Ended:
    """Run RUN_MODULE or BUILD_MODULE in a child process until it exits.

    When the watcher must stop, the child is killed and `watcher.killed_for` says why. No process is left on return.
    """
    child = subprocess.Popen(
        [sys.executable, "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    log_tail: "deque[str]" = deque(maxlen=_LOG_TAIL_LINES)
    assert child.stdin is not None  # it is a pipe
    try:
        with contextlib.suppress(BrokenPipeError):  # the child has exited: its exit code and log say why
            child.stdin.write(protocol.encode(spec))
            child.stdin.close()
        handlers = {
            child.stdout: lambda line: _pass_on(line, progress, log_tail),
            child.stderr: log_tail.append,
        }
        watcher.watch(samplers_of(child.pid), handlers)
        if not watcher.killed_for:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(_EXIT_TIMEOUT_S)  # its pipes are closed, so it is about to exit
    finally:
        kill_group(child)
    return Ended(child.returncode, list(log_tail))


def read_outcome(scratch: str, ended: Ended, decode: Callable[[bytes], protocol.Record]) -> Optional[protocol.Record]:
    """Return a child's outcome, None when it crashed or left none.

    Raises protocol.ProtocolError when the outcome is damaged.
    """
    if ended.returncode != 0:
        return None
    return protocol.read(os.path.join(scratch, protocol.OUTCOME_FILE), decode)


def read_samples(scratch: str, name: str) -> Sequence[float]:
    """Return the float64 samples of a file, empty without a file."""
    samples = array("d")
    with contextlib.suppress(FileNotFoundError), open(os.path.join(scratch, name), "rb") as stream:
        content = stream.read()
        samples.frombytes(content[: len(content) // 8 * 8])  # a killed child may have written part of a sample
    return samples


def crash(ended: Ended, memory_seen: str, failure_types: Dict[str, str]) -> RunFailedError:
    """Return the failure for a child that left no result.

    `failure_types` has the keys "oom" and "other".
    """
    if ended.returncode == -signal.SIGKILL:
        return RunFailedError(
            failure_types["oom"],
            "killed by SIGKILL, which this agent did not send: most likely out of memory ({})".format(memory_seen),
        )
    how = "by signal {}".format(-ended.returncode) if ended.returncode < 0 else "with code {}".format(ended.returncode)
    last_line = ended.log_tail[-1] if ended.log_tail else "it said nothing"
    if ended.returncode == protocol.EXIT_MISMATCH and last_line.startswith(protocol.MISMATCH):
        return RunFailedError("agent_error", last_line)
    if any(os.strerror(number) in last_line for number in NO_ROOM):
        return RunFailedError("agent_error", "the disk had no room during the run: {}".format(last_line))
    return RunFailedError(failure_types["other"], "the run's process ended {}: {}".format(how, last_line))


def _pass_on(line: str, progress: Callable[[str, float], None], log_tail: "deque[str]") -> None:
    try:
        update = json.loads(line)
        phase, fraction = str(update["phase"]), float(update["fraction"])
    except (ValueError, KeyError, TypeError):
        log_tail.append(line)
    else:
        progress(phase, fraction)
