"""The CUDA runtime by ctypes, from CUDA 10.2 to 13.

It has memory, streams, events and graphs, and needs no package.
"""

import contextlib
import ctypes
import glob
import os
import re
import sys
import uuid
from typing import Any, Dict, Iterator, List, Optional, Tuple

from efficientquant_agent.backends.cuda_resources import CudaError as CudaError  # users of this module catch it
from efficientquant_agent.backends.cuda_resources import CudaResources, HostBuffer
from efficientquant_agent.host.device import DeviceFiles, precisions
from efficientquant_agent.records import Gpu

LIBRARY_NAMES = ("libcudart.so", "libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0", "libcudart.so.10.2")
_TOOLKIT = "/usr/local/cuda/lib64/libcudart.so"

# From driver_types.h and cuda_runtime_api.h. These numbers are the same in every release.
_SCHEDULE = {"spin": 1, "block": 4}
_MAP_HOST = 8
_HOST_ALLOC = {"pinned": 0, "mapped": 2}
_TO_DEVICE, _TO_HOST = 1, 2
_NON_BLOCKING_STREAM = 1
_CAPTURE_THREAD_LOCAL = 1
_SET_ON_ACTIVE_PROCESS = 708
_ATTRIBUTES = {"integrated": 18, "can_map_host_memory": 19, "major": 75, "minor": 76}
# cudaDeviceProp begins with name[256], uuid[16], luid[8], luidDeviceNodeMask, totalGlobalMem in every release.
_PROPERTIES_BYTES, _NAME_BYTES, _UUID_AT, _TOTAL_MEMORY_AT = 8192, 256, 256, 288

_P, _SIZE, _INT, _UINT = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_uint
_SIGNATURES: Dict[str, Tuple[Any, ...]] = {
    "cudaRuntimeGetVersion": (_P,),
    "cudaDriverGetVersion": (_P,),
    "cudaGetDeviceCount": (_P,),
    "cudaDeviceGetAttribute": (_P, _INT, _INT),
    "cudaGetDeviceProperties": (_P, _INT),
    "cudaSetDeviceFlags": (_UINT,),
    "cudaMemGetInfo": (_P, _P),
    "cudaMalloc": (_P, _SIZE),
    "cudaFree": (_P,),
    "cudaHostAlloc": (_P, _SIZE, _UINT),
    "cudaHostGetDevicePointer": (_P, _P, _UINT),
    "cudaFreeHost": (_P,),
    "cudaMemcpyAsync": (_P, _P, _SIZE, _INT, _P),
    "cudaStreamCreateWithFlags": (_P, _UINT),
    "cudaStreamSynchronize": (_P,),
    "cudaStreamDestroy": (_P,),
    "cudaEventCreateWithFlags": (_P, _UINT),
    "cudaEventRecord": (_P, _P),
    "cudaEventElapsedTime": (_P, _P, _P),
    "cudaEventDestroy": (_P,),
    "cudaStreamBeginCapture": (_P, _INT),
    "cudaStreamEndCapture": (_P, _P),
    "cudaGraphInstantiate": (_P, _P, _P, _P, _SIZE),  # until 11, from 12 on it takes the arguments of the next function
    "cudaGraphInstantiateWithFlags": (_P, _P, ctypes.c_ulonglong),  # from 11.4 on
    "cudaGraphLaunch": (_P, _P),
    "cudaGraphExecDestroy": (_P,),
    "cudaGraphDestroy": (_P,),
    "cudaGetLastError": (),
}


