"""The child process of one run.

It loads the model, measures, and leaves its result in files. It reads a protocol.RunSpec from standard input, writes
progress as JSON lines to the original standard output, and leaves a protocol.Outcome. It exits with 0 whenever the
outcome says how the run went. After a bug the outcome has what was measured until then.
"""

import contextlib
import json
import math
import os
import sys
import time
import traceback
from array import array
from typing import Any, Callable, ContextManager, Iterator, List, Mapping, Optional, Sequence, TextIO, Tuple, Type

from efficientquant_agent import backends, protocol
from efficientquant_agent.backends.base import (
    Backend,
    BackendBrokenError,
    InferenceError,
    LoadedModel,
    LoadError,
    LoadOptions,
    OutOfMemoryError,
    StalePlanError,
    error_for,
    ran_out_of_memory,
)
from efficientquant_agent.backends.cudart import CudaError
from efficientquant_agent.child import contention, timed_loop
from efficientquant_agent.child.own_memory import OwnMemory
from efficientquant_agent.child.page_cache import drop_page_cache
from efficientquant_agent.child.process import die_with_parent, read_spec, volunteer_for_oom_kill
from efficientquant_agent.child.reference import (
    MIN_COSINE,
    Reference,
    WrongReferenceError,
    check_shapes,
    compare,
    seeded_feeds,
)
from efficientquant_agent.child.reference import read as read_reference
from efficientquant_agent.errors import RunFailedError
from efficientquant_agent.files import has_no_room
from efficientquant_agent.protocol import Outcome, RunSpec
from efficientquant_agent.records import Finding, Readings, StageTiming, Window
from efficientquant_agent.streams import claim_standard_output

_PROFILE_REPEATS = 20

Progress = Callable[[str, float], None]


def main() -> None:
    """Do the run that standard input describes."""
    spec = read_spec(protocol.decode_run_spec)
    die_with_parent(spec.parent_pid)
    volunteer_for_oom_kill()
    report = claim_standard_output()
    run = Run(spec, lambda phase, fraction: _report(report, phase, fraction))
    has_bug = True
    try:
        run.attempt()
        has_bug = False
    finally:
        if has_bug:
            run.note_bug()
        protocol.write(os.path.join(spec.scratch, protocol.OUTCOME_FILE), run.outcome())
        if has_bug:  # its traceback is on standard error, and another exit code would mean no result
            raise SystemExit(0)


def _report(stream: TextIO, phase: str, fraction: float) -> None:
    stream.write(json.dumps({"phase": phase, "fraction": fraction}) + "\n")
    stream.flush()


