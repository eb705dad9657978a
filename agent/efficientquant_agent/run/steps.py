"""The steps of one run, on the parent's side.

They are: build, cool down, rest, measure, rest. After a failure the result has everything that is known by then.
"""

import json
import os
import time
from typing import Callable, Dict, List, NamedTuple, Optional

from efficientquant_agent import backends, protocol
from efficientquant_agent.errors import RunFailedError
from efficientquant_agent.host.board import Board
from efficientquant_agent.host.device import discrete_gpu
from efficientquant_agent.protocol import Outcome, RunSpec
from efficientquant_agent.records import (
    Assignment,
    EngineInfo,
    Finding,
    Readings,
    RunResult,
    Series,
    StageTiming,
    Window,
)
from efficientquant_agent.run import preflight
from efficientquant_agent.run.children import crash, read_outcome, read_samples, run_child
from efficientquant_agent.run.engines import Engines, PreparedEngine
from efficientquant_agent.run.watcher import Cancellation, SeriesRecorder, Watcher

Progress = Callable[[str, float], None]
_FAILURES = {"oom": "runtime_oom", "other": "runtime_error"}
# The stages before loading.
_STAGES_BEFORE_LOAD = ("transfer", "parse", "build")


class Files(NamedTuple):
    """The files fetched for a run.

    `reference` is empty without one.
    """

    artifact: str
    reference: str = ""


