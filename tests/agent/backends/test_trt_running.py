"""The tests of loading and running engines, on stubs of every claimed release."""

import contextlib
import sys

import numpy as np
import pytest
from efficientquant_agent.backends import trt_log
from efficientquant_agent.backends.base import (
    InferenceError,
    LoadError,
    LoadOptions,
    OutOfMemoryError,
    StalePlanError,
)
from trt_api import RELEASES, RTX

NANO, XAVIER, TEN, ELEVEN = RELEASES[0], RELEASES[2], RELEASES[5], RELEASES[8]


def feed(value):
    return {"x": np.array([[value, 1, 2, 3]], np.float32)}


@pytest.mark.parametrize("cuda_graph", [False, True])
@pytest.mark.parametrize("memory_kind", ["pinned", "mapped", "device"])
@pytest.mark.parametrize("release", RELEASES)
def test_a_model_goes_all_the_way(install, load, cuda, release, memory_kind, cuda_graph):
    """Every step from building to closing works in every release, memory kind, and with a graph or without."""
    backend = install(release)
    model = load(backend, memory_kind=memory_kind, cuda_graph=cuda_graph)
    assert model.input_shapes() == {"x": (1, 4)}
    staged = model.stage([feed(5), feed(7)])

    for _ in range(3):
        for staged_input, value in zip(staged, (5, 7)):
            model.run_once(staged_input)
            assert model.device_s() == pytest.approx(0.001)
            assert model.outputs(staged_input)[0].tolist() == [[2 * value, 2, 4, 6]]

    assert all(bool(staged_input.graph) == cuda_graph for staged_input in staged)
    assert model.session_options["cuda_graph"] == ("on" if cuda_graph else "off")
    assert model.report().realised_precision == {"int8": 1, "fp16": 1, "fp32": 1, "unknown": 1}
    assert model.profile_layers(staged[0], 4) == [("doubling", 0.0005), ("the rest", 0.00025)]
    assert model.device_memory_bytes() == 4096  # the engine's own figure, because the buffers are smaller
    assert model.providers == [backend._product]
    model.close()
    assert not cuda.held()


@pytest.mark.parametrize("character", ["\n", "\t", "\x01"])
def test_control_characters_in_the_inspectors_text(install, load, monkeypatch, character):
    """Raw control characters inside a name cost no layer."""
    model = load(install(RELEASES[0]))
    text = '{{"Layers": [{{"Name": "a{}b", "Weights": {{"Type": "Half", "Count": 1}}}}]}}'.format(character)
    monkeypatch.setattr(type(model._engine.create_engine_inspector()), "get_engine_information", lambda *_: text)

    report = model.report()

    assert (report.realised_precision, report.layers[0]["name"]) == ({"fp16": 1}, "a{}b".format(character))


@pytest.mark.parametrize(
    "text", ["", "no JSON", "[]", "{}", '{"Layers": 5}', '{"Layers": "ab"}', '{"Layers": {}}', '{"Layers": [5]}']
)
def test_an_inspectors_text_that_cannot_be_read(install, load, monkeypatch, text):
    """A text without layers is an error, which becomes a note on the run."""
    model = load(install(RELEASES[0]))
    monkeypatch.setattr(type(model._engine.create_engine_inspector()), "get_engine_information", lambda *_: text)

    with pytest.raises(InferenceError, match="the engine inspector's text is no JSON"):
        model.report()


@pytest.mark.parametrize("release", RELEASES)
def test_running_allocates_nothing(install, load, cuda, release):
    """An inference allocates nothing, and has two events and one wait."""
    model = load(install(release), memory_kind="pinned")
    (staged,) = model.stage([feed(5)])
    del cuda.calls[:]

    model.run_once(staged)

    copies = ["cudaEventRecord", "cudaMemcpyAsync", "cudaMemcpyAsync", "cudaEventRecord", "cudaStreamSynchronize"]
    assert cuda.calls == copies


@pytest.mark.parametrize("release", RELEASES)
def test_a_stale_plan_is_recognized(install, untimed, release):
    """A plan that TensorRT does not accept is stale, so that it is built again."""
    with pytest.raises(StalePlanError, match="not compatible with this version"):
        install(release).load(b"of another GPU", LoadOptions(), untimed)


def test_loading_is_timed_in_stages(install, build):
    """CUDA's initialization, deserializing and creating the context are three stages."""
    stages = []

    @contextlib.contextmanager
    def stage(name):
        stages.append(name)
        yield

    backend = install(TEN)
    backend.load(build(backend)[0], LoadOptions(), stage)

    assert stages == ["cuda_init", "deserialize", "create_context"]


