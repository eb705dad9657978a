"""The tests of ONNX Runtime on the CPU, and of its GPU providers' options."""

import contextlib
import os
import sys

import numpy as np
import onnxruntime
import pytest
from efficientquant_agent.backends import cudart
from efficientquant_agent.backends.base import (
    BackendBrokenError,
    InferenceError,
    LoadError,
    LoadOptions,
    OutOfMemoryError,
)
from efficientquant_agent.backends.ort import OrtCpu, OrtCuda, OrtTensorrt
from model_feeds import feed_of, untimed

ONE_THREAD = LoadOptions(intra_op_threads=1)


def load(content, backend=OrtCpu):
    return backend.load(content, ONE_THREAD, untimed)


def test_without_numpy(monkeypatch):
    """ONNX Runtime without numpy is broken, which only its first backend reports."""
    monkeypatch.setitem(sys.modules, "numpy", None)

    with pytest.raises(BackendBrokenError, match="is installed and needs the module numpy, which is not; install it"):
        OrtCpu.probe()
    assert (OrtCuda.probe(), OrtTensorrt.probe()) == (None, None)


def test_what_an_uninstall_left(monkeypatch, tmp_path):
    """A folder that an uninstall left is a broken runtime."""
    (tmp_path / "onnxruntime").mkdir()
    monkeypatch.delitem(sys.modules, "onnxruntime")
    monkeypatch.setattr("sys.path", [str(tmp_path)])

    with pytest.raises(BackendBrokenError, match="installed in parts"):
        OrtCpu.probe()
    sys.modules.pop("onnxruntime", None)


def test_a_symbolic_batch_is_one(tiny_model):
    """A symbolic batch is 1, and the other dimensions are the file's."""
    assert load(tiny_model).input_shapes() == {"image": (1, 3, 16, 16)}


def test_no_other_size_than_the_batch_is_guessed(models):
    """A model without an image size is loaded and not fed."""
    model = load((models / "no_image_size.onnx").read_bytes())

    with pytest.raises(LoadError, match="input 'image' has no size in dimensions 2 and 3; only the batch"):
        model.input_shapes()


def test_a_non_contiguous_feed_is_staged_once(tiny_model):
    """Staging makes every feed contiguous."""
    model = load(tiny_model)
    transposed = np.zeros((1, 16, 16, 3), np.float32).transpose(0, 3, 1, 2)

    (staged,) = model.stage([{"image": transposed}])

    assert staged["image"].flags.c_contiguous
    assert staged["image"].shape == (1, 3, 16, 16)


def test_outputs_are_on_the_host(tiny_model):
    """A run returns the model's outputs (here a softmax), and each call of outputs() returns new arrays."""
    model = load(tiny_model)
    (staged,) = model.stage([feed_of(model)])

    (scores,) = model.run_once(staged)
    (first,), (second,) = model.outputs(staged), model.outputs(staged)

    assert np.allclose(scores.sum(axis=1), 1.0, atol=1e-5)
    assert (first == second).all()
    assert not np.shares_memory(first, second)


def test_loading_is_one_stage(tiny_model):
    """Creating the session is timed as the stage "session_create"."""
    stages = []

    @contextlib.contextmanager
    def stage(name):
        stages.append(name)
        yield

    OrtCpu.load(tiny_model, ONE_THREAD, stage)

    assert stages == ["session_create"]


def test_realised_session(tiny_model):
    """A loaded model names its providers and the options that change its numbers."""
    model = OrtCpu.load(tiny_model, LoadOptions(intra_op_threads=2), untimed)

    assert model.providers == ["CPUExecutionProvider"]
    assert model.session_options == {
        "graph_optimization": "all",
        "execution_mode": "sequential",
        "intra_op_threads": "2",
    }


@pytest.mark.parametrize("content", [b"", b"not a model"])
def test_not_a_model(content):
    """Bytes that are no model are refused in the runtime's words."""
    with pytest.raises(LoadError, match=r".+"):
        load(content)


