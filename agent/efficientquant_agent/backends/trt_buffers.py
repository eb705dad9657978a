"""The memory of a TensorRT model, and its CUDA graphs."""

from typing import List

from efficientquant_agent.backends.base import LoadError
from efficientquant_agent.backends.cuda_resources import CudaResources, HostBuffer
from efficientquant_agent.backends.cudart import Cudart


class Buffers:
    """All memory and graphs of one model.

    "pinned" buffers have a host and a device part. The other kinds have one part.
    """

    def __init__(self, cuda: Cudart, resources: CudaResources, memory_kind: str) -> None:
        self._cuda = cuda
        self._resources = resources
        self._memory_kind = memory_kind
        self._held: List[HostBuffer] = []
        self._graphs: List[int] = []

    def add(self, size_bytes: int) -> HostBuffer:
        """Allocate memory, with `host` 0 where only the device sees it."""
        if self._memory_kind == "mapped":
            buffer = self._resources.host_alloc(size_bytes, "mapped")
        else:
            host = self._resources.host_alloc(size_bytes, "pinned").host if self._memory_kind == "pinned" else 0
            buffer = HostBuffer(host, self._resources.malloc(size_bytes), size_bytes)
        self._held.append(buffer)
        return buffer

    def keep_graph(self, graph: int) -> int:
        """Take ownership of a graph and return it."""
        self._graphs.append(graph)
        return graph

    def close(self) -> None:
        """Release all memory and graphs."""
        for graph in self._graphs:
            self._cuda.graph_destroy(graph)
        for buffer in self._held:
            if buffer.host:
                self._resources.host_free(buffer)
            if self._memory_kind != "mapped":
                self._resources.free(buffer.device)
        del self._held[:], self._graphs[:]


def choose_memory_kind(requested: str, cuda: Cudart) -> str:
    """Return the kind of memory to use: "pinned", "mapped" or "device".

    "auto" is mapped where CPU and GPU share their memory, else pinned. Raises LoadError for "mapped" when the GPU
    cannot map memory.
    """
    mappable = bool(cuda.attribute("can_map_host_memory"))
    if requested == "auto":
        return "mapped" if mappable and cuda.attribute("integrated") else "pinned"
    if requested == "mapped" and not mappable:
        raise LoadError("this GPU cannot map host memory; choose memory kind pinned or device")
    return requested
