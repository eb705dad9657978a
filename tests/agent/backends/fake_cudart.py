"""A libcudart whose device memory is the host's: copies, graphs and events really happen, in order."""

# ruff: noqa: N802, N815 — the names are libcudart's
import ctypes
import struct

from efficientquant_agent.backends.cudart import _SIGNATURES

ERRORS = {
    2: ("cudaErrorMemoryAllocation", "out of memory"),
    35: ("cudaErrorInsufficientDriver", "CUDA driver version is insufficient for CUDA runtime version"),
    100: ("cudaErrorNoDevice", "no CUDA-capable device is detected"),
    708: ("cudaErrorSetOnActiveProcess", "cannot set while device is active in this process"),
    900: ("cudaErrorStreamCaptureUnsupported", "operation not permitted when stream is capturing"),
}
INTEGRATED, CAN_MAP, MAJOR, MINOR = 18, 19, 75, 76


class Function:
    """One exported function, as ctypes would show it."""

    def __init__(self, fake, name):
        self._fake = fake
        self._name = name
        self.argtypes = None

    def __call__(self, *arguments):
        """Give the code that a test wants, else do it."""
        code = self._fake.failures.get(self._name)
        if code is not None:
            return code
        self._fake.calls.append(self._name)
        return getattr(self._fake, "_" + self._name)(*arguments)


class FakeLibrary:
    """What `ctypes.CDLL` would return; `failures` maps a function's name to the code that it gives."""

    def __init__(self, version=12040, sm=86, integrated=False, name="NVIDIA GeForce RTX 3080"):
        self.version = version
        self.attributes = {INTEGRATED: int(integrated), CAN_MAP: 1, MAJOR: sm // 10, MINOR: sm % 10}
        self.name = name
        self.failures = {}
        self.calls = []
        self.memory = {}
        self.total_bytes = 1 << 33
        self.capturing = None
        self.flags = None
        self._graphs = {}
        self._handles = 0
        self._event_s = {}
        self._clock_s = 0.0
        self._functions = {}

    def __getattr__(self, name):
        absent = {"cudaGraphInstantiateWithFlags"} if self.version < 11040 else set()
        if name not in self.__dict__["_functions"]:
            if name in absent or not (name in _SIGNATURES or name.startswith("cudaGetError")):
                raise AttributeError(name)
            self._functions[name] = Function(self, name)
        return self._functions[name]

    def do(self, action):
        """Do what a stream is given, or keep it for the graph that is being captured."""
        if self.capturing is None:
            action()
        else:
            self.capturing.append(action)
        return 0

    def held(self):
        """Whether anything that was created still lives."""
        return bool(self.memory or self._graphs or self._event_s)

    def _new(self, pointer):
        self._handles += 1
        pointer._obj.value = self._handles
        return 0

    def _cudaGetErrorName(self, code):
        return ERRORS[code][0].encode()

    def _cudaGetErrorString(self, code):
        return ERRORS[code][1].encode()

    def _cudaGetLastError(self):
        return 0

    def _cudaRuntimeGetVersion(self, number):
        number._obj.value = self.version
        return 0

    _cudaDriverGetVersion = _cudaRuntimeGetVersion

    def _cudaGetDeviceCount(self, number):
        number._obj.value = 1
        return 0

    def _cudaDeviceGetAttribute(self, number, attribute, device):
        assert device == 0
        number._obj.value = self.attributes[attribute]
        return 0

    def _cudaGetDeviceProperties(self, buffer, device):
        assert device == 0
        content = struct.pack("256s16s8sIIQ", self.name.encode(), bytes(range(16)), b"", 0, 0, self.total_bytes)
        ctypes.memmove(buffer, content, len(content))
        return 0

    def _cudaSetDeviceFlags(self, flags):
        self.flags = flags
        return 0

    def _cudaMemGetInfo(self, free, total):
        used = sum(len(buffer) for buffer in self.memory.values())
        free._obj.value, total._obj.value = self.total_bytes - used, self.total_bytes
        return 0

    def _cudaMalloc(self, pointer, size_bytes):
        buffer = ctypes.create_string_buffer(size_bytes)
        address = ctypes.addressof(buffer)
        self.memory[address] = buffer
        pointer._obj.value = address
        return 0

    def _cudaHostAlloc(self, pointer, size_bytes, flags):
        assert flags in (0, 2)
        return self._cudaMalloc(pointer, size_bytes)

    def _cudaHostGetDevicePointer(self, pointer, host, flags):
        assert flags == 0
        pointer._obj.value = host
        return 0

    def _cudaFree(self, address):
        del self.memory[address]
        return 0

    _cudaFreeHost = _cudaFree

    def _cudaMemcpyAsync(self, target, source, size_bytes, kind, stream):
        assert stream
        assert kind in (1, 2)
        return self.do(lambda: ctypes.memmove(target, source, size_bytes))

    def _cudaStreamCreateWithFlags(self, pointer, flags):
        assert flags == 1
        return self._new(pointer)

    def _cudaStreamSynchronize(self, stream):
        assert stream
        return 0

    _cudaStreamDestroy = _cudaStreamSynchronize

    def _cudaEventCreateWithFlags(self, pointer, flags):
        assert flags == 0
        self._new(pointer)
        self._event_s[pointer._obj.value] = None
        return 0

    def _cudaEventRecord(self, event, stream):
        assert stream
        self._clock_s += 0.001
        self._event_s[event] = self._clock_s
        return 0

    def _cudaEventElapsedTime(self, elapsed_ms, start, end):
        elapsed_ms._obj.value = (self._event_s[end] - self._event_s[start]) * 1000
        return 0

    def _cudaEventDestroy(self, event):
        del self._event_s[event]
        return 0

    def _cudaStreamBeginCapture(self, stream, mode):
        assert stream
        assert mode == 1
        self.capturing = []
        return 0

    def _cudaStreamEndCapture(self, stream, pointer):
        assert stream
        self._new(pointer)
        self._graphs[pointer._obj.value], self.capturing = self.capturing, None
        return 0

    def _cudaGraphInstantiate(self, pointer, graph, *rest):
        assert len(rest) == (3 if self.version < 12000 else 1)
        self._new(pointer)
        self._graphs[pointer._obj.value] = self._graphs[graph]
        return 0

    def _cudaGraphInstantiateWithFlags(self, pointer, graph, flags):
        assert flags == 0
        self._new(pointer)
        self._graphs[pointer._obj.value] = self._graphs[graph]
        return 0

    def _cudaGraphLaunch(self, graph, stream):
        assert stream
        for action in self._graphs[graph]:
            action()
        return 0

    def _cudaGraphExecDestroy(self, graph):
        del self._graphs[graph]
        return 0

    _cudaGraphDestroy = _cudaGraphExecDestroy