def test_failing_inference(models):
    """A failure in the middle of the graph is an InferenceError that names the operator."""
    model = load((models / "fails_at_run.onnx").read_bytes())

    with pytest.raises(InferenceError, match="Gather"):
        model.run_once(model.stage([feed_of(model, 1000.0)])[0])


@pytest.mark.parametrize(
    "sentence",
    [
        "Failed to allocate memory for requested buffer of size 1073741824",
        "CUDA failure 2: out of memory ; GPU=0 ; hostname=nano",
        "std::bad_alloc",
    ],
)
def test_a_session_without_memory(monkeypatch, sentence):
    """A lack of memory while loading is an OutOfMemoryError, however the runtime words it."""

    def no_memory(*_, **__):
        raise RuntimeError(sentence)

    monkeypatch.setattr(onnxruntime, "InferenceSession", no_memory)

    with pytest.raises(OutOfMemoryError, match="^" + sentence[:12]):
        load(b"")


def test_an_inference_without_memory(tiny_model, monkeypatch):
    """Memory that runs out during inference is an OutOfMemoryError."""
    model = load(tiny_model)

    class Full:
        def run(self, *_):
            """Fail."""
            raise RuntimeError("bad allocation: out of memory")

    monkeypatch.setattr(model, "_session", Full())

    with pytest.raises(OutOfMemoryError, match="out of memory"):
        model.run_once({})


def test_only_a_provider_that_builds_loads_slowly():
    """Every provider but TensorRT's, which builds an engine in each session, is loaded a second time."""
    assert [backend.loads_quickly for backend in (OrtCpu, OrtCuda, OrtTensorrt)] == [True, True, False]


@pytest.mark.parametrize("backend", [OrtCuda, OrtTensorrt])
def test_a_provider_that_is_not_built_in_is_absent(backend):
    """A provider that ONNX Runtime does not have is an absent backend."""
    assert backend.probe() is None


@pytest.mark.parametrize("backend", [OrtCuda, OrtTensorrt])
def test_a_provider_without_a_gpu_is_broken(backend, monkeypatch):
    """ONNX Runtime for GPUs is broken on a machine without a GPU."""

    def no_gpus():
        raise cudart.CudaError("cudaErrorNoDevice", 100, "no CUDA-capable device is detected")

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(backend._providers))
    monkeypatch.setattr(cudart, "gpus", no_gpus)

    with pytest.raises(BackendBrokenError, match=r"no GPU answers: cudaErrorNoDevice.*no NVIDIA GPU is visible"):
        backend.probe()


class FakeSession:
    """A session that may get other providers than asked for."""

    given = ()
    seen = None

    def __init__(self, _content, _options, providers, provider_options):
        assert len(providers) == len(provider_options)
        type(self).seen = provider_options

    def get_providers(self):
        """Return the providers that the session got."""
        return list(self.given)


def test_a_silent_fallback_is_a_load_error(monkeypatch):
    """A session that fell back to the CPU is refused, with both providers' names."""
    monkeypatch.setattr(onnxruntime, "InferenceSession", FakeSession)
    monkeypatch.setattr(FakeSession, "given", ("CPUExecutionProvider",))

    with pytest.raises(LoadError, match="asked for CUDAExecutionProvider and gave CPUExecutionProvider"):
        load(b"", OrtCuda)


@pytest.mark.parametrize(("version", "tf32"), [("1.10.0", None), ("1.18.1", "0"), ("1.32.0", "0")])
def test_float32_is_not_computed_as_tf32(version, tf32, monkeypatch):
    """TF32 is off by the environment, and by the provider's option where a release has it."""
    monkeypatch.setattr(onnxruntime, "InferenceSession", FakeSession)
    monkeypatch.setattr(onnxruntime, "__version__", version)
    monkeypatch.setattr(FakeSession, "given", OrtCuda._providers)
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")

    model = load(b"", OrtCuda)

    assert model.session_options["tf32"] == "off"
    assert model.session_options["cudnn_conv_algo_search"] == "EXHAUSTIVE"
    assert FakeSession.seen[0].get("use_tf32") == tf32
    assert os.environ["NVIDIA_TF32_OVERRIDE"] == "0"
