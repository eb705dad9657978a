"""The tests of probing TensorRT, and of the sentences for a broken one."""

import enum
import sys

import pytest
from efficientquant_agent.backends.__main__ import find_runtimes
from efficientquant_agent.backends.base import (
    BackendBrokenError,
    BuildError,
    BuildOptions,
    LoadError,
    LoadOptions,
    UnsupportedGpuError,
)
from efficientquant_agent.backends.trt import Tensorrt, TensorrtRtx
from trt_api import RELEASES, RTX

NANO, TEN = RELEASES[0], RELEASES[5]


@pytest.mark.parametrize("version", ["8.0.1.6", "8.1.0", "7.1.3"])
def test_a_release_that_is_too_old(install, monkeypatch, version):
    """A release before 8.2 is broken, with the JetPack to upgrade to."""
    monkeypatch.setattr(sys.modules[install(NANO)._modules[0]], "__version__", version)

    with pytest.raises(BackendBrokenError, match="{} is installed, 8.2 or newer .*JetPack 4.6.1".format(version)):
        Tensorrt.probe()


@pytest.mark.parametrize("release", RELEASES)
def test_a_release_that_works(install, release):
    """Every claimed release is probed with its version and the libraries that change the numbers."""
    backend = install(release)

    assert backend.probe().version == release.replace("rtx-", "")
    assert backend.library_versions()["cuda"] == "12.4"


def test_without_a_gpu(install, cuda):
    """Without a GPU, probing, building and loading fail with the same sentence."""
    cuda.failures.update(dict.fromkeys(("cudaDeviceGetAttribute", "cudaGetDeviceCount"), 100))
    backend = install(TEN)

    with pytest.raises(BackendBrokenError, match="no NVIDIA GPU is visible"):
        backend.probe()
    with pytest.raises(BuildError, match="no NVIDIA GPU is visible"):
        backend.build("x", "y", BuildOptions(), print)
    with pytest.raises(LoadError, match="no NVIDIA GPU is visible"):
        backend.load(b"{", LoadOptions(), None)


@pytest.mark.parametrize(
    ("release", "own_words"), [(TEN, "; TensorRT itself says: CUDA initialization failure with error: 35"), (RTX, "")]
)
def test_tensorrts_own_reason(install, cuda, release, own_words):
    """The sentence has the reason that TensorRT only logs as a warning."""
    cuda.failures.update(dict.fromkeys(("cudaDeviceGetAttribute", "cudaGetDeviceCount"), 35))

    with pytest.raises(BackendBrokenError) as broken:
        install(release).probe()

    assert str(broken.value).endswith("the NVIDIA driver is missing or older than this CUDA runtime needs" + own_words)


@pytest.mark.parametrize("release", RELEASES[:-1])
def test_builder_that_does_not_start(install, cuda, build, release):
    """A build without a GPU fails with the warning in TensorRT's log."""
    backend = install(release)
    cuda.failures["cudaGetDeviceCount"] = 100

    with pytest.raises(BuildError) as failure:
        build(backend)

    assert str(failure.value) == "CUDA initialization failure with error: 100"


@pytest.mark.parametrize("release", [TEN, RTX])
def test_what_an_uninstall_left(install, monkeypatch, release):
    """A module without a version, as an uninstall leaves it, is a broken runtime."""
    backend = install(release)
    monkeypatch.delattr(sys.modules[backend._modules[0]], "__version__")

    with pytest.raises(BackendBrokenError, match="{} is installed in parts.*install it again".format(backend._product)):
        backend.probe()


