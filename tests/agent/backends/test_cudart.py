"""The tests of the CUDA runtime by ctypes."""

import ctypes

import pytest
from efficientquant_agent.backends import cudart
from efficientquant_agent.backends.cudart import CudaError, Cudart
from fake_cudart import FakeLibrary


def test_a_gpu_is_described(tmp_path):
    """Every fact of a GPU is read, with its UUID as NVML writes it."""
    (tmp_path / "driver/nvidia").mkdir(parents=True)
    version = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\nGCC version:\n"
    (tmp_path / "driver/nvidia/version").write_text(version)

    (gpu,) = cudart.gpus(Cudart(FakeLibrary()), str(tmp_path))

    assert gpu == (
        "NVIDIA GeForce RTX 3080",
        "GPU-00010203-0405-0607-0809-0a0b0c0d0e0f",
        86,
        1 << 33,
        False,
        True,
        True,
        True,
        "550.54.15",
    )


def test_a_jetson_is_described(tmp_path):
    """A Jetson's GPU is integrated, and CUDA's version stands for a missing driver version."""
    (gpu,) = cudart.gpus(Cudart(FakeLibrary(10020, sm=53, integrated=True, name="NVIDIA Tegra X1")), str(tmp_path))

    assert (gpu.name, gpu.compute_capability, gpu.integrated) == ("NVIDIA Tegra X1", 53, True)
    assert (gpu.fp16, gpu.int8, gpu.tf32, gpu.driver_version) == (True, False, False, "CUDA 10.2")


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        (100, r"cudaErrorNoDevice \(100\): no CUDA-capable device is detected; no NVIDIA GPU is visible here"),
        (35, r"cudaErrorInsufficientDriver \(35\): .*; the NVIDIA driver is missing or older"),
    ],
)
def test_no_gpu_is_a_sentence(code, sentence):
    """Without a GPU or driver the error has the runtime's name, its words, and what to do."""
    library = FakeLibrary()
    library.failures["cudaGetDeviceCount"] = code

    with pytest.raises(CudaError, match=sentence) as caught:
        Cudart(library).device_count()

    assert caught.value.code == code


def test_no_library_is_a_sentence(tmp_path):
    """Without a CUDA runtime the error lists the paths that were tried."""
    with pytest.raises(CudaError, match=r"not found \(tried .*/libcudart.so\); install the CUDA runtime"):
        cudart.open_library(str(tmp_path / "libcudart.so"))


def test_a_library_that_is_none(tmp_path):
    """A file that is not a library, or one without CUDA's functions, is not the CUDA runtime."""
    (tmp_path / "libcudart.so").write_bytes(b"no ELF")

    for path in (str(tmp_path / "libcudart.so"), "libm.so.6"):
        with pytest.raises(CudaError, match="not found"):
            cudart.open_library(path)


def test_a_runtime_newer_than_the_driver_is_passed_over(monkeypatch):
    """The first runtime whose GPU answers is used, and without any the first of all reports the error."""
    libraries = {"new": FakeLibrary(13000), "old": FakeLibrary(11040)}
    libraries["new"].failures["cudaGetDeviceCount"] = 35
    monkeypatch.setattr(cudart, "_candidates", lambda: ["new", "old"])
    monkeypatch.setattr(ctypes, "CDLL", libraries.get)

    assert cudart.open_library().runtime_version() == "11.4"
    libraries["old"].failures["cudaGetDeviceCount"] = 100
    assert cudart.open_library().runtime_version() == "13.0"


@pytest.mark.parametrize(
    ("version", "function"), [(10020, ""), (11000, ""), (11040, "WithFlags"), (13000, "WithFlags")]
)
def test_a_graph_in_every_release(version, function):
    """A graph is instantiated by the release's own function, can be launched repeatedly, and leaves nothing."""
    library = FakeLibrary(version)
    cuda = Cudart(library)
    stream, target = cuda.stream_create(), cuda.malloc(4)

    with cuda.capture(stream) as captured:
        cuda.copy_to_device(target, ctypes.addressof(ctypes.c_uint32(7)), 0, stream)
    cuda.graph_launch(captured[0], stream)
    cuda.graph_launch(captured[0], stream)
    cuda.graph_destroy(captured[0])
    cuda.free(target)

    assert library.calls.count("cudaMemcpyAsync") == 1
    assert "cudaGraphInstantiate" + function in library.calls
    assert not library.held()


def test_a_capture_that_fails_ends():
    """An error while capturing ends the capture and is raised."""
    library = FakeLibrary()
    cuda = Cudart(library)
    stream = cuda.stream_create()

    with pytest.raises(RuntimeError, match="mine"), cuda.capture(stream):
        raise RuntimeError("mine")

    assert library.capturing is None
    assert not library.held()


def test_flags_of_a_device_in_use():
    """A refusal to change the flags of a device in use (CUDA 10.2) is ignored, and other errors are raised."""
    library = FakeLibrary(10020)
    library.failures["cudaSetDeviceFlags"] = 708
    Cudart(library).begin("spin")
    library.failures["cudaSetDeviceFlags"] = 100

    with pytest.raises(CudaError, match="cudaErrorNoDevice"):
        Cudart(library).begin("block")


def test_a_function_that_a_release_lacks():
    """A function that a release lacks is an error that names it."""
    with pytest.raises(CudaError, match=r"cudaGraphInstantiateWithFlags.*does not have it"):
        Cudart(FakeLibrary(10020))._call("cudaGraphInstantiateWithFlags", None, 0, 0)


def test_mapped_memory_has_two_addresses():
    """Mapped memory has an address on the GPU, pinned memory has none."""
    cuda = Cudart(FakeLibrary())

    mapped, pinned = cuda.host_alloc(16, "mapped"), cuda.host_alloc(16, "pinned")

    assert mapped.device == mapped.host
    assert pinned.device == 0


def test_events_are_in_seconds():
    """The time between two recorded events is in seconds."""
    cuda = Cudart(FakeLibrary())
    stream, start, end = cuda.stream_create(), cuda.event_create(), cuda.event_create()

    cuda.event_record(start, stream)
    cuda.event_record(end, stream)

    assert cuda.elapsed_s(start, end) == pytest.approx(0.001)