class Cudart(CudaResources):
    """The functions of one libcudart.

    Every failure is a CudaError. Handles and addresses are plain integers.
    """

    library = "libcudart"

    def __init__(self, library: Any) -> None:
        self._library = library
        for name, arguments in _SIGNATURES.items():
            with contextlib.suppress(AttributeError):  # older releases lack some of them, and _call() checks
                getattr(library, name).argtypes = arguments
        for name in ("cudaGetErrorName", "cudaGetErrorString"):
            getattr(library, name).restype = ctypes.c_char_p

    def _call(self, name: str, *arguments: Any) -> None:
        try:
            function = getattr(self._library, name)
        except AttributeError:
            raise CudaError(name, 0, "this release of the CUDA runtime does not have it") from None
        code = function(*arguments)
        if code:
            self._library.cudaGetLastError()  # or the next call reports this one
            raise CudaError(
                self._library.cudaGetErrorName(code).decode(), code, self._library.cudaGetErrorString(code).decode()
            )

    def _create(self, name: str, *arguments: Any) -> int:
        handle = _P()
        self._call(name, ctypes.byref(handle), *arguments)
        return handle.value or 0

    def _number(self, name: str, *arguments: Any) -> int:
        number = _INT()
        self._call(name, ctypes.byref(number), *arguments)
        return number.value

    # The device

    def runtime_version(self) -> str:
        """Return the runtime's version, e.g. "10.2".

        It needs no driver.
        """
        return _version(self._number("cudaRuntimeGetVersion"))

    def driver_version(self) -> str:
        """Return the newest CUDA version that the driver supports.

        For example "12.4", or "0.0" without a driver.
        """
        return _version(self._number("cudaDriverGetVersion"))

    def device_count(self) -> int:
        """Return how many GPUs answer.

        Raises CudaError when no GPU or no driver answers.
        """
        return self._number("cudaGetDeviceCount")

    def attribute(self, name: str, device: int = 0) -> int:
        """Return an attribute of a device.

        The names are "integrated", "can_map_host_memory", "major" and "minor".
        """
        return self._number("cudaDeviceGetAttribute", _ATTRIBUTES[name], device)

    def compute_capability(self, device: int = 0) -> int:
        """Return the compute capability, e.g. 53 for SM 5.3."""
        return 10 * self.attribute("major", device) + self.attribute("minor", device)

    def properties(self, device: int = 0) -> Tuple[str, str, int]:
        """Return a GPU's name, UUID and memory in bytes.

        The UUID is as NVML writes it, "" for a GPU without one.
        """
        buffer = ctypes.create_string_buffer(_PROPERTIES_BYTES)
        self._call("cudaGetDeviceProperties", buffer, device)
        name = buffer.raw[:_NAME_BYTES].split(b"\0")[0].decode(errors="replace")
        identity = buffer.raw[_UUID_AT : _UUID_AT + 16]
        memory_bytes = ctypes.c_uint64.from_buffer(buffer, _TOTAL_MEMORY_AT).value
        return name, "GPU-{}".format(uuid.UUID(bytes=identity)) if any(identity) else "", memory_bytes

    def begin(self, sync_mode: str) -> None:
        """Set how the host waits, and allow mapped memory.

        `sync_mode` is "spin" or "block". Before CUDA 11 the flags of a device in use cannot be set again, and stay as
        they were.
        """
        try:
            self._call("cudaSetDeviceFlags", _SCHEDULE[sync_mode] | _MAP_HOST)
        except CudaError as error:
            if error.code != _SET_ON_ACTIVE_PROCESS:
                raise

    def end(self) -> None:
        """Do nothing, because the context ends with the process."""

    def free_bytes(self) -> int:
        """Return the bytes of device memory that are free."""
        free, total = _SIZE(), _SIZE()
        self._call("cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
        return free.value

    # Memory

    def malloc(self, size_bytes: int) -> int:
        """Allocate device memory and return its address."""
        return self._create("cudaMalloc", size_bytes)

    def free(self, address: int) -> None:
        """Release device memory."""
        self._call("cudaFree", address)

    def host_alloc(self, size_bytes: int, kind: str) -> HostBuffer:
        """Allocate host memory, "pinned" or "mapped"."""
        host = self._create("cudaHostAlloc", size_bytes, _HOST_ALLOC[kind])
        device = self._create("cudaHostGetDevicePointer", host, 0) if kind == "mapped" else 0
        return HostBuffer(host, device, size_bytes)

    def host_free(self, buffer: HostBuffer) -> None:
        """Release host memory."""
        self._call("cudaFreeHost", buffer.host)

    def copy_to_device(self, device: int, host: int, size_bytes: int, stream: int) -> None:
        """Copy from host to device, in the order of the stream."""
        self._call("cudaMemcpyAsync", device, host, size_bytes, _TO_DEVICE, stream)

    def copy_to_host(self, host: int, device: int, size_bytes: int, stream: int) -> None:
        """Copy from device to host, in the order of the stream."""
        self._call("cudaMemcpyAsync", host, device, size_bytes, _TO_HOST, stream)

    # Streams and events

    def stream_create(self) -> int:
        """Create a stream that does not wait for the default stream."""
        return self._create("cudaStreamCreateWithFlags", _NON_BLOCKING_STREAM)

    def stream_synchronize(self, stream: int) -> None:
        """Wait until a stream is done.

        begin() decides how the host waits.
        """
        self._call("cudaStreamSynchronize", stream)

    def stream_destroy(self, stream: int) -> None:
        """Release a stream."""
        self._call("cudaStreamDestroy", stream)

    def event_create(self) -> int:
        """Create an event that records the time."""
        return self._create("cudaEventCreateWithFlags", 0)

    def event_record(self, event: int, stream: int) -> None:
        """Record the device's time when the stream reaches the event."""
        self._call("cudaEventRecord", event, stream)

    def elapsed_s(self, start: int, end: int) -> float:
        """Return the device's time between two events in seconds."""
        elapsed_ms = ctypes.c_float()
        self._call("cudaEventElapsedTime", ctypes.byref(elapsed_ms), start, end)
        return elapsed_ms.value / 1000.0

    def event_destroy(self, event: int) -> None:
        """Release an event."""
        self._call("cudaEventDestroy", event)

    # Graphs

    @contextlib.contextmanager
    def capture(self, stream: int) -> Iterator[List[int]]:
        """Capture the work of a stream as a graph.

        The list holds the executable graph afterwards.
        """
        captured: List[int] = []
        self._call("cudaStreamBeginCapture", stream, _CAPTURE_THREAD_LOCAL)
        is_complete = False
        try:
            yield captured
            is_complete = True
        finally:
            if not is_complete:
                with contextlib.suppress(CudaError):  # the first error is the one to report
                    self._call("cudaGraphDestroy", self._create_swapped("cudaStreamEndCapture", stream))
        graph = self._create_swapped("cudaStreamEndCapture", stream)
        try:
            captured.append(self._instantiate(graph))
        finally:
            self._call("cudaGraphDestroy", graph)

    def _create_swapped(self, name: str, argument: int) -> int:
        handle = _P()
        self._call(name, argument, ctypes.byref(handle))
        return handle.value or 0

    def _instantiate(self, graph: int) -> int:
        if hasattr(self._library, "cudaGraphInstantiateWithFlags"):
            return self._create("cudaGraphInstantiateWithFlags", graph, 0)
        return self._create("cudaGraphInstantiate", graph, None, None, 0)

    def graph_launch(self, graph: int, stream: int) -> None:
        """Launch an executable graph."""
        self._call("cudaGraphLaunch", graph, stream)

    def graph_destroy(self, graph: int) -> None:
        """Release an executable graph."""
        self._call("cudaGraphExecDestroy", graph)


def open_library(path: str = "") -> Cudart:
    """Return the CUDA runtime of this machine.

    Of several, it is the first whose GPU answers, because a runtime that is newer than the driver does not work. If no
    GPU answers, it is the first that loads. Raises CudaError with the names that were tried when none loads.
    """
    opened: Optional[Cudart] = None
    for candidate in [path] if path else _candidates():
        try:
            library = Cudart(ctypes.CDLL(candidate))
        except (OSError, AttributeError):
            continue
        opened = opened or library
        try:
            library.device_count()
        except CudaError:
            continue
        return library
    if opened is None:
        tried = path or ", ".join(LIBRARY_NAMES)
        raise CudaError("libcudart", 0, "not found (tried {}); install the CUDA runtime".format(tried))
    return opened


def loaded_path() -> str:
    """Return the path of the loaded CUDA runtime, empty without one."""
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as stream:
        match = re.search(r"(/\S*/libcudart[^/\s]*)$", stream.read(), re.MULTILINE)
    return match.group(1) if match else ""


def _candidates() -> List[str]:
    """Return the paths where the runtime may be.

    The loader's own search comes first, then the toolkit, then NVIDIA's pip packages.
    """
    packaged: List[str] = []
    for entry in sys.path:
        packaged.extend(sorted(glob.glob(os.path.join(entry, "nvidia", "*", "lib", "libcudart.so.*")), reverse=True))
    return [*LIBRARY_NAMES, _TOOLKIT, *packaged]


def gpus(library: Optional[Cudart] = None, proc: str = "/proc") -> List[Gpu]:
    """Return every GPU with the precisions of its SM.

    Raises CudaError without a runtime, a driver or a GPU.
    """
    library = library or open_library()
    driver_version = DeviceFiles(proc=proc).driver_version() or "CUDA " + library.driver_version()
    all_gpus = []
    for device in range(library.device_count()):
        name, identity, memory_bytes = library.properties(device)
        sm = library.compute_capability(device)
        all_gpus.append(
            Gpu(
                name=name,
                uuid=identity,
                compute_capability=sm,
                memory_total_bytes=memory_bytes,
                integrated=bool(library.attribute("integrated", device)),
                driver_version=driver_version,
                **precisions(sm)._asdict(),
            )
        )
    return all_gpus


def _version(number: int) -> str:
    return "{}.{}".format(number // 1000, number % 1000 // 10)
