"""The child process of one run: loads the model, measures, and leaves its result in files.

It reads a JSON object (data only) from standard input, writes progress as JSON lines to what was standard output,
and ends with 0 whenever it could say how the run went.
"""

import ctypes
import json
import mmap
import os
import signal
import sys
import time
from array import array
from typing import Any, Callable, Dict, List, Sequence, TextIO

from efficientquant_agent import backends, measuring
from efficientquant_agent.backends.base import Backend, BackendBrokenError, InferenceError, LoadedModel, LoadError
from efficientquant_agent.errors import RunFailedError
from efficientquant_agent.records import Measurement, StageTiming

RESULT_FILE = "result.json"
LATENCY_FILE = "latency_s.f64"
WARMUP_FILE = "warmup_latency_s.f64"
_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Run what standard input describes."""
    spec = json.load(sys.stdin)
    die_with_parent(spec["parent_pid"])
    volunteer_for_oom_kill()
    report = claim_standard_output()
    try:
        outcome = run(spec, lambda phase, fraction: _report(report, phase, fraction))
    except RunFailedError as error:
        outcome = {"failure_type": error.failure_type, "failure_message": str(error)}
    except MemoryError:
        outcome = {"failure_type": "runtime_oom", "failure_message": "memory ran out inside the run's process"}
    with open(os.path.join(spec["scratch"], RESULT_FILE), "w") as stream:
        json.dump(outcome, stream)


def die_with_parent(parent_pid: int) -> None:
    """Make the kernel kill this process when the daemon dies, however it dies."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:  # it died before the line above
        os.kill(os.getpid(), signal.SIGKILL)


def volunteer_for_oom_kill() -> None:
    """Ask the kernel to take this process first when memory runs out, not the daemon or the desktop."""
    try:
        with open("/proc/self/oom_score_adj", "w") as stream:
            stream.write("1000")
    except OSError as error:
        sys.stderr.write("oom_score_adj stays as it is: {}\n".format(error))


def claim_standard_output() -> TextIO:
    """Return standard output for progress alone; whatever a runtime prints goes to standard error."""
    stream = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return stream


def _report(stream: TextIO, phase: str, fraction: float) -> None:
    stream.write(json.dumps({"phase": phase, "fraction": fraction}) + "\n")
    stream.flush()


def run(spec: Dict[str, Any], progress: Callable[[str, float], None]) -> Dict[str, Any]:
    """Do the run; latencies go to files in the scratch directory, the rest is returned.

    Raises RunFailedError: "load_failed" or "runtime_error".
    """
    measurement = Measurement(**spec["measurement"])
    backend = find_backend(spec["backend"], spec["device_name"])
    progress("load", 0.0)
    stages: List[StageTiming] = []
    try:
        model = load(backend, spec["artifact_path"], measurement.intra_op_threads, stages)
        inputs = model.stage_inputs(max(1, measurement.input_count), measurement.input_seed)
        stages.append(_timed("first_inference", lambda: model.run_once(inputs[0])))
        affinity = keep_off_last_cpu()
        warm_up = measuring.warm_up(model.run_once, inputs, measurement, lambda fraction: progress("warmup", fraction))
        _save(spec["scratch"], WARMUP_FILE, warm_up.latency_s)
        latency_s = measuring.measure(
            model.run_once, inputs, measurement, lambda fraction: progress("measure", fraction)
        )
        _save(spec["scratch"], LATENCY_FILE, latency_s)
    except LoadError as error:
        raise RunFailedError("load_failed", str(error)) from error
    except InferenceError as error:
        raise RunFailedError("runtime_error", str(error)) from error
    return {
        "stages": [stage._asdict() for stage in stages],
        "warmup_converged": warm_up.converged,
        "providers": list(model.providers),
        "library_versions": backend.library_versions(),
        "session_options": dict(model.session_options, measuring_thread_cpus=affinity),
    }


def find_backend(name: str, device_name: str) -> Backend:
    """Return the backend of this name if its runtime works here; raises RunFailedError("load_failed") if not."""
    available = {}
    for backend in backends.known():
        try:
            if backend.probe() is not None:
                available[backend.name] = backend
        except BackendBrokenError as error:
            if backend.name == name:
                message = "backend '{}' does not work on {}: {}".format(name, device_name, error)
                raise RunFailedError("load_failed", message) from error
    if name not in available:
        raise RunFailedError(
            "load_failed",
            "backend '{}' is not available on {} (available: {}); install its runtime there and restart the agent, "
            "or choose an available one".format(name, device_name, ", ".join(sorted(available)) or "none"),
        )
    return available[name]


def load(backend: Backend, path: str, intra_op_threads: int, stages: List[StageTiming]) -> LoadedModel:
    """Load a model from a file; appends the stages "read" and "session_create"."""
    cold = drop_page_cache(path)
    started_s = time.perf_counter()
    with open(path, "rb") as stream:
        content = stream.read()
    stages.append(StageTiming("read", time.perf_counter() - started_s, size_bytes=len(content), cold=cold))
    started_s = time.perf_counter()
    model = backend.load(content, intra_op_threads)
    stages.append(StageTiming("session_create", time.perf_counter() - started_s))
    return model


def _timed(stage: str, action: Callable[[], Any]) -> StageTiming:
    started_s = time.perf_counter()
    action()
    return StageTiming(stage, time.perf_counter() - started_s)


def drop_page_cache(path: str) -> bool:
    """Drop a file's pages from the page cache; True only when none is left there.

    Advice is not a promise (on a tmpfs there is nothing to drop to), so the kernel is asked what came of it.
    """
    with open(path, "rb") as stream:
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        size = os.fstat(stream.fileno()).st_size
        if size == 0:
            return False
        with mmap.mmap(stream.fileno(), size, access=mmap.ACCESS_COPY) as pages:
            return resident_pages(pages, size) == 0


def resident_pages(pages: mmap.mmap, size: int) -> int:
    """Return how many pages of a mapping are in memory (mincore)."""
    residency = (ctypes.c_ubyte * (-(-size // mmap.PAGESIZE)))()
    first_byte = ctypes.c_char.from_buffer(pages)
    mincore = ctypes.CDLL(None, use_errno=True).mincore
    failed = mincore(ctypes.c_void_p(ctypes.addressof(first_byte)), ctypes.c_size_t(size), residency)
    del first_byte  # the mapping cannot be closed while it is exported
    return len(residency) if failed else sum(state & 1 for state in residency)


def keep_off_last_cpu() -> str:
    """Move this thread off the CPU the sampler uses, where there are more than two; return the CPUs as text.

    Called after the session exists: the runtime's own threads were started with every CPU and keep them.
    """
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) > 2:
        os.sched_setaffinity(0, cpus[:-1])
        cpus = cpus[:-1]
    return ",".join(str(cpu) for cpu in cpus)


def _save(scratch: str, name: str, values: Sequence[float]) -> None:
    with open(os.path.join(scratch, name), "wb") as stream:
        array("d", values).tofile(stream)


if __name__ == "__main__":
    main()
