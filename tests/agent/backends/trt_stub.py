"""A module `tensorrt` of any release: exactly its attributes, and an engine that doubles what it is given.

What the ONNX file says decides how parsing and building go: a JSON object with "layers", "shape", "refuse",
"no_kernel" and "memory_for" (bytes: a larger workspace runs out of memory).
"""

# ruff: noqa: D101, D102 — the names and their meaning are TensorRT's
import ctypes
import enum
import json
import types

from trt_api import api_of

SHAPE = (-1, 4)
NO_KERNEL = "Could not find any implementation for node"


def make(release, fake_cudart):
    """Return the stub of a release; its classes raise AttributeError for what the release does not have."""
    api = api_of(release)
    module = types.ModuleType("tensorrt")
    module.__version__ = release.replace("rtx-", "")
    module.init_libnvinfer_plugins = lambda _logger, _namespace: True
    module.cuda = fake_cudart
    for name, attributes in api.items():
        if name in _ENUMS:
            # their numbers move between releases: only names may be used
            numbers = {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1}
            members = [(one, numbers.get(one, i + 7)) for i, one in enumerate(sorted(attributes))]
            setattr(module, name, enum.Enum(name, members, type=_WithInt))
        elif name in _BEHAVIOUR:
            setattr(module, name, _restricted(name, _BEHAVIOUR[name], attributes, module))
    return module


class _WithInt:
    """pybind11's enums turn into integers."""

    def __int__(self):
        return self.value


def _restricted(name, behaviour, attributes, module):
    """Return a class with the behaviour's methods that the release has, which refuses every other attribute."""
    own = {key: value for key, value in vars(behaviour).items() if key.startswith("_") or key in attributes}
    own.pop("__dict__", None)
    own.pop("__weakref__", None)
    own["_trt"] = module

    def set_attribute(self, key, value):
        if not key.startswith("_") and key not in attributes:
            raise AttributeError("{} of this release has no {}".format(name, key))
        object.__setattr__(self, key, value)

    if name not in ("ILogger", "IProfiler"):  # which are subclassed, and take what their subclass likes
        own["__setattr__"] = set_attribute
    return type(name, (), own)


class Logger:
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class Profiler:
    pass


class Tensor:
    def __init__(self, name, shape=SHAPE, dtype="FLOAT"):
        self.name = name
        self.shape = shape
        self.dtype = getattr(self._trt.DataType, dtype)


class Layer:
    def __init__(self, kind, name, inputs, outputs):
        self.type = getattr(self._trt.LayerType, kind)
        self.name = name
        self._inputs = inputs
        self._outputs = outputs
        self.num_inputs, self.num_outputs = len(inputs), len(outputs)

    def get_input(self, index):
        return self._inputs[index]

    def get_output(self, index):
        return self._outputs[index]

    def set_input(self, index, tensor):
        self._inputs[index] = tensor


class Network:
    def __init__(self, flags):
        self._flags = flags
        self._layers = []
        self._inputs = []

    @property
    def num_inputs(self):
        return len(self._inputs)

    def get_input(self, index):
        return self._inputs[index]

    @property
    def num_layers(self):
        return len(self._layers)

    def get_layer(self, index):
        return self._layers[index]


class TimingCache:
    def __init__(self, content=b""):
        self._content = content

    def serialize(self):
        return self._content + b"t"


class Config:
    def __init__(self):
        self._flags = {"TF32"}
        self._workspace = None
        self._cache = None

    def set_flag(self, flag):
        self._flags.add(flag.name)

    def clear_flag(self, flag):
        self._flags.discard(flag.name)

    def set_memory_pool_limit(self, pool, size_bytes):
        assert pool is self._trt.MemoryPoolType.WORKSPACE
        self._workspace = size_bytes

    def create_timing_cache(self, content):
        return self._trt.ITimingCache(content) if content != b"of another version" else None

    def set_timing_cache(self, cache, ignore_mismatch):
        assert not ignore_mismatch
        self._cache = cache
        return True

    def get_timing_cache(self):
        return self._cache

    def set_compute_capability(self, capability, index):
        assert index == 0
        assert self.num_compute_capabilities == 1
        self._capability = capability.name


class Error:
    def __init__(self, kind, sentence):
        self._kind = kind
        self._sentence = sentence

    def code(self):
        return getattr(self._trt.ErrorCode, self._kind)

    def desc(self):
        return self._sentence

    def node_name(self):
        return "node_7"

    def node_operator(self):
        return "Nonsense"


class Parser:
    def __init__(self, network, logger):
        self._network = network
        self._logger = logger
        self._errors = []

    @property
    def num_errors(self):
        return len(self._errors)

    def get_error(self, index):
        return self._errors[index]

    def parse_from_file(self, path):
        trt, network = self._trt, self._network
        with open(path) as stream:
            network._model = json.load(stream)
        if "refuse" in network._model:
            self._logger.log(trt.ILogger.ERROR, 'ModelImporter.cpp:780: While parsing node number 7 [Nonsense -> "y"]:')
            self._errors.append(trt.ParserError(network._model["refuse"], "In node 7: no importer for it"))
            return False
        shape, dtype = tuple(network._model.get("shape", SHAPE)), network._model.get("type", "FLOAT")
        network._inputs.append(trt.ITensor("x", shape, dtype))
        tensors = {"x": network._inputs[0]}
        for kind, name, inputs, outputs in network._model.get("layers", ()):
            for one in outputs:
                tensors[one] = trt.ITensor(one)
            network._layers.append(trt.ILayer(kind, name, [tensors[i] for i in inputs], [tensors[o] for o in outputs]))
        return True


