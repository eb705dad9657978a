"""The doubles of TensorRT and CUDA as fixtures."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "fixtures" / "doubles" / "tensorrt"))
sys.path.insert(0, str(Path(__file__).parent.parent.parent / "gpu"))  # what `make gpu-check` runs

import fake_cudart
import model_feeds
import trt_stub
from efficientquant_agent.backends import cudart
from efficientquant_agent.backends.base import LoadOptions
from efficientquant_agent.backends.trt import Tensorrt, TensorrtRtx
from efficientquant_agent.protocol import BuildOptions


@pytest.fixture
def cuda(monkeypatch):
    """Install a fake CUDA runtime that works, and return it."""
    library = fake_cudart.FakeLibrary()
    monkeypatch.setattr(cudart, "open_library", lambda: cudart.Cudart(library))
    return library


@pytest.fixture
def install(cuda, monkeypatch):
    """Give a function that installs a release's stub.

    It returns the backend that runs the release.
    """
    for name in ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings"):
        monkeypatch.setitem(sys.modules, name, None)

    def install_release(release):
        backend = TensorrtRtx if release.startswith("rtx") else Tensorrt
        monkeypatch.setitem(sys.modules, backend._modules[0], trt_stub.make(release, cuda))
        return backend

    return install_release


@pytest.fixture
def untimed():
    """Return a stage that measures no time."""
    return model_feeds.untimed


@pytest.fixture
def build(tmp_path):
    """Give a function that builds a model for the stub.

    It returns the plan's content, the report and the log.
    """

    def build_model(backend, model=(), **options):
        (tmp_path / "model.onnx").write_text(json.dumps(dict(model)))
        log = []
        plan = tmp_path / "model.plan"
        options.setdefault("timing_cache_path", str(tmp_path / "timing.cache"))
        try:
            report = backend.build(str(tmp_path / "model.onnx"), str(plan), BuildOptions(**options), log.append)
        finally:
            left = [path.name for path in tmp_path.iterdir() if path.name.endswith(".part")]
            assert left == []
        return plan.read_bytes(), report, log

    return build_model


@pytest.fixture
def load(build, untimed):
    """Give a function that builds, loads and returns the model."""

    def load_model(backend, **options):
        content, _, _ = build(backend)
        return backend.load(content, LoadOptions(**options), untimed)

    return load_model
