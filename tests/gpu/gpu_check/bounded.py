"""Child processes with a time limit, and their lines of JSON."""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from typing import Any, Dict, Iterator, Mapping, Sequence

# A process that hangs inside a driver cannot be killed. It is left behind after this time.
_REAP_S = 2.0
_TAIL_BYTES = 4096


class ChildError(Exception):
    """A child that hung or died.

    The message says which of both, and its exit code, signal or time limit.
    """


def messages(arguments: Sequence[str], limit_s: float, environment: Mapping[str, str]) -> Iterator[Dict[str, Any]]:
    """Run `python -m gpu_check.child ARGUMENTS` and yield its JSON objects.

    It prints an object per line until its "end". Raises ChildError when `limit_s` is over or the child dies. The child
    and its own children are killed in every case.
    """
    deadline_s = time.monotonic() + limit_s
    child = subprocess.Popen(
        [sys.executable, "-m", "gpu_check.child"] + list(arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(environment),
        start_new_session=True,
    )
    texts = {child.stdout: b"", child.stderr: b""}
    try:
        with selectors.DefaultSelector() as selector:
            for stream in texts:
                selector.register(stream, selectors.EVENT_READ)
            while selector.get_map():
                ready = selector.select(max(0.0, deadline_s - time.monotonic()))
                if not ready:
                    raise ChildError("it hung and was ended after {:.0f} s".format(limit_s))
                for key, _ in ready:
                    content = os.read(key.fd, 65536)
                    if not content:
                        selector.unregister(key.fileobj)
                    texts[key.fileobj] += content
                texts[child.stderr] = texts[child.stderr][-_TAIL_BYTES:]
                lines = texts[child.stdout].split(b"\n")
                texts[child.stdout] = lines.pop()
                for line in lines:
                    message = json.loads(line.decode())
                    if message == {"end": True}:
                        return
                    yield message
        raise ChildError(_death(child, deadline_s, texts[child.stderr]))
    finally:
        _end(child)


def _death(child: Any, deadline_s: float, stderr: bytes) -> str:
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(max(0.1, deadline_s - time.monotonic()))
    code = child.returncode
    how = "closed its output" if code is None else "with code {}".format(code)
    if code is not None and code < 0:
        how = "by {}".format(signal.Signals(-code).name)
    last = (stderr.decode(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
    return "its process ended {}: {}".format(how, last)


def _end(child: Any) -> None:
    """Kill the child and its own children, and close its pipes."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(_REAP_S)
    child.stdout.close()
    child.stderr.close()
