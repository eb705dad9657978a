"""TensorRT and TensorRT-RTX: build, load and run in every mode."""

import itertools
import os
import tempfile

from efficientquant_agent.backends.base import LoadOptions, StalePlanError
from efficientquant_agent.protocol import BuildOptions

from gpu_check import tiny_model
from gpu_check.rows import Absent, Seen

MODES = list(itertools.product(("pinned", "mapped", "device"), (False, True), ("spin", "block")))


def check(backend) -> Seen:
    """Build an engine, load it and compare its outputs in every mode.

    A mode is a kind of memory, a CUDA graph or none, and a kind of waiting. Raises Absent without the backend.
    """
    info = backend.probe()
    if info is None:
        raise Absent("{} is not installed".format(backend._product))
    yield "version", info.version
    with tempfile.TemporaryDirectory() as folder:
        plan, how = _build(backend, folder, ())
        plans = {"fp32": plan}
        yield "build", how
        if backend.name == "trt" and hasattr(backend._module().BuilderFlag, "FP16"):
            plans["fp16"], how = _build(backend, folder, ("fp16",))
            yield "build with FP16", how
    for precision, (kind, graph, sync) in itertools.product(plans, MODES):
        options = LoadOptions(cuda_graph=graph, sync_mode=sync, memory_kind=kind)
        what = "{}, {}, graph {}, {}".format(precision, kind, "on" if graph else "off", sync)
        try:
            yield what, _one_mode(backend, plans[precision], options, precision)
        except Exception as error:  # noqa: BLE001 — the other modes are still checked
            yield what, error
    try:
        backend.load(plans["fp32"][: len(plans["fp32"]) // 2], LoadOptions(), tiny_model.no_stage)
    except StalePlanError as error:
        yield "half a plan is refused", str(error)
    else:
        raise AssertionError("half a plan was loaded")


def _one_mode(backend, plan, options, precision):
    """Run a plan in one mode, and return its results as text.

    They are outputs, times, graph, layers, profile and memory.
    """
    model = backend.load(plan, options, tiny_model.no_stage)
    try:
        (staged, *_) = model.stage(tiny_model.expected().feeds)
        return "{}; {}; graph {}; layers {}, {} of them profiled; {} bytes of device memory".format(
            tiny_model.compared(model, precision),
            tiny_model.timed(model),
            model.session_options["cuda_graph"],
            dict(model.report().realised_precision),
            len(model.profile_layers(staged, 10)),
            model.device_memory_bytes(),
        )
    finally:
        model.close()


def _build(backend, folder, flags):
    """Build a plan, and return it with a description of the build."""
    path = os.path.join(folder, "model.plan")
    options = BuildOptions(builder_flags=flags, timing_cache_path=os.path.join(folder, "timing.cache"))
    made = backend.build(tiny_model.MODEL, path, options, lambda _line: None)
    with open(path, "rb") as stream:
        plan = stream.read()
    return plan, "{:.1f} s, {} bytes, {}, {}".format(
        made.build_s, made.engine_bytes, dict(made.settings), list(made.notes) or "as asked"
    )
