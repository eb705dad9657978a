"""The contract of CUDA's resources, held by libcudart and by pycuda."""

import ctypes
import os
import sys

import fake_pycuda
import numpy as np
import pytest
from efficientquant_agent.backends.__main__ import find_in_child, find_runtimes
from efficientquant_agent.backends.cuda_from_pycuda import Pycuda, find_pycuda, open_resources
from efficientquant_agent.backends.cuda_resources import CudaError, CudaResources
from efficientquant_agent.backends.cudart import Cudart
from fake_cudart import FakeLibrary
from trt_api import RELEASES, RTX

NANO, TEN = RELEASES[0], RELEASES[5]
SIZE = 64


class World:
    """Resources of one library on a fake GPU, whose calls can fail."""

    def __init__(self, library):
        self.library = FakeLibrary()
        self.driver = fake_pycuda.make(self.library)[1]
        cuda = Cudart(self.library)
        self.is_pycuda = library == "pycuda"
        self.resources = Pycuda(self.driver, "2022.1", cuda) if self.is_pycuda else cuda

    def fail(self, runtime_name, driver_name):
        """Let one function run out of memory."""
        self.library.failures[runtime_name] = 2
        self.driver.failures[driver_name] = fake_pycuda.MemoryError("{} failed: out of memory".format(driver_name))


@pytest.fixture(params=["libcudart", "pycuda"])
def world(request):
    """Return resources that have begun."""
    made = World(request.param)
    made.resources.begin("spin")
    yield made
    made.resources.end()


def test_it_is_named(world):
    """The library names itself, for the settings of a run."""
    assert isinstance(world.resources, CudaResources)
    assert world.resources.library == ("pycuda 2022.1" if world.is_pycuda else "libcudart")


@pytest.mark.parametrize(("sync_mode", "flags"), [("spin", 8 | 1), ("block", 8 | 4)])
@pytest.mark.parametrize("library", ["libcudart", "pycuda"])
def test_how_the_host_waits(library, sync_mode, flags):
    """Spin and block are flags of the primary context, which can map memory."""
    world = World(library)

    world.resources.begin(sync_mode)

    assert world.library.flags == flags
    world.resources.end()


@pytest.mark.parametrize("kind", ["pinned", "mapped"])
def test_bytes_come_back(world, kind):
    """Copies come back unchanged, and only mapped memory has a device address."""
    cuda, stream = world.resources, world.resources.stream_create()
    source, target = cuda.host_alloc(SIZE, kind), cuda.host_alloc(SIZE, kind)
    device = cuda.malloc(SIZE)
    ctypes.memset(source.host, 0x5A, SIZE)
    ctypes.memset(target.host, 0, SIZE)

    cuda.copy_to_device(device, source.host, SIZE, stream)
    cuda.copy_to_host(target.host, device, SIZE, stream)
    cuda.stream_synchronize(stream)

    assert ctypes.string_at(target.host, SIZE) == b"\x5a" * SIZE
    assert (bool(source.device), source.size_bytes) == (kind == "mapped", SIZE)
    assert all(isinstance(number, int) for number in (*source, device, stream))


def test_memory_of_others_is_copied(world):
    """Memory that is not page-locked is copied, too."""
    cuda, stream = world.resources, world.resources.stream_create()
    source, target = np.arange(SIZE, dtype=np.uint8), np.zeros(SIZE, np.uint8)
    device = cuda.malloc(SIZE)

    cuda.copy_to_device(device, source.ctypes.data, SIZE, stream)
    cuda.copy_to_host(target.ctypes.data, device, SIZE, stream)
    cuda.stream_synchronize(stream)

    assert target.tolist() == source.tolist()