class Steps:
    """The steps of one run."""

    def __init__(
        self,
        board: Board,
        engines: Engines,
        assignment: Assignment,
        files: Files,
        result: RunResult,
        scratch: str,
        cancellation: Cancellation,
        progress: Progress,
        log: Callable[[str], None],
    ) -> None:
        self.result = result
        self.progress = progress
        self.conditions: Dict[str, str] = {}
        self.readings = Readings()
        self.findings: List[Finding] = []
        self._board = board
        self._engines = engines
        self._assignment = assignment
        self._measurement = assignment.measurement
        self._files = files
        self._scratch = scratch
        self._backend = backends.find(assignment.backend)
        gpu = discrete_gpu(result.device.gpus if result.device else ())
        self._discovery = board.discover(
            self._measurement.sampling_interval_s, gpu.uuid if gpu else "", self._backend.uses_gpu
        )
        self._windows: List[Window] = []
        self._own_pss = Series("child_pss_bytes", [], [])
        # Since this time the model, not a build, changes the board's memory. None until then.
        self._model_since_s: Optional[float] = None
        recorder = SeriesRecorder(result.started_monotonic_s, log)
        recorder.add(self._discovery.samplers)
        self._watcher = Watcher(
            recorder, self._discovery.stream, self._measurement.sampling_interval_s, self._deadline_s(), cancellation
        )
        self.conditions.update(rail_set=self._discovery.rail_set, timing_mode="host end to end")
        self.findings += [Finding("sensor", "info", note) for note in self._discovery.notes]

    def do(self, device_name: str) -> None:
        """Build an engine if the backend needs one, then measure.

        A plan that does not load is rebuilt, once. Raises RunFailedError.
        """
        if not self._backend.builds:
            self._measure_between_rests(self._files.artifact, None, device_name)
            return
        try:
            engine = self._prepare_engine()
            self._measure_between_rests(engine.path, engine, device_name)
        except RunFailedError as error:
            if error.failure_type != "stale_plan":
                raise
            self.findings.append(Finding("engine", "info", "the kept engine did not load: {}".format(error)))
            self._engines.forget(engine)
            # The timings of the failed load do not belong to the next one.
            kept = [stage for stage in self.result.stages if stage.stage in _STAGES_BEFORE_LOAD]
            self.result = self.result._replace(stages=kept)
            del self._windows[:]
            engine = self._prepare_engine()
            self._measure_between_rests(engine.path, engine, device_name)

    def fail(self, error: RunFailedError) -> None:
        """Record the error that ended the run."""
        failure_type = "load_failed" if error.failure_type == "stale_plan" else error.failure_type
        self.result = self.result._replace(failure_type=failure_type, failure_message=str(error))

    def finish(self) -> RunResult:
        """Stop watching and return the result with everything known."""
        watcher = self._watcher
        cpu_s = watcher.cpu_s()
        series = watcher.close()
        if self._discovery.gpu is not None:
            self._discovery.gpu.close()
        if self._model_since_s is not None:
            self._mark("model", self._model_since_s)
        self.readings = self.readings._replace(sampler_cpu_s=cpu_s, sampler_wakeups=watcher.wakeups)
        return self.result._replace(
            duration_s=time.monotonic() - self.result.started_monotonic_s,
            windows=self._windows,
            conditions=self.conditions,
            findings=self.findings + watcher.recorder.findings,
            measured=self.readings.known(),
            series=_merged(series, self._own_pss),
        )

    def _deadline_s(self) -> float:
        timeout_s = self._assignment.timeout_s
        return self.result.started_monotonic_s + timeout_s if timeout_s > 0 else float("inf")

    def _require_alive(self) -> None:
        """Raise RunFailedError when the time is up or the run was cancelled."""
        if self._watcher.killed_for == "timeout":
            raise RunFailedError(
                "timeout", "killed after {:g} s, the run's time limit".format(self._assignment.timeout_s)
            )
        if self._watcher.killed_for:
            raise RunFailedError("cancelled", "cancelled by the controller")

    def _prepare_engine(self) -> PreparedEngine:
        self.progress("build", 0.0)
        started_s = time.monotonic()
        try:
            engine = self._engines.get(
                self._assignment,
                self._files.artifact,
                self.result.device,
                self.conditions,
                self._scratch,
                self._watcher,
                self.progress,
            )
        finally:
            self._mark("build", started_s)
            self._require_alive()
        timed = [("parse", engine.report.parse_s), ("build", engine.report.build_s)]
        if not engine.from_cache:
            self._add_stages([StageTiming(name, duration_s) for name, duration_s in timed])
        return engine

    def _measure_between_rests(self, content_path: str, engine: Optional[PreparedEngine], device_name: str) -> None:
        available_bytes = self._board.available_bytes()
        self.readings = self.readings._replace(
            board_available_before_bytes=available_bytes, swap_used_before_bytes=self._board.swap_used_bytes()
        )
        self._model_since_s = time.monotonic()
        preflight.require_memory(content_path, available_bytes)
        self._cool_down()
        self._note_neighbours("before")
        self._rest("idle_before")
        self._measure(content_path, engine, device_name)
        self._rest("idle_after")
        self._watcher.look()  # so that the last window ends before the last reading
        self._note_neighbours("after")

    def _note_neighbours(self, when: str) -> None:
        if self._backend.uses_gpu:
            findings = preflight.gpu_neighbours(self._discovery.gpu, [os.getpid()], when)
            self.findings += [finding for finding in findings if finding not in self.findings]

    def _cool_down(self) -> None:
        recorder = self._watcher.recorder
        gate = preflight.Gate(self._measurement.max_start_temperature_c, self._measurement.hot_zones)
        self._watcher.look()
        if gate.limit_c <= 0 or gate.is_open(recorder.latest):
            return
        self.progress("gate", 0.0)
        started_s = time.monotonic()
        cooled = self._watcher.wait_until(gate.is_open, self._measurement.gate_timeout_s)
        self._require_alive()
        if not cooled:
            self.findings.append(gate.too_hot(recorder.latest, time.monotonic() - started_s))

    def _rest(self, name: str) -> None:
        """Watch the board at rest if its power can be read.

        The power at rest is subtracted later. Raises RunFailedError when the run must end.
        """
        if self._measurement.idle_s > 0 and self._discovery.rail_set:
            self.progress("idle", 0.0)
            started_s = time.monotonic()
            self._watcher.rest(self._measurement.idle_s)
            self._mark(name, started_s)
            self._require_alive()

    def _mark(self, name: str, started_s: float) -> None:
        self._windows.append(Window(name, self._since_start(started_s), self._since_start(time.monotonic())))

    def _since_start(self, monotonic_s: float) -> float:
        return monotonic_s - self.result.started_monotonic_s

    def _measure(self, content_path: str, engine: Optional[PreparedEngine], device_name: str) -> None:
        spec = RunSpec(
            parent_pid=os.getpid(),
            scratch=self._scratch,
            backend=self._assignment.backend,
            device_name=device_name,
            content_path=content_path,
            reference_path=self._files.reference,
            measurement=self._measurement,
        )
        gpu = self._discovery.gpu
        ended = run_child(
            protocol.RUN_MODULE,
            spec,
            self._watcher,
            lambda pid: self._board.child_samplers(pid, gpu),
            self.progress,
        )
        self.result = self.result._replace(log_tail=ended.log_tail)
        self._require_alive()
        outcome = read_outcome(self._scratch, ended, protocol.decode_outcome)
        if outcome is None:
            raise crash(ended, self._memory_seen(), _FAILURES)
        self._record_outcome(outcome, engine)

    def _record_outcome(self, outcome: Outcome, engine: Optional[PreparedEngine]) -> None:
        """Record everything that a child reported, also after a failure.

        Raises RunFailedError when the child failed.
        """
        self._add_stages(list(outcome.stages))
        for window in outcome.windows:
            self._windows.append(
                Window(window.name, self._since_start(window.start_s), self._since_start(window.end_s))
            )
        self._own_pss.time_s.extend(self._since_start(time_s) for time_s in outcome.own_pss.time_s)
        self._own_pss.value.extend(outcome.own_pss.value)
        self.findings += outcome.findings
        self.readings = self.readings._replace(**outcome.readings.known())
        self.result = self.result._replace(
            library_versions=dict(self.result.library_versions, **outcome.library_versions),
            latency_s=read_samples(self._scratch, protocol.LATENCY_FILE),
            warmup_latency_s=read_samples(self._scratch, protocol.WARMUP_FILE),
            device_latency_s=read_samples(self._scratch, protocol.DEVICE_LATENCY_FILE),
            warmup_converged=outcome.warmup_converged,
            providers=outcome.providers,
            session_options=outcome.session_options,
            agreement=outcome.agreement,
            engine=_engine_info(engine, outcome),
        )
        if outcome.failure_type:
            raise RunFailedError(outcome.failure_type, outcome.failure_message)

    def _add_stages(self, stages: List[StageTiming]) -> None:
        self.result = self.result._replace(stages=list(self.result.stages) + stages)

    def _memory_seen(self) -> str:
        recorder = self._watcher.recorder
        return "its own memory peaked at {} bytes, the board had at least {} bytes left".format(
            *(
                "unknown" if value is None else int(value)
                for value in (recorder.extreme("child_pss_bytes", max), recorder.extreme("board_available_bytes", min))
            )
        )


def _engine_info(engine: Optional[PreparedEngine], outcome: Outcome) -> Optional[EngineInfo]:
    """Return the engine with its layers.

    A runtime that compiles in memory has layers and no file. None without both.
    """
    layers_json = json.dumps(outcome.layers)
    if engine is None:
        if not outcome.layers:
            return None
        return EngineInfo("", 0, False, 0, [], {}, outcome.realised_precision, layers_json)
    report = engine.report
    return EngineInfo(
        sha256=report.engine_sha256,
        size_bytes=report.engine_bytes,
        from_cache=engine.from_cache,
        workspace_bytes=report.workspace_bytes,
        notes=list(report.notes),
        settings=dict(report.settings),
        realised_precision=outcome.realised_precision,
        layers_json=layers_json,
    )


def _merged(series: List[Series], own: Series) -> List[Series]:
    """Merge the child's own readings into the parent's series, by time."""
    by_name = {item.name: item for item in series}
    if own.value:
        outside = by_name.get(own.name, Series(own.name, [], []))
        pairs = sorted(zip(outside.time_s + own.time_s, outside.value + own.value))
        by_name[own.name] = Series(own.name, [pair[0] for pair in pairs], [pair[1] for pair in pairs])
    return list(by_name.values())
