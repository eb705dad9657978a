"""This device's engines, from the plan cache or built in child processes."""

import json
import os
import signal
from typing import Callable, Dict, List, Mapping, NamedTuple, Sequence

from efficientquant_agent import protocol
from efficientquant_agent.digests import new_sha256
from efficientquant_agent.errors import RunFailedError
from efficientquant_agent.host.device import computing_gpu
from efficientquant_agent.protocol import BuildOptions, BuildReport, BuildSpec
from efficientquant_agent.records import Assignment, DeviceSnapshot
from efficientquant_agent.run import plans
from efficientquant_agent.run.children import Ended, crash, read_outcome, run_child
from efficientquant_agent.run.watcher import Watcher

# On a GPU that shares the board's memory the largest workspace is 1/16 of it: 256 MiB on a 4 GiB Nano.
_SHARED_MEMORY_PARTS = 16
_LADDER_BYTES = (1 << 30, 512 << 20, 256 << 20, 128 << 20, 64 << 20)
_SMALLEST_BYTES = _LADDER_BYTES[-1]
_FAILURES = {"oom": "build_oom", "other": "build_failed"}


class PreparedEngine(NamedTuple):
    """An engine as a file, and how it was made."""

    path: str
    report: BuildReport
    from_cache: bool
    key: str


class Engines:
    """The engines of one device, built where the cache lacks them."""

    def __init__(self, directory: str, limit_bytes: int, device_name: str) -> None:
        self._cache = plans.PlanCache(os.path.join(directory, "plans"), limit_bytes)
        self._timing = os.path.join(directory, "timing-caches")
        os.makedirs(self._timing, exist_ok=True)
        self._device_name = device_name

    def get(
        self,
        assignment: Assignment,
        artifact_path: str,
        device: DeviceSnapshot,
        conditions: Mapping[str, str],
        scratch: str,
        watcher: Watcher,
        progress: Callable[[str, float], None],
    ) -> PreparedEngine:
        """Return the engine for an artifact.

        Raises RunFailedError with "build_failed", "build_oom" or "unsupported_op". When the watcher must stop, the
        build is killed, and `watcher.killed_for` gives the reason instead of the error.
        """
        settings = build_settings(assignment, device, conditions)
        key = plans.plan_key(assignment.sha256, settings)
        kept = self._cache.find(key)
        if kept is not None:
            return PreparedEngine(kept.path, kept.report, True, key)
        ladder = workspace_ladder_bytes(device)
        options = BuildOptions(
            builder_flags=list(assignment.builder_flags),
            workspace_ladder_bytes=ladder,
            timing_cache_path=os.path.join(self._timing, _digest(settings) + ".cache"),
        )
        spec = BuildSpec(os.getpid(), scratch, assignment.backend, self._device_name, artifact_path, options)
        report = self._build(spec, watcher, progress)
        made = self._cache.put(key, os.path.join(scratch, protocol.PLAN_FILE), report)
        return PreparedEngine(made.path, made.report, False, key)

    def forget(self, engine: PreparedEngine) -> None:
        """Drop an engine that does not load."""
        self._cache.forget(engine.key)

    @staticmethod
    def _build(spec: BuildSpec, watcher: Watcher, progress: Callable[[str, float], None]) -> BuildReport:
        """Build in a child process, retrying a killed build with less workspace.

        Raises RunFailedError when no build succeeds or the watcher stops it.
        """
        ladder = list(spec.options.workspace_ladder_bytes)
        killed_at: List[int] = []
        while True:
            attempt = spec._replace(options=spec.options._replace(workspace_ladder_bytes=list(ladder)))
            ended = run_child(protocol.BUILD_MODULE, attempt, watcher, lambda _: [], progress)
            if ended.returncode != -signal.SIGKILL or watcher.killed_for or len(ladder) == 1:
                break
            killed_at.append(ladder.pop(0))
        if watcher.killed_for:
            raise RunFailedError("build_failed", "the build was stopped")
        report = protocol.read(os.path.join(spec.scratch, protocol.REPORT_FILE), protocol.decode_report)
        if ended.returncode == 0 and report is not None:
            notes = ["the kernel killed the build with a workspace of {} MiB".format(size >> 20) for size in killed_at]
            return report._replace(notes=list(report.notes) + notes)
        raise _failure(spec.scratch, ended, watcher, killed_at + ladder[:1])


def build_settings(assignment: Assignment, device: DeviceSnapshot, conditions: Mapping[str, str]) -> Dict[str, str]:
    """Return the settings that decide whether a kept engine may be reused.

    The artifact's SHA-256 is the other half of the key. The facts come from the device snapshot, because the daemon
    loads no runtime and asks no GPU.
    """
    backend = next((info for info in device.backends if info.name == assignment.backend), None)
    gpu = computing_gpu(device.gpus)
    return {
        "backend": assignment.backend,
        "version": backend.version if backend else "",
        "gpu": gpu.name if gpu else "",
        "sm": str(gpu.compute_capability) if gpu else "",
        "driver": gpu.driver_version if gpu else "",
        "cuda": device.cuda_version,
        "l4t": device.l4t,
        "power_mode": conditions.get("power_mode", ""),
        "clocks": conditions.get("clocks", ""),
        "flags": "+".join(sorted(assignment.builder_flags)),
        "workspace": ",".join(str(size) for size in workspace_ladder_bytes(device)),
        "timing_iterations": str(BuildOptions().timing_iterations),
    }


def workspace_ladder_bytes(device: DeviceSnapshot) -> Sequence[int]:
    """Return the workspaces to try, in bytes, the largest first.

    On a GPU that shares the board's memory the largest is about a sixteenth of that memory.
    """
    gpu = computing_gpu(device.gpus)
    largest_bytes = _LADDER_BYTES[0]
    if gpu is not None and gpu.integrated and device.memory_total_bytes:
        largest_bytes = device.memory_total_bytes // _SHARED_MEMORY_PARTS
    # A 4 GB board reports a little less, since the kernel keeps some: allow half a step.
    return [size for size in _LADDER_BYTES if size <= 1.5 * largest_bytes] or [_SMALLEST_BYTES]


def _failure(scratch: str, ended: Ended, watcher: Watcher, tried_bytes: Sequence[int]) -> RunFailedError:
    failure = read_outcome(scratch, ended, protocol.decode_build_failure)
    seen = "workspaces of {} MiB were tried; the board had at least {} bytes left, swap in use reached {} bytes".format(
        ", ".join(str(size >> 20) for size in tried_bytes),
        *(
            "unknown" if value is None else int(value)
            for value in (
                watcher.recorder.extreme("board_available_bytes", min),
                watcher.recorder.extreme("swap_used_bytes", max),
            )
        ),
    )
    if failure is None:
        return crash(ended, seen, _FAILURES)
    message = failure.failure_message
    if failure.failure_type == "build_oom":
        message = "{} ({})".format(message, seen)
    return RunFailedError(failure.failure_type, message)


def _digest(settings: Mapping[str, str]) -> str:
    digest: str = new_sha256(json.dumps(sorted(settings.items())).encode()).hexdigest()
    return digest[:32]