def test_part_of_a_buffer_is_copied(world):
    """A copy moves as many bytes as it is asked for."""
    cuda, stream = world.resources, world.resources.stream_create()
    host, device = cuda.host_alloc(SIZE, "pinned"), cuda.malloc(SIZE)
    ctypes.memset(host.host, 1, SIZE)
    ctypes.memset(device, 0, SIZE)

    cuda.copy_to_device(device, host.host, SIZE // 2, stream)

    assert ctypes.string_at(device, SIZE) == b"\1" * (SIZE // 2) + b"\0" * (SIZE // 2)


def test_events_measure(world):
    """The time between two events is in seconds, forwards."""
    cuda, stream = world.resources, world.resources.stream_create()
    start, end = cuda.event_create(), cuda.event_create()

    cuda.event_record(start, stream)
    cuda.event_record(end, stream)

    assert cuda.elapsed_s(start, end) == pytest.approx(0.001)
    cuda.event_destroy(start)
    cuda.event_destroy(end)
    cuda.stream_destroy(stream)


def test_free_memory_falls_and_rises(world):
    """Free memory falls by what is allocated, and rises when that is released."""
    cuda, before = world.resources, world.resources.free_bytes()
    device, host = cuda.malloc(SIZE), cuda.host_alloc(SIZE, "pinned")

    assert cuda.free_bytes() == before - 2 * SIZE
    cuda.free(device)
    cuda.host_free(host)
    assert (cuda.free_bytes(), world.library.memory) == (before, {})


@pytest.mark.parametrize(
    ("runtime_name", "driver_name", "call"),
    [
        ("cudaMalloc", "cuMemAlloc", lambda cuda: cuda.malloc(SIZE)),
        ("cudaHostAlloc", "cuMemHostAlloc", lambda cuda: cuda.host_alloc(SIZE, "pinned")),
        ("cudaMemGetInfo", "cuMemGetInfo", lambda cuda: cuda.free_bytes()),
        ("cudaStreamCreateWithFlags", "cuStreamCreate", lambda cuda: cuda.stream_create()),
        ("cudaEventCreateWithFlags", "cuEventCreate", lambda cuda: cuda.event_create()),
    ],
)
def test_failures_are_cuda_errors(world, runtime_name, driver_name, call):
    """Every failure is a CudaError that says what happened."""
    world.fail(runtime_name, driver_name)

    with pytest.raises(CudaError, match="out of memory"):
        call(world.resources)


def test_the_primary_context_is_returned():
    """Pycuda's context is the primary one, current until the end, and then released once."""
    world = World("pycuda")

    world.resources.begin("spin")
    during = len(world.driver.stack), world.driver.retained
    world.resources.end()
    world.resources.end()

    assert (during, len(world.driver.stack), world.driver.retained) == ((1, 1), 0, 0)


@pytest.mark.parametrize("cuda_graph", [False, True])
@pytest.mark.parametrize("memory_kind", ["pinned", "mapped", "device"])
@pytest.mark.parametrize("release", [NANO, TEN, RTX])
def test_a_model_runs_with_pycuda(install, load, cuda, monkeypatch, release, memory_kind, cuda_graph):
    """A model runs with each kind of memory and releases everything."""
    driver = fake_pycuda.install(monkeypatch, cuda)
    model = load(install(release), memory_kind=memory_kind, cuda_graph=cuda_graph)
    (staged,) = model.stage([{"x": np.array([[5, 1, 2, 3]], np.float32)}])

    for _ in range(3):
        model.run_once(staged)
        assert model.device_s() == pytest.approx(0.001)
        assert model.outputs(staged)[0].tolist() == [[10, 2, 4, 6]]

    assert (model.session_options["cuda_library"], bool(staged.graph)) == ("pycuda 2022.1", cuda_graph)
    model.close()
    assert (cuda.held(), driver.stack, driver.retained) == (False, [], 0)


def test_running_with_pycuda_allocates_nothing(install, load, cuda, monkeypatch):
    """An inference by pycuda has two events, two copies and one wait."""
    driver = fake_pycuda.install(monkeypatch, cuda)
    model = load(install(TEN), memory_kind="pinned")
    (staged,) = model.stage([{"x": np.zeros((1, 4), np.float32)}])
    del driver.calls[:], cuda.calls[:]

    model.run_once(staged)

    copies = ["cuEventRecord", "cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync", "cuEventRecord", "cuStreamSynchronize"]
    assert (driver.calls, cuda.calls) == (copies, [])


BROKEN = {
    "libcuda": ("raise ImportError('libcurand.so.10: cannot open shared object file')", "does not load: libcurand.so"),
    "numpy": ("import numpy; numpy.no_such_type", "does not load: module 'numpy' has no attribute"),
    "old": ("class Device: pass", "cannot use the primary context, in which TensorRT works"),
}


@pytest.mark.parametrize("name", sorted(BROKEN))
def test_a_broken_pycuda_is_left_alone(tmp_path, monkeypatch, name):
    """An unusable pycuda is replaced by libcudart, and log and doctor say why."""
    source, problem = BROKEN[name]
    (tmp_path / "pycuda").mkdir()
    (tmp_path / "pycuda" / "__init__.py").write_text("VERSION_TEXT = '2019.1.2'")
    (tmp_path / "pycuda" / "driver.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    for module in ("pycuda", "pycuda.driver"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    cudart, log = Cudart(FakeLibrary()), []

    resources = open_resources(cudart, log.append)

    assert resources is cudart
    assert log[0].startswith("libcudart is used instead of pycuda: pycuda 2019.1.2 " + problem)
    assert find_runtimes()["pycuda_error"].startswith("pycuda 2019.1.2 " + problem)
    for module in ("pycuda", "pycuda.driver"):
        sys.modules.pop(module, None)


def test_a_pycuda_that_crashes_is_no_note(tmp_path, monkeypatch):
    """A pycuda that crashes on import is a broken runtime."""
    (tmp_path / "pycuda").mkdir()
    (tmp_path / "pycuda" / "__init__.py").write_text("")
    (tmp_path / "pycuda" / "driver.py").write_text("import os; os.abort()")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))

    facts = find_in_child("pycuda")

    assert (sorted(facts), facts["broken_causes"]) == (["broken", "broken_causes"], ["crash"])
    assert facts["broken"][0].startswith("pycuda crashes: SIGABRT ended its probe (")
    assert facts["broken"][0].endswith("); so does every run with TensorRT")


def test_without_pycuda(monkeypatch):
    """Without pycuda nothing is said, and libcudart is used."""
    monkeypatch.setitem(sys.modules, "pycuda", None)
    cudart, log = Cudart(FakeLibrary()), []

    assert (open_resources(cudart, log.append), log, find_pycuda().problem) == (cudart, [], "")
