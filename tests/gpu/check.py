"""What `make gpu-check` runs: all that can only be seen on a machine with an NVIDIA GPU, into a dated report.

It needs the agent alone and runs on Python 3.6 too: on a Jetson, `python3 tests/gpu/check.py` in the agent's venv.
"""

import contextlib
import ctypes
import datetime
import itertools
import platform
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path

from efficientquant_agent.backends import cudart
from efficientquant_agent.backends.base import BuildOptions, LoadOptions, StalePlanError
from efficientquant_agent.backends.ort import OrtCpu, OrtCuda, OrtTensorrt
from efficientquant_agent.backends.trt import Tensorrt, TensorrtRtx
from efficientquant_agent.samplers import nvml

ROOT = Path(__file__).resolve().parent.parent.parent
REPORTS = ROOT / "docs" / "gpu-checks"
MODEL = ROOT / "tests" / "fixtures" / "models" / "tiny.onnx"
QUERIES = 200
# FP32 without TF32 on another device sums in another order; FP16 has 11 bits.
MAX_ABS = {"fp32": 1e-4, "fp16": 2e-2}
BUFFER_BYTES = 1 << 20


class Absent(Exception):  # noqa: N818 — no error: what is to be checked is not installed
    """There is nothing to check."""


def main(reports=REPORTS):
    """Run every check, write the report and return the exit code: 1 where a check failed, 2 without a GPU."""
    try:
        gpu = cudart.gpus()[0]
    except cudart.CudaError as error:
        sys.stderr.write(f"gpu-check needs an NVIDIA GPU: {error}\n")
        return 2
    rows = [row for name, check in CHECKS for row in run(name, check)]
    reports.mkdir(parents=True, exist_ok=True)
    slug = re.sub(r"[^a-z0-9]+", "-", gpu.name.lower()).strip("-")
    path = reports / f"{datetime.date.today().isoformat()}-{slug}.md"
    path.write_text(report(gpu, rows), encoding="utf-8")
    failed = sum(outcome == "FAILED" for _, outcome, _ in rows)
    sys.stdout.write(f"{len(rows)} checks, {failed} failed: {path}\n")
    return 1 if failed else 0


def run(name, check):
    """Yield the rows of a check, (what, "ok" | "absent" | "FAILED", what was seen); its exception is a row too."""
    try:
        for what, seen in check():
            outcome = "ok"
            if isinstance(seen, Exception):
                outcome, seen = "FAILED", f"{type(seen).__name__}: {seen}"
            yield f"{name}: {what}" if what else name, outcome, str(seen)
    except Absent as reason:
        yield name, "absent", str(reason)
    except Exception as error:  # noqa: BLE001 — whatever goes wrong is what this report is for
        yield name, "FAILED", f"{type(error).__name__}: {error}"