def test_a_library_that_does_not_load(install, monkeypatch, tmp_path):
    """Bindings without their library are broken, while missing bindings are absent."""
    install(TEN)
    (tmp_path / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.10: cannot open shared object file')")
    monkeypatch.delitem(sys.modules, "tensorrt")
    monkeypatch.syspath_prepend(str(tmp_path))

    assert TensorrtRtx.probe() is None
    with pytest.raises(BackendBrokenError, match=r"does not load: libnvinfer.so.10.*same release"):
        Tensorrt.probe()


@pytest.mark.parametrize("release", [NANO, RTX])
def test_without_numpy(install, monkeypatch, release):
    """TensorRT without numpy is broken, and the sentence names numpy."""
    backend = install(release)
    monkeypatch.setitem(sys.modules, "numpy", None)

    with pytest.raises(BackendBrokenError, match="is installed and needs the module numpy, which is not"):
        backend.probe()


@pytest.mark.parametrize(
    ("failure", "cause"),
    [
        ("numpy", "ModuleNotFoundError: numpy"),
        ("driver", "cudaErrorInsufficientDriver"),
        ("release", "RuntimeTooOldError"),
    ],
)
def test_causes(install, cuda, monkeypatch, failure, cause):
    """Each broken runtime's sentence comes with the name of its cause."""
    module = sys.modules[install(TEN)._modules[0]]
    if failure == "numpy":
        monkeypatch.setitem(sys.modules, "numpy", None)
    elif failure == "driver":
        cuda.failures.update(dict.fromkeys(("cudaDeviceGetAttribute", "cudaGetDeviceCount"), 35))
    else:
        monkeypatch.setattr(module, "__version__", "8.0.1")

    facts = find_runtimes()

    assert (
        dict(zip(facts["broken"], facts["broken_causes"]))[
            next(sentence for sentence in facts["broken"] if sentence.startswith("backend 'trt' "))
        ]
        == cause
    )


def test_a_gpu_that_is_too_old(install, cuda):
    """TensorRT-RTX refuses a Jetson Nano's GPU."""
    cuda.attributes.update({75: 5, 76: 3})

    with pytest.raises(BackendBrokenError, match=r"TensorRT-RTX 1.7.1 has no SM 5.3: .* use TensorRT or"):
        install(RTX).probe()


@pytest.mark.parametrize(("sm", "written"), [(87, "8.7"), (90, "9.0"), (100, "10.0"), (110, "11.0")])
def test_an_sm_that_the_bindings_do_not_name(install, cuda, sm, written):
    """TensorRT-RTX refuses an SM that its bindings do not name, such as an H100's, and lists the others."""
    cuda.attributes.update({75: sm // 10, 76: sm % 10})

    with pytest.raises(UnsupportedGpuError) as refusal:
        install(RTX).probe()

    assert str(refusal.value) == (
        "TensorRT-RTX 1.7.1 has no SM {}: it builds for SM 7.5, 8.0, 8.6, 8.9, 12.0, 12.1 only; use TensorRT or ONNX "
        "Runtime on this GPU".format(written)
    )


@pytest.mark.parametrize("sm", [75, 80, 86, 89, 120, 121])
def test_an_sm_that_the_bindings_name(install, cuda, sm):
    """TensorRT-RTX works on each SM that its bindings name."""
    cuda.attributes.update({75: sm // 10, 76: sm % 10})

    assert install(RTX).probe().name == "trt-rtx"


def test_bindings_that_name_more(install, cuda, monkeypatch):
    """An SM that only newer bindings name is accepted."""
    cuda.attributes.update({75: 9, 76: 0})
    backend = install(RTX)
    members = [("NONE", 0), ("CURRENT", 1), ("SM90", 90)]
    monkeypatch.setattr(sys.modules["tensorrt_rtx"], "ComputeCapability", enum.Enum("ComputeCapability", members))

    assert backend.probe().name == "trt-rtx"


def test_bindings_that_name_none(install, cuda, monkeypatch):
    """Without a list in the bindings, every GPU from SM 7.5 on is accepted."""
    backend = install(RTX)
    monkeypatch.delattr(sys.modules["tensorrt_rtx"], "ComputeCapability")
    assert backend.probe().name == "trt-rtx"
    cuda.attributes.update({75: 7, 76: 2})

    with pytest.raises(UnsupportedGpuError, match=r"needs a GPU of SM 7\.5 or newer, this GPU has SM 7\.2"):
        backend.probe()


def test_what_the_probing_child_says(install, cuda):
    """On SM 9.0 the probe leaves TensorRT-RTX out and keeps the sentence."""
    cuda.attributes.update({75: 9, 76: 0})
    install(RTX)

    facts = find_runtimes()

    assert "trt-rtx" not in [backend["name"] for backend in facts["backends"]]
    assert any("TensorRT-RTX 1.7.1 has no SM 9.0" in sentence for sentence in facts["broken"])