class Run:
    """The steps of one run, in order.

    Latencies go to files in the scratch directory, the rest into the outcome as soon as it is known.
    """

    def __init__(self, spec: RunSpec, progress: Progress) -> None:
        self._spec = spec
        self._measurement = spec.measurement
        self._progress = progress
        self._measured = False
        self._stages: List[StageTiming] = []
        self._windows: List[Window] = []
        self._memory = OwnMemory()
        self._findings: List[Finding] = []
        self._known = Outcome()

    def outcome(self) -> Outcome:
        """Return the outcome as known so far."""
        return self._known._replace(
            stages=self._stages, windows=self._windows, own_pss=self._memory.pss, findings=self._findings
        )

    def attempt(self) -> None:
        """Do the run, and record a failure in the outcome.

        The types are "load_failed", "stale_plan", "wrong_outputs", "runtime_error" and "runtime_oom".
        """
        try:
            self._do()
        except RunFailedError as error:
            self._fail(error.failure_type, str(error))
        except StalePlanError as error:
            self._fail("stale_plan", str(error))
        except (LoadError, WrongReferenceError) as error:
            self._fail("load_failed", str(error))
        except InferenceError as error:
            self._fail("runtime_error", str(error))
        except CudaError as error:
            self._fail("runtime_oom" if ran_out_of_memory(str(error)) else "runtime_error", str(error))
        except OutOfMemoryError as error:
            self._fail("runtime_oom", str(error))
        except MemoryError:
            self._fail("runtime_oom", "memory ran out inside the run's process")

    def note_bug(self) -> None:
        """Record the current exception as a bug in the agent.

        A finished measurement is kept.
        """
        traceback.print_exc()
        kind, error = sys.exc_info()[:2]
        is_full = isinstance(error, OSError) and has_no_room(error)
        cause = "the disk had no room during the run: " if is_full else "bug in the agent: "
        sentence = cause + traceback.format_exception_only(kind, error)[-1].strip()
        if self._measured:
            self._find("agent", sentence + "; what comes after the measurement is missing")
        else:
            self._fail("agent_error", sentence)

    def _fail(self, failure_type: str, message: str) -> None:
        self._know(failure_type=failure_type, failure_message=message)

    def _know(self, **facts: Any) -> None:
        self._known = self._known._replace(**facts)

    def _add_readings(self, **readings: Any) -> None:
        self._know(readings=self._known.readings._replace(**readings))

    def _find(self, check: str, message: str) -> None:
        self._findings.append(Finding(check, "info", message))

    def _do(self) -> None:
        """Load, check, warm up and measure, then run the post-measurement steps.

        Failures after the measurement are recorded as findings. Raises what the backend raises, WrongReferenceError,
        and RunFailedError for a failure that already has a type.
        """
        backend = find_backend(self._spec.backend, self._spec.device_name)
        self._progress("load", 0.0)
        self._memory.reset_peak()
        with self._window("load"):
            model = self._load(backend)
        inputs = self._first_inference(model)
        session_options = dict(model.session_options, measuring_thread_cpus=keep_off_last_cpu())
        self._know(
            providers=list(model.providers),
            library_versions=backend.library_versions(),
            session_options=session_options,
            readings=Readings(
                device_memory_bytes=model.device_memory_bytes(),
            ),
        )
        self._measure(model, inputs)
        self._measured = True
        # Only now is it known which options had to be dropped, such as a CUDA graph.
        self._know(session_options=dict(session_options, **model.session_options))
        with self._afterwards("engine_report", "what the runtime made of the model is not known"):
            self._describe(model)
        if self._measurement.profile_layers:
            with self._afterwards("layers", "the layers were not timed"):
                self._profile(model, inputs)
        with self._afterwards("warm_load", "the warm load was not timed"):
            model.close()
            del model
            if backend.loads_quickly:
                self._load_again(backend)

    @contextlib.contextmanager
    def _afterwards(self, check: str, consequence: str) -> Iterator[None]:
        """Run a post-measurement step, and record its failure as a finding."""
        try:
            yield
        except (BackendBrokenError, LoadError, InferenceError, OutOfMemoryError, CudaError, OSError) as error:
            self._find(check, "{}: {}".format(consequence, error))
        except MemoryError:
            self._find(check, "{}: memory ran out inside the run's process".format(consequence))

    def _load(self, backend: Type[Backend]) -> LoadedModel:
        try:
            return load(backend, self._spec.content_path, self._options(), self._stage)
        except CudaError as error:  # while it loads, every CUDA error except a lack of memory is a LoadError
            raise error_for(str(error), LoadError) from error

    def _options(self) -> LoadOptions:
        measurement = self._measurement
        return LoadOptions(
            measurement.intra_op_threads,
            measurement.cuda_graph,
            measurement.sync_mode or "spin",
            measurement.memory_kind or "auto",
        )

    def _first_inference(self, model: LoadedModel) -> List[Any]:
        """Stage the inputs, time the first inference, and return the inputs.

        With a reference, the outputs are compared with its outputs.
        """
        shapes = model.input_shapes()
        reference = self._reference(shapes)
        count = max(1, self._measurement.input_count)
        feeds = reference.feeds if reference else seeded_feeds(shapes, count, self._measurement.input_seed)
        inputs = model.stage(feeds)
        with self._stage("first_inference"):
            model.run_once(inputs[0])
        if reference:
            self._check(model, inputs, reference)
        return inputs

    def _reference(self, shapes: Mapping[str, Tuple[int, ...]]) -> Optional[Reference]:
        if not self._spec.reference_path:
            return None
        with open(self._spec.reference_path, "rb") as stream:
            reference = read_reference(stream.read())
        check_shapes(reference, shapes)
        return reference

    def _check(self, model: LoadedModel, inputs: List[Any], reference: Reference) -> None:
        agreement = compare(reference.outputs, [model.outputs(staged) for staged in inputs])
        self._know(agreement=agreement)
        if agreement.cosine < MIN_COSINE:
            raise RunFailedError(
                "wrong_outputs",
                "the model answers differently here: cosine {:.4f} to the reference outputs (at least {}), largest "
                "difference {:.4g}, {} of {} with the same answer; nothing was measured".format(
                    agreement.cosine, MIN_COSINE, agreement.max_abs, agreement.argmax_matches, agreement.count
                ),
            )

    def _measure(self, model: LoadedModel, inputs: List[Any]) -> None:
        scratch = self._spec.scratch
        with self._window("warmup"):
            warm_up = timed_loop.warm_up(
                model.run_once, inputs, self._measurement, lambda fraction: self._progress("warmup", fraction)
            )
        self._know(warmup_converged=warm_up.converged)
        _save(scratch, protocol.WARMUP_FILE, warm_up.latency_s)
        device_s = None if math.isnan(model.device_s()) else model.device_s
        with self._window("measure"):
            before = contention.snapshot()
            measured = timed_loop.measure(
                model.run_once,
                inputs,
                self._measurement,
                lambda fraction: self._progress("measure", fraction),
                device_s,
            )
            after = contention.snapshot()
        self._add_readings(**contention.shares(before, after), **self._memory.readings())
        for problem in self._memory.problems:
            self._find("memory", problem)
        _save(scratch, protocol.LATENCY_FILE, measured.latency_s)
        _save(scratch, protocol.DEVICE_LATENCY_FILE, measured.device_latency_s)

    def _describe(self, model: LoadedModel) -> None:
        report = model.report()
        self._know(realised_precision=dict(report.realised_precision), layers=[dict(layer) for layer in report.layers])

    def _profile(self, model: LoadedModel, inputs: List[Any]) -> None:
        """Add each layer's mean time to its description.

        A layer that the report does not name is added.
        """
        self._progress("profile", 0.0)
        times_s = dict(model.profile_layers(inputs[0], _PROFILE_REPEATS))
        layers = [dict(layer) for layer in self._known.layers]
        for layer in layers:
            if layer.get("name") in times_s:
                layer["mean_s"] = times_s.pop(layer["name"])
        layers += [{"name": name, "mean_s": time_s} for name, time_s in times_s.items()]
        self._know(layers=layers)

    def _load_again(self, backend: Type[Backend]) -> None:
        """Time a second, warm load by stage.

        The file is in the page cache and the runtime is initialized.
        """
        load(backend, self._spec.content_path, self._options(), self._warm_stage, drop_cache=False).close()

    @contextlib.contextmanager
    def _window(self, name: str) -> Iterator[None]:
        started_s = time.monotonic()
        try:
            yield
        finally:
            self._windows.append(Window(name, started_s, time.monotonic()))
            self._memory.note(with_uss=name != "load")

    @contextlib.contextmanager
    def _stage(self, name: str, **facts: Any) -> Iterator[None]:
        started_s = time.perf_counter()
        yield
        self._stages.append(StageTiming(name, time.perf_counter() - started_s, **facts))

    def _warm_stage(self, name: str, **facts: Any) -> ContextManager[None]:
        return self._stage("warm_" + name, **facts)