@pytest.mark.parametrize(("sync_mode", "flags"), [("spin", 8 | 1), ("block", 8 | 4)])
def test_how_the_host_waits(install, load, cuda, sync_mode, flags):
    """Spin and block are flags of the device, and are recorded."""
    model = load(install(NANO), sync_mode=sync_mode)

    assert cuda.flags == flags
    assert model.session_options["sync_mode"] == sync_mode


@pytest.mark.parametrize(("integrated", "kind"), [(0, "pinned"), (1, "mapped")])
def test_memory_is_mapped_where_it_is_shared(install, load, cuda, integrated, kind):
    """By default, memory is mapped on an integrated GPU and pinned elsewhere, and recorded."""
    cuda.attributes[18] = integrated

    assert load(install(XAVIER)).session_options["memory_kind"] == kind


def test_memory_that_cannot_be_mapped(install, load, cuda):
    """Mapped memory is refused on a GPU without it, with what to choose instead."""
    cuda.attributes[19] = 0

    with pytest.raises(LoadError, match="choose memory kind pinned or device"):
        load(install(XAVIER), memory_kind="mapped")


def test_a_graph_that_cannot_be_captured(install, load, cuda):
    """A model whose graph cannot be captured runs without it, and says why."""
    model = load(install(XAVIER), cuda_graph=True)
    (staged,) = model.stage([feed(5)])
    cuda.failures["cudaStreamBeginCapture"] = 900

    for _ in range(3):
        model.run_once(staged)

    assert model.outputs(staged)[0].tolist() == [[10, 2, 4, 6]]
    assert "off: could not be captured: cudaErrorStreamCaptureUnsupported" in model.session_options["cuda_graph"]


def test_a_failing_inference(install, load, cuda):
    """A CUDA error during inference is an InferenceError with the error's name."""
    model = load(install(TEN))
    (staged,) = model.stage([feed(5)])
    cuda.failures["cudaStreamSynchronize"] = 900

    with pytest.raises(InferenceError, match="cudaErrorStreamCaptureUnsupported"):
        model.run_once(staged)


@pytest.mark.parametrize("function", ["cudaHostAlloc", "cudaMemGetInfo"])
@pytest.mark.parametrize("release", [NANO, ELEVEN, RTX])
def test_loading_without_memory(install, load, cuda, release, function):
    """A lack of CUDA memory while loading is an OutOfMemoryError."""
    cuda.failures[function] = 2

    with pytest.raises(OutOfMemoryError, match="cudaErrorMemoryAllocation"):
        load(install(release))


@pytest.mark.parametrize("release", [NANO, ELEVEN, RTX])
@pytest.mark.parametrize(
    ("owner", "function"),
    [("Runtime", "deserialize_cuda_engine"), ("ICudaEngine", "create_execution_context")],
)
def test_tensorrt_without_memory(install, load, monkeypatch, release, owner, function):
    """A lack of memory that TensorRT only logs is an OutOfMemoryError, so that the plan is not stale."""
    backend = install(release)
    trt = sys.modules[backend._modules[0]]

    def no_memory(*_):
        (logger,) = [log for module, log in trt_log._opened.items() if module is trt]
        logger.log(trt.ILogger.ERROR, "[executionContext.cpp] Error Code 2: OutOfMemory (no further information)")
        logger.log(trt.ILogger.ERROR, "Deserialization failed")

    monkeypatch.setattr(getattr(trt, owner), function, no_memory)

    with pytest.raises(OutOfMemoryError, match="Error Code 2: OutOfMemory"):
        load(backend)


def test_an_inference_without_memory(install, load, cuda):
    """Memory that runs out during inference is an OutOfMemoryError."""
    model = load(install(TEN))
    (staged,) = model.stage([feed(5)])
    cuda.failures["cudaStreamSynchronize"] = 2

    with pytest.raises(OutOfMemoryError, match="cudaErrorMemoryAllocation"):
        model.run_once(staged)


@pytest.mark.parametrize("release", RELEASES)
def test_options_are_what_was_chosen(install, load, release):
    """The session options have no measured value, such as the memory of an engine."""
    model = load(install(release))

    assert set(model.session_options) == {"sync_mode", "cuda_graph", "memory_kind", "transfers", "cuda_library"}
