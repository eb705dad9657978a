"""The tests of OpenVINO on the CPU, with the real library."""

import contextlib
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import real_parts
from efficientquant_agent.backends.base import (
    BackendBrokenError,
    InferenceError,
    LoadError,
    LoadOptions,
    OutOfMemoryError,
)
from efficientquant_agent.backends.ort import OrtCpu
from efficientquant_agent.backends.ov_cpu import OpenvinoCpu
from model_feeds import feed_of, untimed

ONE_THREAD = LoadOptions(intra_op_threads=1)


@pytest.fixture(scope="module")
def openvino():
    """Return the library, or skip where Python is too old for it."""
    return real_parts.openvino()


@pytest.fixture
def load(openvino):  # noqa: ARG001 — skips
    """Give a function that loads a model's bytes."""

    def load_model(content, threads=1, stage=untimed):
        return OpenvinoCpu.load(content, LoadOptions(intra_op_threads=threads), stage)

    return load_model


def test_without_the_library(monkeypatch):
    """Without OpenVINO the backend is absent, and its module is imported all the same."""
    monkeypatch.setitem(sys.modules, "openvino", None)

    assert OpenvinoCpu.probe() is None


def test_the_installed_release(openvino):
    """A probe names the release without its build, and the form of its files."""
    info = OpenvinoCpu.probe()

    assert openvino.__version__.startswith(info.version + "-")
    assert (info.form, info.opset, info.providers) == ("openvino", 18, ["CPU"])
    assert (info.uses_gpu, info.builds_engines, info.options) == (False, False, ["profile_layers"])
    assert OpenvinoCpu.library_versions() == {"openvino": info.version, "numpy": np.__version__}


def test_without_numpy(openvino, monkeypatch):  # noqa: ARG001
    """OpenVINO without numpy is broken."""
    monkeypatch.setitem(sys.modules, "numpy", None)

    with pytest.raises(BackendBrokenError, match="needs the module numpy, which is not; install it"):
        OpenvinoCpu.probe()


@pytest.mark.parametrize(
    ("library", "sentence"),
    [
        (SimpleNamespace(), "is older than 2023.1 or installed in parts; install it again"),
        (
            SimpleNamespace(Core=lambda: SimpleNamespace(available_devices=["GPU"])),
            r"no plugin for the CPU \(it has: GPU",
        ),
    ],
)
def test_a_library_without_its_parts_is_broken(monkeypatch, library, sentence):
    """A library that is too old, or that lacks the CPU's plugin, is broken."""
    monkeypatch.setitem(sys.modules, "openvino", library)

    with pytest.raises(BackendBrokenError, match=sentence):
        OpenvinoCpu.probe()


def test_a_symbolic_batch_is_one(load, tiny_model):
    """A symbolic batch is 1, and the other dimensions are the file's."""
    assert load(tiny_model).input_shapes() == {"image": (1, 3, 16, 16)}


def test_no_other_size_than_the_batch_is_guessed(load, models):
    """A model without an image size is loaded and not fed."""
    model = load((models / "no_image_size.onnx").read_bytes())

    with pytest.raises(LoadError, match="input 'image' has no size in dimensions 2 and 3; only the batch"):
        model.input_shapes()


def test_an_input_of_integers_is_not_staged(load, models):
    """An input that is not float32 is named with its type."""
    model = load((models / "integer_input.onnx").read_bytes())

    with pytest.raises(LoadError, match=r"input '\w+' is \w+; only f32 inputs can be staged"):
        model.input_shapes()


def test_it_computes_what_onnx_runtime_computes(load, tiny_model):
    """Each call returns new arrays, equal to ONNX Runtime's outputs."""
    model, reference = load(tiny_model), OrtCpu.load(tiny_model, ONE_THREAD, untimed)
    staged = model.stage([feed_of(model, 0.25), feed_of(model, 0.75)])

    first, second = model.outputs(staged[0]), model.outputs(staged[1])

    for own, value in ((first, 0.25), (second, 0.75)):
        expected = reference.outputs(feed_of(model, value))
        assert np.allclose(own[0], expected[0], atol=1e-6)
    assert not np.shares_memory(first[0], second[0])


def test_a_non_contiguous_feed_is_staged_once(load, tiny_model):
    """Staging copies a feed that is not contiguous."""
    model = load(tiny_model)
    array = np.random.RandomState(0).rand(1, 16, 16, 3).astype(np.float32).transpose(0, 3, 1, 2)

    ((tensor,),) = model.stage([{"image": array}])

    assert (tensor.data == array).all()
    assert not np.shares_memory(tensor.data, array)


def test_loading_is_one_stage(load, tiny_model):
    """Reading and compiling the model are timed as the stage "session_create"."""
    stages = []

    @contextlib.contextmanager
    def stage(name):
        stages.append(name)
        yield

    load(tiny_model, stage=stage)

    assert stages == ["session_create"]


@pytest.mark.parametrize("threads", [1, 2])
def test_realised_session(load, tiny_model, threads):
    """A model runs for latency, in float32, with the requested threads."""
    model = load(tiny_model, threads)

    assert list(model.providers) == ["CPU"]
    options = model.session_options
    assert (options["performance_hint"], options["streams"]) == ("LATENCY", "1")
    assert (options["inference_precision"], options["intra_op_threads"]) == ("f32", str(threads))


def test_layers_and_their_times(load, tiny_model):
    """A separate pass times each layer, with its type and precision."""
    model = load(tiny_model)
    (staged,) = model.stage([feed_of(model)])
    model.run_once(staged)

    report = model.report()
    times_s = dict(model.profile_layers(staged, 5))

    assert "Convolution" in [layer["type"] for layer in report.layers]
    assert set(report.realised_precision) == {"fp32"}
    assert {layer["name"] for layer in report.layers} == set(times_s)
    assert 0 < sum(times_s.values()) < 1


@pytest.mark.parametrize("content", [b"", b"not a model"])
def test_not_a_model(load, content):
    """Invalid bytes raise LoadError without paths of OpenVINO's source."""
    with pytest.raises(LoadError, match=r"\w+ \w+") as caught:
        load(content)

    assert "Exception from" not in str(caught.value)


def test_failing_inference(load, tiny_model):
    """A wrong tensor raises InferenceError with OpenVINO's message."""
    model = load(tiny_model)

    with pytest.raises(InferenceError, match="shape"):
        model.run_once(model.stage([{"image": np.zeros((1, 3, 8, 8), np.float32)}])[0])


def test_an_inference_without_memory(load, tiny_model, monkeypatch):
    """Memory that runs out during inference is an OutOfMemoryError."""
    model = load(tiny_model)

    class Full:
        def infer(self, **_):
            """Fail."""
            raise RuntimeError("Exception from src/x.cpp:1:\nstd::bad_alloc")

    monkeypatch.setattr(model, "_request", Full())

    with pytest.raises(OutOfMemoryError, match=r"^std::bad_alloc$"):
        model.run_once([])


def test_a_closed_model_ends_quietly(openvino, tiny_model):  # noqa: ARG001
    """A process that loaded a model ends with exit code 0."""
    script = (
        "import contextlib, sys\n"
        "from efficientquant_agent.backends.ov_cpu import OpenvinoCpu\n"
        "from efficientquant_agent.backends.base import LoadOptions\n"
        "model = OpenvinoCpu.load(sys.stdin.buffer.read(), LoadOptions(1), lambda _: contextlib.suppress())\n"
        "model.close()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], input=tiny_model, stdout=subprocess.PIPE)

    assert (done.returncode, done.stdout) == (0, b"")
