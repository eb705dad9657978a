"""A whole run of the agent without a controller.

It has the agent's runner, child processes, samplers and result.
"""

import importlib.util
import os
import shutil
import statistics
import tempfile
import uuid

from efficientquant_agent import backends
from efficientquant_agent.host.board import Board
from efficientquant_agent.host.clocks import ClockControl
from efficientquant_agent.host.device import DeviceFiles, discrete_gpu, runtimes
from efficientquant_agent.records import Assignment, Measurement, RunResult
from efficientquant_agent.run.runner import Runner
from efficientquant_agent.run.steps import Files
from efficientquant_agent.run.watcher import Cancellation

from gpu_check import tiny_model
from gpu_check.rows import Absent, Seen

# Below a check's own share of the time, so that the report has the agent's own sentence.
TIMEOUT_S = 18.0
MEASUREMENT = Measurement(
    tier="smoke",
    min_time_s=1.0,
    min_count=64,
    warmup_min_time_s=0.2,
    warmup_min_count=10,
    warmup_max_time_s=2.0,
    input_count=3,
    input_seed=7,
    intra_op_threads=0,
    sampling_interval_s=0.05,
)


def check(backend) -> Seen:
    """Run the model once and check the result.

    It must have all latencies, the expected outputs and the GPU's series, and fit on the wire. Raises Absent without
    the backend, and AssertionError when the agent does not offer it or the run fails.
    """
    if backend.probe() is None:
        raise Absent("backend '{}' is not here".format(backend.name))
    installed = runtimes()
    if backend.name not in [info.name for info in installed.backends]:
        reason = "; ".join(installed.broken) or "it says no reason"
        raise AssertionError("the agent does not offer it: {}".format(reason))
    device = DeviceFiles().snapshot(
        installed.library_versions, installed.backends, installed.gpus, installed.cuda_version, ClockControl().access()
    )
    result, log = _run(backend.name, device)
    if result.failure_type:
        tail = " | ".join(list(result.log_tail)[-5:] + log[-3:])
        raise AssertionError("{}: {} ({})".format(result.failure_type, result.failure_message, tail))
    yield "provider", _require(result.providers, list(result.providers))
    yield (
        "latency",
        _require(
            len(result.latency_s) >= MEASUREMENT.min_count,
            "p50 {:.0f} µs of {}".format(statistics.median(result.latency_s) * 1e6, len(result.latency_s)),
        ),
    )
    yield "device latency", "{} samples by CUDA events".format(len(result.device_latency_s))
    yield "outputs", _require(result.agreement, "max abs difference {:.2e}".format(result.agreement.max_abs))
    yield "stages", ", ".join("{} {:.3f} s".format(stage.stage, stage.duration_s) for stage in result.stages)
    yield (
        "series",
        _require(
            not _sees_nvml(backend.name, device) or "gpu_used_bytes" in [series.name for series in result.series],
            ", ".join("{} × {}".format(series.name, len(series.value)) for series in result.series),
        ),
    )
    yield "conditions", dict(result.conditions)
    yield "findings", "; ".join(finding.message for finding in result.findings) or "none"
    yield "for the wire", _encoded(result)


def _run(backend_name, device):
    """Return the result of one run and the runner's log."""
    log = []
    folder = tempfile.mkdtemp(prefix="efficientquant-gpu-check-")
    try:
        runner = Runner("gpu-check", folder, Board(tegrastats=shutil.which("tegrastats") or ""), log.append)
        assignment = Assignment(
            run_id=uuid.uuid4().hex,
            job_id="gpu-check",
            campaign_id="gpu-check",
            attempt=1,
            repeat_index=0,
            model="tiny",
            recipe="fp32",
            sha256="",
            size_bytes=os.path.getsize(tiny_model.MODEL),
            backend=backend_name,
            measurement=MEASUREMENT,
            timeout_s=TIMEOUT_S,
        )
        empty = RunResult(assignment.run_id, "gpu-check", 1, device, backend_name)
        cancellation = Cancellation()
        files = Files(tiny_model.MODEL, tiny_model.REFERENCE)
        result = runner.run(assignment, files, empty, cancellation, lambda _phase, _fraction: None)
        cancellation.close()
    finally:
        shutil.rmtree(folder)
    return result, log


def _sees_nvml(backend_name, device):
    """Tell whether the run must have watched a discrete GPU by NVML."""
    watched = backends.find(backend_name).uses_gpu and discrete_gpu(device.gpus) is not None
    return watched and importlib.util.find_spec("pynvml") is not None


def _require(holds, seen):
    return seen if holds else AssertionError("{}: too little".format(seen))


def _encoded(result):
    """Return the size of the result on the wire, as text.

    Returns Absent without protobuf, which only the wire needs.
    """
    try:
        from efficientquant_agent.link.messages import encode_result
    except ImportError as error:
        return Absent("{}: nothing was sent to a controller".format(error))
    return "{} bytes; nothing was sent to a controller".format(len(encode_result(result)))
