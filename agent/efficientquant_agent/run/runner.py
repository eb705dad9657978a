"""The parent's half of a run, from board setup to result.

It sets the clocks, starts the children, and turns whatever happens into a result.
"""

import contextlib
import os
import shutil
import tempfile
import time
from typing import Callable, Iterator

from efficientquant_agent import backends
from efficientquant_agent.backends.base import UnknownBackendError
from efficientquant_agent.errors import ClockError, RunFailedError
from efficientquant_agent.host import clocks
from efficientquant_agent.host.board import Board
from efficientquant_agent.host.clocks import ClockControl, ClockRequest
from efficientquant_agent.host.device import discrete_gpu
from efficientquant_agent.records import Assignment, Finding, RunResult
from efficientquant_agent.run.engines import Engines
from efficientquant_agent.run.steps import Files, Progress, Steps
from efficientquant_agent.run.watcher import Cancellation


class Runner:
    """A runner of assignments, one at a time.

    Each run has its own child processes.
    """

    def __init__(self, device_name: str, state_dir: str, board: Board, log: Callable[[str], None]) -> None:
        self._device_name = device_name
        self._scratch_root = os.path.join(state_dir, "scratch")
        self._journal_path = clocks.journal_path(state_dir)
        self._engines = Engines(state_dir, board.plan_cache_bytes, device_name)
        self._board = board
        self._clocks = board.clocks or ClockControl()
        self._log = log
        os.makedirs(self._scratch_root, exist_ok=True)
        for leftover in os.listdir(self._scratch_root):  # left by a killed agent
            shutil.rmtree(os.path.join(self._scratch_root, leftover))

    def run(
        self, assignment: Assignment, files: Files, result: RunResult, cancellation: Cancellation, progress: Progress
    ) -> RunResult:
        """Do a run and return `result` with everything known about it.

        A failed run also gives a result. Raises RunFailedError("load_failed") for a
        backend that this agent has no code for.
        """
        try:
            backends.find(assignment.backend)
        except UnknownBackendError as error:
            raise RunFailedError("load_failed", "{}; upgrade it, or choose another backend".format(error)) from error
        result = result._replace(started_unix_s=time.time(), started_monotonic_s=time.monotonic())
        scratch = tempfile.mkdtemp(dir=self._scratch_root)
        steps = Steps(self._board, self._engines, assignment, files, result, scratch, cancellation, progress, self._log)
        try:
            with self._set_clocks(assignment, steps):
                steps.do(self._device_name)
        except RunFailedError as error:
            steps.fail(error)
        finally:
            finished = steps.finish()
            shutil.rmtree(scratch)
        return finished

    @contextlib.contextmanager
    def _set_clocks(self, assignment: Assignment, steps: Steps) -> Iterator[None]:
        """Set the requested clocks and always restore the previous ones.

        Raises RunFailedError("clocks_failed") when they cannot be set. A failed restore is a finding.
        """
        measurement = assignment.measurement
        gpu = discrete_gpu(steps.result.device.gpus)
        request = ClockRequest(
            measurement.power_mode, measurement.lock_clocks, gpu.uuid if gpu and measurement.lock_clocks else ""
        )
        if request.power_mode or request.lock:
            steps.progress("clocks", 0.0)
        try:
            applied = self._clocks.apply(request, self._journal_path)
        except ClockError as error:
            raise RunFailedError("clocks_failed", str(error)) from error
        steps.conditions.update(applied.conditions())
        steps.readings = steps.readings._replace(**applied.readings().known())
        try:
            yield
        finally:
            try:
                self._clocks.restore(self._journal_path)
            except ClockError as error:
                self._log(str(error))
                steps.findings.append(Finding("clocks", "soft", str(error)))
