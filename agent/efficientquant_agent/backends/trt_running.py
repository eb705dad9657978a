"""TensorRT inference, from a plan to its outputs and times.

Bindings are used until 8.4, named tensors from 8.5 on. Every TensorRT object is held in a variable named for its class
(engine, context, inspector, …), for the contract test.
"""

import ctypes
import sys
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from efficientquant_agent.backends.base import (
    EngineReport,
    InferenceError,
    LoadedModel,
    LoadError,
    LoadOptions,
    OutOfMemoryError,
    Stage,
    StalePlanError,
    error_for,
)
from efficientquant_agent.backends.cuda_from_pycuda import open_resources
from efficientquant_agent.backends.cuda_resources import CudaError, CudaResources, HostBuffer
from efficientquant_agent.backends.cudart import Cudart
from efficientquant_agent.backends.trt_buffers import Buffers, choose_memory_kind
from efficientquant_agent.backends.trt_layers import read_layers
from efficientquant_agent.backends.trt_log import PYTHON_ERRORS, error_of, open_log, start_error

# Used instead of trt.nptype(), which fails on numpy 1.24 and newer until TensorRT 8.6.
_NUMPY_TYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}


class Tensor(NamedTuple):
    """An input or output of an engine."""

    name: str
    is_input: bool
    shape: Tuple[int, ...]
    # TensorRT's name of the type, e.g. "FLOAT".
    type: str

    @property
    def size_bytes(self) -> int:
        """The tensor's size in bytes."""
        import numpy as np

        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(_NUMPY_TYPES[self.type]).itemsize


class Staged:
    """One input that is ready to run."""

    __slots__ = ("addresses", "bindings", "copies", "graph")

    def __init__(self, addresses: List[Tuple[str, int]], bindings: List[int], copies: List[Tuple[int, int, int]]):
        # (tensor name, device address) of the memory of this staged input.
        self.addresses = addresses
        # Device addresses of all inputs and outputs in the engine's order, for releases until 8.4.
        self.bindings = bindings
        # (device address, host address, bytes)
        self.copies = copies
        self.graph = 0


def load(trt: Any, cuda: Cudart, content: bytes, options: LoadOptions, stage: Stage) -> LoadedModel:
    """Load a plan.

    Raises StalePlanError when TensorRT does not accept it, OutOfMemoryError when memory ran out (the plan is still
    good), and LoadError for anything else.
    """
    logger = open_log(trt, _say)
    try:
        with stage("cuda_init"):
            resources = open_resources(cuda, _say)
            resources.begin(options.sync_mode)
            free_bytes = resources.free_bytes()
        with stage("deserialize"):
            runtime, engine = _deserialize(trt, logger, content)
        with stage("create_context"):
            context = engine.create_execution_context()
            if context is None:
                raise error_of(logger, LoadError, "TensorRT could not create an execution context")
            return TrtModel(trt, (cuda, resources), (logger, runtime, engine, context), options, free_bytes)
    except CudaError as error:
        raise error_for(str(error), LoadError) from error


def _deserialize(trt: Any, logger: Any, content: bytes) -> Tuple[Any, Any]:
    """Return the runtime and the engine, or raise as load() does."""
    try:
        if hasattr(trt, "init_libnvinfer_plugins"):
            trt.init_libnvinfer_plugins(logger, "")
        runtime = trt.Runtime(logger)
        engine = runtime.deserialize_cuda_engine(content)
    except PYTHON_ERRORS as error:  # pybind11's for a runtime that does not start
        raise error_of(logger, LoadError, start_error(logger, str(error))) from error
    if engine is None:
        raise error_of(logger, StalePlanError, "TensorRT does not accept this plan and does not say why")
    return runtime, engine


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")