def report(gpu, rows):
    """Return the report as Markdown."""
    lines = [
        f"# {gpu.name}, {datetime.date.today().isoformat()}",
        "",
        f"SM {gpu.compute_capability}, driver {gpu.driver_version}, CUDA {cudart.open_library().runtime_version()}, "
        f"Python {platform.python_version()}, {platform.machine()}. Written by `make gpu-check`.",
        "",
        "| check | outcome | seen |",
        "|---|---|---|",
    ]
    for row in rows:
        lines.append("| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in row) + " |")
    return "\n".join(lines) + "\n"


def check_nvml():
    """Every quantity of NVML, read once."""
    gpu = nvml.open_gpu()
    if gpu is None:
        raise Absent("no NVML here, or no module pynvml")
    try:
        for sampler in nvml.board_samplers(gpu):
            yield sampler.name, sampler.sample()
        yield "power is instantaneous", nvml.has_instant_power(gpu)
    finally:
        gpu.close()


def check_buffers():
    """What is copied to the device and back is what it was, from pinned and mapped memory, and by a graph."""
    cuda = cudart.open_library()
    stream, start, end = cuda.stream_create(), cuda.event_create(), cuda.event_create()
    device = cuda.malloc(BUFFER_BYTES)
    for kind in ("pinned", "mapped"):
        source, target = cuda.host_alloc(BUFFER_BYTES, kind), cuda.host_alloc(BUFFER_BYTES, kind)
        ctypes.memset(source.host, 0x5A, BUFFER_BYTES)
        cuda.event_record(start, stream)
        cuda.copy_to_device(device, source.host, BUFFER_BYTES, stream)
        cuda.copy_to_host(target.host, device, BUFFER_BYTES, stream)
        cuda.event_record(end, stream)
        cuda.stream_synchronize(stream)
        assert ctypes.string_at(target.host, BUFFER_BYTES) == b"\x5a" * BUFFER_BYTES
        yield f"{kind} round trip of 1 MiB", f"{cuda.elapsed_s(start, end) * 1e6:.1f} µs by events"
        ctypes.memset(target.host, 0, BUFFER_BYTES)
        with cuda.capture(stream) as captured:
            cuda.copy_to_host(target.host, device, BUFFER_BYTES, stream)
        cuda.graph_launch(captured[0], stream)
        cuda.stream_synchronize(stream)
        assert ctypes.string_at(target.host, BUFFER_BYTES) == b"\x5a" * BUFFER_BYTES
        cuda.graph_destroy(captured[0])
        yield f"{kind} by a CUDA graph", "the same bytes"


def check_onnx_runtime(backend):
    """ONNX Runtime's provider answers as its CPU does."""
    if backend.probe() is None:
        raise Absent(f"onnxruntime without {backend._providers[0]}")
    model = backend.load(MODEL.read_bytes(), LoadOptions(), no_stage)
    yield "against the CPU", compared(model, MAX_ABS["fp32"])
    yield "session", dict(model.session_options, providers=list(model.providers))


def check_tensorrt(backend):
    """Build, load, run and compare in every mode."""
    info = backend.probe()
    if info is None:
        raise Absent(f"{backend._product} is not installed")
    yield "version", info.version
    with tempfile.TemporaryDirectory() as folder:
        plans = {"fp32": build(backend, folder, ())}
        yield "build", plans["fp32"][1]
        if backend is Tensorrt and hasattr(backend._module().BuilderFlag, "FP16"):
            plans["fp16"] = build(backend, folder, ("fp16",))
            yield "build with FP16", plans["fp16"][1]
    for precision, kind, graph, sync in itertools.product(
        plans, ("pinned", "mapped", "device"), (False, True), ("spin", "block")
    ):
        options = LoadOptions(cuda_graph=graph, sync_mode=sync, memory_kind=kind)
        what = f"{precision}, {kind}, graph {'on' if graph else 'off'}, {sync}"
        try:
            yield what, one_mode(backend, plans[precision][0], options, MAX_ABS[precision])
        except Exception as error:  # noqa: BLE001 — the other modes go on
            yield what, error
    content = plans["fp32"][0]
    try:
        backend.load(content[: len(content) // 2], LoadOptions(), no_stage)
    except StalePlanError as error:
        yield "half a plan is refused", str(error)
    else:
        raise AssertionError("half a plan was loaded")


def one_mode(backend, content, options, limit):
    """Return what was seen of a plan in one mode: outputs, times, graph, layers, profile, memory."""
    model = backend.load(content, options, no_stage)
    try:
        (staged, *_) = model.stage(feeds(model))
        return (
            f"{compared(model, limit)}; {timed(model)}; graph {model.session_options['cuda_graph']}; layers "
            f"{dict(model.report().realised_precision)}, {len(model.profile_layers(staged, 10))} of them profiled; "
            f"{model.device_memory_bytes()} bytes of device memory"
        )
    finally:
        model.close()


def build(backend, folder, flags):
    """Return a plan's content and how it was built."""
    plan, timings = Path(folder, "model.plan"), Path(folder, "timing.cache")
    options = BuildOptions(builder_flags=flags, timing_cache_path=str(timings))
    made = backend.build(str(MODEL), str(plan), options, lambda _line: None)
    return plan.read_bytes(), f"{made.build_s:.1f} s, {made.engine_bytes} bytes, {dict(made.settings)}, {made.notes}"


def compared(model, limit):
    """Return how far the outputs lie from those of ONNX Runtime on the CPU; AssertionError beyond the limit."""
    import numpy as np

    if OrtCpu.probe() is None:
        raise Absent("onnxruntime is not installed: nothing to compare with")
    reference = OrtCpu.load(MODEL.read_bytes(), LoadOptions(), no_stage)
    worst = 0.0
    inputs = feeds(model)
    for ours, theirs in zip(model.stage(inputs), reference.stage(inputs)):  # noqa: B905 — not on Python 3.6
        for mine, wanted in zip(model.outputs(ours), reference.outputs(theirs)):  # noqa: B905
            worst = max(worst, float(np.abs(mine - wanted).max()))
    assert worst <= limit, f"max |Δ| {worst:.2e} is over {limit:.0e}"
    return f"max abs difference {worst:.2e}"


def timed(model):
    """Return the medians of host and device time over some queries, after as many for warming up."""
    staged = model.stage(feeds(model))
    host_s, device_s = [], []
    for one in itertools.islice(itertools.cycle(staged), 2 * QUERIES):
        started_s = time.perf_counter()
        model.run_once(one)
        host_s.append(time.perf_counter() - started_s)
        device_s.append(model.device_s())
    host, device = (statistics.median(values[QUERIES:]) for values in (host_s, device_s))
    assert 0 < device <= host * 1.05, f"device time {device} s, host time {host} s"
    return f"p50 host {host * 1e6:.0f} µs, device {device * 1e6:.0f} µs"


def feeds(model):
    """Return three different inputs."""
    import numpy as np

    random = np.random.RandomState(7)
    shapes = model.input_shapes()
    return [{name: random.random_sample(shape).astype(np.float32) for name, shape in shapes.items()} for _ in range(3)]


@contextlib.contextmanager
def no_stage(_name):
    """Stand for the timing of a stage."""
    yield


CHECKS = (
    ("NVML", check_nvml),
    ("CUDA runtime", check_buffers),
    ("ONNX Runtime CUDA", lambda: check_onnx_runtime(OrtCuda)),
    ("ONNX Runtime TensorRT", lambda: check_onnx_runtime(OrtTensorrt)),
    ("TensorRT", lambda: check_tensorrt(Tensorrt)),
    ("TensorRT-RTX", lambda: check_tensorrt(TensorrtRtx)),
)

if __name__ == "__main__":
    sys.exit(main())