class Builder:
    max_batch_size = 1

    def __init__(self, logger):
        self._logger = logger

    def create_network(self, flags):
        return self._trt.INetworkDefinition(flags)

    def create_builder_config(self):
        return self._trt.IBuilderConfig()

    def build_serialized_network(self, network, config):
        trt, model = self._trt, network._model
        workspace = config._workspace if config._workspace is not None else getattr(config, "max_workspace_size", 0)
        if workspace > model.get("memory_for", workspace):
            self._logger.log(trt.ILogger.ERROR, "[defaultAllocator.cpp] Error Code 1: Cuda Runtime (out of memory)")
            return None
        for layer in network._layers:
            fed_by_dequantize = any(tensor.name.startswith("dq") for tensor in layer._inputs)
            if layer.name in model.get("no_kernel", ()) and fed_by_dequantize:
                sentence = "10: [optimizer.cpp] Error Code 10: Internal Error ({} w + {} + PWN(silu).)"
                self._logger.log(trt.ILogger.ERROR, sentence.format(NO_KERNEL, layer.name))
                return None
        said = {
            "network_flags": network._flags,
            "flags": sorted(config._flags),
            "workspace": workspace,
            "iterations": config.avg_timing_iterations,
            "verbosity": config.profiling_verbosity.name,
            "shapes": [tensor.shape for tensor in network._inputs],
            "capability": getattr(config, "_capability", None),
            "layers": [[layer.name, [tensor.name for tensor in layer._inputs]] for layer in network._layers],
        }
        return json.dumps(said).encode()


class Runtime:
    def __init__(self, logger):
        self._logger = logger

    def deserialize_cuda_engine(self, content):
        try:
            json.loads(content.decode())
        except ValueError:
            self._logger.log(self._trt.ILogger.ERROR, "The engine plan file is not compatible with this version")
            return None
        return self._trt.ICudaEngine()


class Engine:
    num_bindings = num_io_tensors = 2
    device_memory_size = device_memory_size_v2 = 4096

    def get_binding_name(self, index):
        return "xy"[index]

    get_tensor_name = get_binding_name

    def binding_is_input(self, index):
        return index == 0

    def get_tensor_mode(self, name):
        return self._trt.TensorIOMode.INPUT if name == "x" else self._trt.TensorIOMode.OUTPUT

    def get_binding_shape(self, _index):
        return (1, 4)

    get_tensor_shape = get_binding_shape

    def get_binding_dtype(self, _index):
        return self._trt.DataType.FLOAT

    get_tensor_dtype = get_binding_dtype

    def create_execution_context(self):
        return self._trt.IExecutionContext()

    def create_engine_inspector(self):
        return self._trt.EngineInspector()


class Context:
    def __init__(self):
        self._addresses = {}

    def set_tensor_address(self, name, address):
        self._addresses[name] = address

    def execute_async_v2(self, bindings, stream):
        return self._enqueue(bindings[0], bindings[1], stream)

    def execute_async_v3(self, stream):
        return self._enqueue(self._addresses["x"], self._addresses["y"], stream)

    def _enqueue(self, source, target, stream):
        assert stream
        self._trt.cuda.do(lambda: self._double(source, target))
        return True

    def _double(self, source, target):
        floats = ctypes.c_float * 4
        floats.from_address(target)[:] = [2 * one for one in floats.from_address(source)]
        if getattr(self, "profiler", None) is not None:
            self.profiler.report_layer_time("doubling", 0.5)
            self.profiler.report_layer_time("the rest", 0.25)


class Inspector:
    def get_engine_information(self, layer_format):
        assert layer_format is self._trt.LayerInformationFormat.JSON
        assert self.execution_context is not None
        return json.dumps({"Layers": LAYERS, "Bindings": ["x", "y"]})


# As the inspector writes them: with the types inside a sentence until 8.6, alone from 10 on, and names only.
LAYERS = [
    {
        "Name": "conv + silu",
        "LayerType": "CaskConvolution",
        "Inputs": [{"Name": "x", "Format/Datatype": "Four wide channel vectorized row major Int8 format"}],
        "Outputs": [{"Name": "a", "Format/Datatype": "Row major linear FP32"}],
        "ParameterType": "Convolution",
        "Weights": {"Type": "Int8", "Count": 432},
        "TacticName": "ampere_int8",
    },
    {
        "Name": "gemm",
        "LayerType": "gemm",
        "Inputs": [{"Name": "a", "Format/Datatype": "Half"}],
        "Weights": {"Type": "Half", "Count": 0},
    },
    {
        "Name": "reformat",
        "LayerType": "Reformat",
        "Inputs": [{"Name": "a", "Format/Datatype": "Row major linear FP32"}],
    },
    "a name alone",
]

_ENUMS = [
    "BuilderFlag",
    "NetworkDefinitionCreationFlag",
    "MemoryPoolType",
    "ProfilingVerbosity",
    "LayerInformationFormat",
    "DataType",
    "LayerType",
    "TensorIOMode",
    "ComputeCapability",
    "ErrorCode",
]
_BEHAVIOUR = {
    "ILogger": Logger,
    "IProfiler": Profiler,
    "ITensor": Tensor,
    "ILayer": Layer,
    "INetworkDefinition": Network,
    "IBuilderConfig": Config,
    "ITimingCache": TimingCache,
    "ParserError": Error,
    "OnnxParser": Parser,
    "Builder": Builder,
    "Runtime": Runtime,
    "ICudaEngine": Engine,
    "IExecutionContext": Context,
    "EngineInspector": Inspector,
}