class TrtModel(LoadedModel):
    """An engine with one context, one stream and its output buffers.

    CUDA graphs come from libcudart, everything else of CUDA from `resources`.
    """

    def __init__(
        self,
        trt: Any,
        cuda: Tuple[Cudart, CudaResources],
        objects: Tuple[Any, ...],
        options: LoadOptions,
        free_bytes: int,
    ) -> None:
        self._trt = trt
        self._cuda, resources = cuda
        self._resources = resources
        self._logger, self._runtime, self._engine, self._context = objects
        context = self._context
        self._execute = self._execute_v3 if hasattr(context, "execute_async_v3") else self._execute_v2
        self._memory_kind = choose_memory_kind(options.memory_kind, self._cuda)
        self._buffers = Buffers(self._cuda, resources, self._memory_kind)
        self._stream = resources.stream_create()
        self._start, self._end = resources.event_create(), resources.event_create()
        self._tensors = self._io_tensors()
        self._outputs = [
            (tensor, self._buffers.add(tensor.size_bytes)) for tensor in self._tensors if not tensor.is_input
        ]
        self._address_outputs(context)
        self._wants_graph = options.cuda_graph
        self._ran = False
        self._device_memory_bytes = max(_context_bytes(self._engine), free_bytes - resources.free_bytes())
        # Read this after the measurement, because only the second inference shows whether a CUDA graph can be captured.
        self.session_options: Dict[str, str] = {
            "sync_mode": options.sync_mode,
            "cuda_graph": "on" if options.cuda_graph else "off",
            "memory_kind": self._memory_kind,
            "cuda_library": resources.library,
            "transfers": {"pinned": "both ways in every query", "mapped": "none: mapped memory"}.get(
                self._memory_kind, "none: inputs and outputs stay on the device"
            ),
        }

    def input_shapes(self) -> Dict[str, Tuple[int, ...]]:
        """Return every input's shape by name.

        Raises LoadError for an input that is not FLOAT.
        """
        inputs = [tensor for tensor in self._tensors if tensor.is_input]
        for tensor in inputs:
            if tensor.type != "FLOAT":
                raise LoadError("input '{}' is {}; only FLOAT inputs can be staged".format(tensor.name, tensor.type))
        return {tensor.name: tensor.shape for tensor in inputs}

    def _io_tensors(self) -> List[Tensor]:
        """Return the engine's inputs and outputs in its order."""
        tensors = self._named() if hasattr(self._engine, "num_io_tensors") else self._bound()
        for tensor in tensors:
            if tensor.type not in _NUMPY_TYPES:
                raise LoadError("'{}' is {}, which numpy does not have".format(tensor.name, tensor.type))
        return tensors

    def _named(self) -> List[Tensor]:
        trt, engine = self._trt, self._engine
        return [
            Tensor(
                name,
                engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT,
                tuple(engine.get_tensor_shape(name)),
                engine.get_tensor_dtype(name).name,
            )
            for name in map(engine.get_tensor_name, range(engine.num_io_tensors))
        ]

    def _bound(self) -> List[Tensor]:
        engine = self._engine
        return [
            Tensor(
                engine.get_binding_name(index),
                engine.binding_is_input(index),
                tuple(engine.get_binding_shape(index)),
                engine.get_binding_dtype(index).name,
            )
            for index in range(engine.num_bindings)
        ]

    def _address_outputs(self, context: Any) -> None:
        if hasattr(context, "set_tensor_address"):
            for tensor, buffer in self._outputs:
                context.set_tensor_address(tensor.name, buffer.device)

    def stage(self, feeds: Sequence[Mapping[str, Any]]) -> List[Any]:
        """Return one `Staged` per feed, each with its own input memory."""
        import numpy as np

        staged = []
        for feed in feeds:
            placed: Dict[str, HostBuffer] = {tensor.name: buffer for tensor, buffer in self._outputs}
            addresses, copies = [], []
            for name, shape in self.input_shapes().items():
                array = np.ascontiguousarray(feed[name], np.float32).reshape(shape)
                buffer = self._buffers.add(array.nbytes)
                self._fill(buffer, array)
                placed[name] = buffer
                addresses.append((name, buffer.device))
                if self._memory_kind == "pinned":
                    copies.append((buffer.device, buffer.host, buffer.size_bytes))
            staged.append(Staged(addresses, [placed[tensor.name].device for tensor in self._tensors], copies))
        return staged

    def _fill(self, buffer: HostBuffer, array: Any) -> None:
        """Write an input once, with a memcpy."""
        if buffer.host:  # mapped memory is uncached for the CPU of a Jetson Nano
            ctypes.memmove(buffer.host, array.ctypes.data, array.nbytes)
        else:
            self._resources.copy_to_device(buffer.device, array.ctypes.data, array.nbytes, self._stream)
            self._resources.stream_synchronize(self._stream)

    def run_once(self, staged: Any) -> Any:
        """Run one inference between two CUDA events, into this model's buffers."""
        cuda, stream = self._resources, self._stream
        try:
            if self._wants_graph and not staged.graph and self._ran:
                self._capture(staged)
            cuda.event_record(self._start, stream)
            if staged.graph:
                self._cuda.graph_launch(staged.graph, stream)
            else:
                self._enqueue(self._context, staged)
            cuda.event_record(self._end, stream)
            cuda.stream_synchronize(stream)
        except CudaError as error:
            raise error_for(str(error), InferenceError) from error
        self._ran = True

    def _enqueue(self, context: Any, staged: Staged) -> None:
        cuda, stream = self._resources, self._stream
        for device, host, size_bytes in staged.copies:
            cuda.copy_to_device(device, host, size_bytes, stream)
        if not self._execute(context, staged):
            raise error_of(self._logger, InferenceError, "TensorRT could not enqueue the inference")
        if self._memory_kind == "pinned":
            for _, buffer in self._outputs:
                cuda.copy_to_host(buffer.host, buffer.device, buffer.size_bytes, stream)

    def _execute_v2(self, context: Any, staged: Staged) -> bool:
        return bool(context.execute_async_v2(staged.bindings, self._stream))

    def _execute_v3(self, context: Any, staged: Staged) -> bool:
        for name, address in staged.addresses:
            context.set_tensor_address(name, address)
        return bool(context.execute_async_v3(self._stream))

    def _capture(self, staged: Staged) -> None:
        """Capture one inference as a CUDA graph.

        If that fails, all inferences run without a graph, and `session_options` says why.
        """
        try:
            with self._cuda.capture(self._stream) as captured:
                self._enqueue(self._context, staged)
            staged.graph = self._buffers.keep_graph(captured[0])
        except (CudaError, InferenceError, OutOfMemoryError) as error:
            self._wants_graph = False
            self.session_options["cuda_graph"] = "off: could not be captured: {}".format(error)

    def outputs(self, staged: Any) -> List[Any]:
        """Run one inference and return its outputs as new numpy arrays."""
        import numpy as np

        self.run_once(staged)
        arrays = []
        for tensor, buffer in self._outputs:
            array = np.empty(tensor.shape, _NUMPY_TYPES[tensor.type])
            if buffer.host:
                ctypes.memmove(array.ctypes.data, buffer.host, array.nbytes)
            else:
                self._resources.copy_to_host(array.ctypes.data, buffer.device, array.nbytes, self._stream)
                self._resources.stream_synchronize(self._stream)
            arrays.append(array)
        return arrays

    def device_s(self) -> float:
        """Return the seconds between the last query's events, with transfers."""
        return self._resources.elapsed_s(self._start, self._end)

    def device_memory_bytes(self) -> Optional[int]:
        """Return the bytes of device memory that loading took.

        It is the drop in free memory during the load, without the CUDA context. Where CPU and GPU share memory, other
        processes may free some meanwhile, so it is at least the engine's own figure for one context.
        """
        return self._device_memory_bytes

    def report(self) -> EngineReport:
        """Return the engine inspector's layers.

        Raises InferenceError for a text that cannot be read.
        """
        inspector = self._engine.create_engine_inspector()
        inspector.execution_context = self._context
        return read_layers(inspector.get_engine_information(self._trt.LayerInformationFormat.JSON))

    def profile_layers(self, staged: Any, repeats: int) -> List[Tuple[str, float]]:
        """Return (layer, mean seconds) from a separate context, slowed by profiling."""
        trt: Any = self._trt
        engine = self._engine
        total_s: Dict[str, float] = {}

        class LayerTimes(trt.IProfiler):
            def __init__(self) -> None:
                super().__init__()

            def report_layer_time(self, layer_name: str, ms: float) -> None:
                total_s[layer_name] = total_s.get(layer_name, 0.0) + ms / 1000.0

        context = engine.create_execution_context()
        if context is None:
            return []
        self._address_outputs(context)
        profiler = LayerTimes()  # the context holds no reference to it
        context.profiler = profiler
        for repeat in range(repeats + 1):
            if repeat == 1:  # the first repeat was the warm-up
                total_s.clear()
            self._enqueue(context, staged)
            self._resources.stream_synchronize(self._stream)
        del context
        return [(name, seconds / max(1, repeats)) for name, seconds in total_s.items()]

    def close(self) -> None:
        """Release everything in the order of its dependencies."""
        self._buffers.close()
        self._resources.event_destroy(self._start)
        self._resources.event_destroy(self._end)
        self._resources.stream_destroy(self._stream)
        self._context = None
        self._engine = None
        self._runtime = None
        self._resources.end()


def _context_bytes(engine: Any) -> int:
    """Return the bytes that one context needs for its activations."""
    if hasattr(engine, "device_memory_size_v2"):
        return int(engine.device_memory_size_v2)
    return int(engine.device_memory_size)