def find_backend(name: str, device_name: str) -> Type[Backend]:
    """Return the backend of this name if its runtime works here.

    Raises RunFailedError("load_failed") if it does not. If it does, no other runtime is loaded, because that memory
    would count as the model's.
    """
    for backend in backends.known():
        if backend.name == name:
            try:
                if backend.probe() is not None:
                    return backend
            except BackendBrokenError as error:
                message = "backend '{}' does not work on {}: {}".format(name, device_name, error)
                raise RunFailedError("load_failed", message) from error
    raise RunFailedError(
        "load_failed",
        "backend '{}' is not available on {} (available: {}); install its runtime there and restart the agent, "
        "or choose an available one".format(name, device_name, ", ".join(_available()) or "none"),
    )


def _available() -> List[str]:
    """Return the names of the backends whose runtimes work here."""
    names = []
    for backend in backends.known():
        with contextlib.suppress(BackendBrokenError):
            if backend.probe() is not None:
                names.append(backend.name)
    return sorted(names)


def load(
    backend: Type[Backend],
    path: str,
    options: LoadOptions,
    stage: Callable[..., ContextManager[None]],
    drop_cache: bool = True,
) -> LoadedModel:
    """Load a model from a file, each step in a `stage`.

    The steps are "read", then the backend's own.
    """
    cold = drop_page_cache(path) if drop_cache else False
    with stage("read", size_bytes=os.stat(path).st_size, cold=cold), open(path, "rb") as stream:
        content = stream.read()
    return backend.load(content, options, stage)


def keep_off_last_cpu() -> str:
    """Move this thread off the last CPU, which the sampler uses.

    With one or two CPUs nothing changes. Returns this thread's CPUs as text, e.g. "0,1,2". The runtime's own threads
    keep every CPU, because this is called after they were started.
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
