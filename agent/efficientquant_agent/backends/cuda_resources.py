"""The contract of what the TensorRT backend takes from CUDA.

cudart.py implements it by libcudart, cuda_from_pycuda.py by pycuda. One contract test runs against both.
"""

import abc
from typing import NamedTuple

_ADVICE = {
    "cudaErrorNoDevice": "no NVIDIA GPU is visible here; in a container, start it with the NVIDIA runtime",
    "cudaErrorInsufficientDriver": "the NVIDIA driver is missing or older than this CUDA runtime needs",
    "cudaErrorSystemDriverMismatch": "the driver was updated while it was loaded; restart the machine",
    "cudaErrorSystemNotReady": "the driver's services are not running; start nvidia-fabricmanager, or restart",
}


class CudaError(Exception):
    """A call of CUDA that failed.

    `code` is 0 where the library itself could not be used, or gives none.
    """

    def __init__(self, name: str, code: int, message: str) -> None:
        advice = _ADVICE.get(name)
        super().__init__("{} ({}): {}{}".format(name, code, message, "; " + advice if advice else ""))
        self.name = name
        self.code = code
        self.message = message


class HostBuffer(NamedTuple):
    """Host memory that the GPU reads, pinned or mapped.

    Mapped memory has an address on the GPU too.
    """

    host: int
    # The GPU's address of the memory, 0 unless it is mapped.
    device: int
    size_bytes: int


class CudaResources(abc.ABC):
    """The context, memory, streams and events of CUDA's first GPU.

    Handles and addresses are plain integers, and TensorRT takes them. Every failure MUST be a CudaError, whose message
    says "out of memory" where memory ran out. The context MUST be the GPU's primary one, because TensorRT uses that.
    """

    # The library, and its version where that is not CUDA's own. It is stored with the run.
    library = ""

    @abc.abstractmethod
    def begin(self, sync_mode: str) -> None:
        """Choose how the host waits, and make the context current.

        `sync_mode` is "spin" or "block". Called once, before anything else.
        """

    @abc.abstractmethod
    def end(self) -> None:
        """Release the context, after everything else was released.

        Calling it again does nothing.
        """

    @abc.abstractmethod
    def free_bytes(self) -> int:
        """Return the bytes of device memory that are free."""

    @abc.abstractmethod
    def malloc(self, size_bytes: int) -> int:
        """Allocate device memory and return its address."""

    @abc.abstractmethod
    def free(self, address: int) -> None:
        """Release device memory."""

    @abc.abstractmethod
    def host_alloc(self, size_bytes: int, kind: str) -> HostBuffer:
        """Allocate host memory, "pinned" or "mapped"."""

    @abc.abstractmethod
    def host_free(self, buffer: HostBuffer) -> None:
        """Release host memory."""

    @abc.abstractmethod
    def copy_to_device(self, device: int, host: int, size_bytes: int, stream: int) -> None:
        """Copy from host to device, in the order of the stream.

        Host memory that is not from `host_alloc` may have been read only when the stream is done.
        """

    @abc.abstractmethod
    def copy_to_host(self, host: int, device: int, size_bytes: int, stream: int) -> None:
        """Copy from device to host, in the order of the stream."""

    @abc.abstractmethod
    def stream_create(self) -> int:
        """Create a stream that does not wait for the default stream."""

    @abc.abstractmethod
    def stream_synchronize(self, stream: int) -> None:
        """Wait until a stream is done, as `begin` chose."""

    @abc.abstractmethod
    def stream_destroy(self, stream: int) -> None:
        """Release a stream."""

    @abc.abstractmethod
    def event_create(self) -> int:
        """Create an event that records the time."""

    @abc.abstractmethod
    def event_record(self, event: int, stream: int) -> None:
        """Record the device's time when the stream reaches the event."""

    @abc.abstractmethod
    def elapsed_s(self, start: int, end: int) -> float:
        """Return the device's time between two events in seconds."""

    @abc.abstractmethod
    def event_destroy(self, event: int) -> None:
        """Release an event."""
