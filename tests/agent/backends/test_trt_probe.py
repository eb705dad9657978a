"""What counts as a TensorRT that works here, and the sentence for each that does not."""

import sys

import pytest
from efficientquant_agent.backends.base import (
    BackendBrokenError,
    BuildError,
    BuildOptions,
    LoadError,
    LoadOptions,
)
from efficientquant_agent.backends.trt import Tensorrt, TensorrtRtx
from trt_api import RELEASES, RTX

NANO, TEN = RELEASES[0], RELEASES[5]


@pytest.mark.parametrize("version", ["8.0.1.6", "8.1.0", "7.1.3"])
def test_a_release_that_is_too_old(install, monkeypatch, version):
    """Before 8.2 the backend is broken, with the JetPack to upgrade to."""
    monkeypatch.setattr(sys.modules[install(NANO)._modules[0]], "__version__", version)

    with pytest.raises(BackendBrokenError, match="{} is installed, 8.2 or newer .*JetPack 4.6.1".format(version)):
        Tensorrt.probe()


@pytest.mark.parametrize("release", RELEASES)
def test_a_release_that_works(install, release):
    """Every claimed release is found with its version, and names the libraries that change the numbers."""
    backend = install(release)

    assert backend.probe().version == release.replace("rtx-", "")
    assert backend.library_versions()["cuda"] == "12.4"


def test_without_a_gpu(install, cuda):
    """TensorRT without a GPU is broken in a sentence, and so are building and loading."""
    cuda.failures.update(dict.fromkeys(("cudaDeviceGetAttribute", "cudaGetDeviceCount"), 100))
    backend = install(TEN)

    with pytest.raises(BackendBrokenError, match="no NVIDIA GPU is visible"):
        backend.probe()
    with pytest.raises(BuildError, match="no NVIDIA GPU is visible"):
        backend.build("x", "y", BuildOptions(), print)
    with pytest.raises(LoadError, match="no NVIDIA GPU is visible"):
        backend.load(b"{", LoadOptions(), None)


@pytest.mark.parametrize("release", [TEN, RTX])
def test_what_an_uninstall_left(install, monkeypatch, release):
    """A module without a version, as a folder that was left behind is one, is broken and not a crash of the probe."""
    backend = install(release)
    monkeypatch.delattr(sys.modules[backend._modules[0]], "__version__")

    with pytest.raises(BackendBrokenError, match="{} is installed in parts.*install it again".format(backend._product)):
        backend.probe()


def test_a_library_that_does_not_load(install, monkeypatch, tmp_path):
    """Bindings without their library are broken, which is not the same as absent."""
    install(TEN)
    (tmp_path / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.10: cannot open shared object file')")
    monkeypatch.delitem(sys.modules, "tensorrt")
    monkeypatch.syspath_prepend(str(tmp_path))

    assert TensorrtRtx.probe() is None
    with pytest.raises(BackendBrokenError, match=r"does not load: libnvinfer.so.10.*same release"):
        Tensorrt.probe()


def test_a_gpu_that_is_too_old(install, cuda):
    """TensorRT-RTX does not run on a Jetson Nano's GPU, and says from which SM on it does."""
    cuda.attributes.update({75: 5, 76: 3})

    with pytest.raises(BackendBrokenError, match="SM 75 or newer, this one is SM 53"):
        install(RTX).probe()
