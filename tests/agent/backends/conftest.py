"""The doubles of TensorRT and CUDA as fixtures."""

import contextlib
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "fixtures" / "doubles" / "tensorrt"))
sys.path.insert(0, str(Path(__file__).parent.parent.parent / "gpu"))  # what `make gpu-check` runs

import fake_cudart
import trt_stub
from efficientquant_agent.backends import cudart
from efficientquant_agent.backends.trt import Tensorrt, TensorrtRtx


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

    @contextlib.contextmanager
    def stage(_name):
        yield

    return stage
