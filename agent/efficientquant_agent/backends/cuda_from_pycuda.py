"""CUDA's context, memory, streams and events from pycuda, where it is installed.

pycuda has no graphs, and no way to set the flags of the primary context. Both come from libcudart, which works in the
same context, so streams and addresses are the same for both.
"""

import atexit
import ctypes
import importlib
import itertools
from typing import Any, Callable, Dict, NamedTuple

from efficientquant_agent.backends.base import FAILURES, is_installed
from efficientquant_agent.backends.cuda_resources import CudaError, CudaResources, HostBuffer
from efficientquant_agent.backends.cudart import Cudart

_NON_BLOCKING_STREAM = 1


class PycudaState(NamedTuple):
    """Whether pycuda can be used.

    `driver` is its module pycuda.driver, or None. `problem` says why an installed pycuda cannot be used.
    """

    driver: Any
    version: str = ""
    problem: str = ""


def find_pycuda() -> PycudaState:
    """Return the installed pycuda, or what is wrong with it."""
    if not is_installed("pycuda"):
        return PycudaState(None)
    version = ""
    try:
        version = str(getattr(importlib.import_module("pycuda"), "VERSION_TEXT", ""))
        driver = importlib.import_module("pycuda.driver")
        has_primary_context = hasattr(driver.Device, "retain_primary_context")
    except FAILURES as error:
        return PycudaState(None, version, "pycuda {} does not load: {}".format(version, error).replace("  ", " "))
    if not has_primary_context:
        return PycudaState(
            None, version, "pycuda {} cannot use the primary context, in which TensorRT works".format(version)
        )
    return PycudaState(driver, version)


def open_resources(cuda: Cudart, say: Callable[[str], None]) -> CudaResources:
    """Return pycuda's resources where it can be used, else libcudart's.

    An installed pycuda that cannot be used is a line for `say`.
    """
    pycuda = find_pycuda()
    if pycuda.problem:
        say("libcudart is used instead of pycuda: {}".format(pycuda.problem))
    return cuda if pycuda.driver is None else Pycuda(pycuda.driver, pycuda.version, cuda)


class Pycuda(CudaResources):
    """The resources that pycuda.driver gives.

    pycuda has objects where the contract has integers. They are kept here until they are released.
    """

    def __init__(self, driver: Any, version: str, cuda: Cudart) -> None:
        self.library = "pycuda {}".format(version).strip()
        self._driver = driver
        self._cuda = cuda
        self._context: Any = None
        self._memory: Dict[int, Any] = {}
        self._host_memory: Dict[int, Any] = {}
        self._streams: Dict[int, Any] = {}
        self._events: Dict[int, Any] = {}
        self._numbers = itertools.count(1)

    def _ask(self, call: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return call(*arguments)
        except self._driver.Error as error:
            raise CudaError("pycuda {}".format(type(error).__name__), 0, str(error)) from error

    def begin(self, sync_mode: str) -> None:
        """Make the primary context current, with the flags that libcudart sets.

        libcudart creates the context, because its flags are for contexts that it creates.
        """
        self._cuda.begin(sync_mode)
        self._cuda.free_bytes()
        self._ask(self._driver.init)
        self._context = self._ask(self._ask(self._driver.Device, 0).retain_primary_context)
        self._ask(self._context.push)
        # pycuda aborts a process that exits with a context on its stack.
        atexit.register(self.end)

    def end(self) -> None:
        """Release what is left, then the context."""
        if self._context is None:
            return
        for held in (self._events, self._streams, self._memory, self._host_memory):
            held.clear()  # pycuda releases what nothing refers to
        context, self._context = self._context, None
        self._ask(context.pop)
        self._ask(context.detach)
        atexit.unregister(self.end)

    def free_bytes(self) -> int:
        """Return the bytes of device memory that are free."""
        return int(self._ask(self._driver.mem_get_info)[0])

    def malloc(self, size_bytes: int) -> int:
        """Allocate device memory and return its address."""
        allocation = self._ask(self._driver.mem_alloc, size_bytes)
        self._memory[int(allocation)] = allocation
        return int(allocation)

    def free(self, address: int) -> None:
        """Release device memory."""
        self._ask(self._memory.pop(address).free)

    def host_alloc(self, size_bytes: int, kind: str) -> HostBuffer:
        """Allocate host memory, "pinned" or "mapped"."""
        flags = self._driver.host_alloc_flags.DEVICEMAP if kind == "mapped" else 0
        array = self._ask(self._driver.pagelocked_empty, size_bytes, "uint8", "C", flags)
        self._host_memory[array.ctypes.data] = array
        device = int(self._ask(array.base.get_device_pointer)) if kind == "mapped" else 0
        return HostBuffer(array.ctypes.data, device, size_bytes)

    def host_free(self, buffer: HostBuffer) -> None:
        """Release host memory."""
        self._ask(self._host_memory.pop(buffer.host).base.free)

    def copy_to_device(self, device: int, host: int, size_bytes: int, stream: int) -> None:
        """Copy from host to device, in the order of the stream.

        pycuda copies asynchronously from page-locked memory only. Other memory is copied when the stream is done.
        """
        array = self._host_memory.get(host)
        if array is None:
            self.stream_synchronize(stream)
            self._ask(self._driver.memcpy_htod, device, _buffer(host, size_bytes))
        else:
            self._ask(self._driver.memcpy_htod_async, device, array[:size_bytes], self._streams[stream])

    def copy_to_host(self, host: int, device: int, size_bytes: int, stream: int) -> None:
        """Copy from device to host, in the order of the stream."""
        array = self._host_memory.get(host)
        if array is None:
            self.stream_synchronize(stream)
            self._ask(self._driver.memcpy_dtoh, _buffer(host, size_bytes), device)
        else:
            self._ask(self._driver.memcpy_dtoh_async, array[:size_bytes], device, self._streams[stream])

    def stream_create(self) -> int:
        """Create a stream that does not wait for the default stream."""
        stream = self._ask(self._driver.Stream, _NON_BLOCKING_STREAM)
        self._streams[int(stream.handle)] = stream
        return int(stream.handle)

    def stream_synchronize(self, stream: int) -> None:
        """Wait until a stream is done."""
        self._ask(self._streams[stream].synchronize)

    def stream_destroy(self, stream: int) -> None:
        """Release a stream."""
        del self._streams[stream]

    def event_create(self) -> int:
        """Create an event that records the time."""
        number = next(self._numbers)
        self._events[number] = self._ask(self._driver.Event, self._driver.event_flags.DEFAULT)
        return number

    def event_record(self, event: int, stream: int) -> None:
        """Record the device's time when the stream reaches the event."""
        self._ask(self._events[event].record, self._streams[stream])

    def elapsed_s(self, start: int, end: int) -> float:
        """Return the device's time between two events in seconds."""
        return float(self._ask(self._events[end].time_since, self._events[start])) / 1000.0

    def event_destroy(self, event: int) -> None:
        """Release an event."""
        del self._events[event]


def _buffer(host: int, size_bytes: int) -> Any:
    """Return memory at an address as a writable buffer."""
    return (ctypes.c_char * size_bytes).from_address(host)
