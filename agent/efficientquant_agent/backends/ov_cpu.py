"""OpenVINO on the CPU, from 2023.1 on.

What differs between releases is detected by what the library has or accepts, never by its version.
"""

from typing import Any, Dict, List, Mapping, Optional, Sequence, Set, Tuple

from efficientquant_agent.backends.base import (
    Backend,
    BackendBrokenError,
    EngineReport,
    Form,
    InferenceError,
    LoadedModel,
    LoadError,
    LoadOptions,
    Stage,
    UnknownSizeError,
    batch_of_one,
    error_for,
    is_installed,
)
from efficientquant_agent.records import BackendInfo

# Its binding turns all errors of the library into these.
OPENVINO_ERRORS = (RuntimeError, ValueError, TypeError)
DEVICE = "CPU"
# How the runtime model names types.
_PRECISIONS = {
    "i8": "int8",
    "u8": "int8",
    "f16": "fp16",
    "bf16": "bf16",
    "f32": "fp32",
    "i32": "int32",
    "i64": "int64",
    "boolean": "bool",
}
# What only holds or hands over a tensor.
_NO_LAYERS = ("Const", "Input", "Output")
# Settings that change the numbers, read back from the compiled model: session option → property.
_REALISED = {
    "performance_hint": "PERFORMANCE_HINT",
    "execution_mode": "EXECUTION_MODE_HINT",
    "inference_precision": "INFERENCE_PRECISION_HINT",
    "streams": "NUM_STREAMS",
    "intra_op_threads": "INFERENCE_NUM_THREADS",
    "cpu_pinning": "ENABLE_CPU_PINNING",
    "hyper_threading": "ENABLE_HYPER_THREADING",
    "dynamic_quantization_group_size": "DYNAMIC_QUANTIZATION_GROUP_SIZE",
}


class OpenvinoModel(LoadedModel):
    """A compiled model with one inference request."""

    providers = (DEVICE,)

    def __init__(self, core: Any, compiled: Any, settings: Mapping[str, Any]) -> None:
        self._core = core
        self._compiled = compiled
        self._settings = settings
        self._request = compiled.create_infer_request()
        self.session_options = _realised_options(compiled)

    def input_shapes(self) -> Dict[str, Tuple[int, ...]]:
        """Return every input's shape by name, a symbolic batch as 1.

        Raises LoadError for an input that is not float32, or that lacks another size.
        """
        shapes = {}
        for port in self._compiled.inputs:
            name, kind = port.get_any_name(), port.get_element_type().get_type_name()
            if kind != "f32":
                raise LoadError("input '{}' is {}; only f32 inputs can be staged".format(name, kind))
            try:
                shapes[name] = batch_of_one(name, _sizes(port))
            except UnknownSizeError as error:
                raise LoadError(str(error)) from error
        return shapes

    def stage(self, feeds: Sequence[Mapping[str, Any]]) -> List[Any]:
        """Return the tensors of each feed, in the order of the inputs.

        They share the memory of contiguous arrays.
        """
        import numpy as np
        import openvino

        names = list(self.input_shapes())
        return [
            [openvino.Tensor(np.ascontiguousarray(feed[name], np.float32), shared_memory=True) for name in names]
            for feed in feeds
        ]

    def run_once(self, staged: Any) -> Any:
        """Run the request, whose outputs are in host memory.

        Raises InferenceError or OutOfMemoryError.
        """
        return self._run(self._request, staged)

    def _run(self, request: Any, staged: Any) -> Any:
        try:
            for index, tensor in enumerate(staged):
                request.set_input_tensor(index, tensor)
            return request.infer(share_outputs=True)
        except OPENVINO_ERRORS as error:
            raise error_for(_sentence(error), InferenceError) from error

    def outputs(self, staged: Any) -> List[Any]:
        """Run the request and return copies of its outputs."""
        import numpy as np

        self.run_once(staged)
        return [np.array(self._request.get_output_tensor(index).data) for index in range(len(self._compiled.outputs))]

    def report(self) -> EngineReport:
        """Return the layers that run at each inference.

        They are in execution order. Those of constants ran when the model was compiled.
        """
        try:
            operations = self._compiled.get_runtime_model().get_ordered_ops()
        except OPENVINO_ERRORS as error:
            raise error_for(_sentence(error), InferenceError) from error
        constant: Set[str] = set()
        layers = []
        for operation in operations:
            name = operation.get_friendly_name()
            facts = {key: _text(value) for key, value in dict(operation.get_rt_info()).items()}
            kind = facts.get("layerType", "")
            if kind == "Const" or _reads_only(operation, constant):
                constant.add(name)
            elif kind not in _NO_LAYERS:
                layers.append(
                    {
                        "name": name,
                        "type": kind,
                        "precision": _precision(facts),
                        "tactic": facts.get("primitiveType", ""),
                        "execution_order": facts.get("execOrder", ""),
                    }
                )
        layers.sort(key=lambda layer: int(layer["execution_order"] or 0))
        counts: Dict[str, int] = {}
        for layer in layers:
            counts[layer["precision"]] = counts.get(layer["precision"], 0) + 1
        return EngineReport(counts, tuple(layers))

    def profile_layers(self, staged: Any, repeats: int) -> List[Tuple[str, float]]:
        """Return (layer, mean seconds) from a second compiled model.

        It is a copy of the first that counts the time of each layer. Raises InferenceError when it fails.
        """
        try:
            copy = self._core.import_model(
                self._compiled.export_model(), DEVICE, dict(self._settings, PERF_COUNT="YES")
            )
            request = copy.create_infer_request()
        except OPENVINO_ERRORS as error:
            raise error_for(_sentence(error), InferenceError) from error
        for _ in range(repeats):
            self._run(request, staged)
        # Each time is already the mean over all runs of the request. What was fused or ran before has no time.
        names = {layer["name"] for layer in self.report().layers}
        return [
            (layer.node_name, layer.real_time.total_seconds())
            for layer in request.get_profiling_info()
            if layer.node_name in names
        ]


class OpenvinoCpu(Backend):
    """OpenVINO's CPU plugin with the hint for latency."""

    name = "openvino-cpu"
    # After ONNX Runtime, so that campaigns without --backend stay comparable.
    preference = 60
    forms: Sequence[Form] = (Form((2023, 1), "openvino", 18),)
    options = ("profile_layers",)
    packages = ("openvino",)

    @classmethod
    def probe(cls) -> Optional[BackendInfo]:
        """Return the installed version, or None without OpenVINO.

        Raises BackendBrokenError when it does not load, is older than 2023.1, or has no CPU plugin.
        """
        if not is_installed("openvino"):
            return None
        try:
            import numpy  # noqa: F401 — openvino needs it, and its own error is unclear
            import openvino
        except ModuleNotFoundError as error:
            raise BackendBrokenError(
                "OpenVINO is installed and needs the module {}, which is not; install it".format(error.name)
            ) from error
        except (ImportError, OSError) as error:
            raise BackendBrokenError("OpenVINO is installed and does not load: {}".format(error)) from error
        if not hasattr(openvino, "Core"):  # 2022 and before, or a folder that an uninstall left
            raise BackendBrokenError("OpenVINO is older than 2023.1 or installed in parts; install it again")
        try:
            devices = list(openvino.Core().available_devices)
        except OPENVINO_ERRORS as error:
            raise BackendBrokenError("OpenVINO does not start: {}".format(_sentence(error))) from error
        if DEVICE not in devices:
            raise BackendBrokenError(
                "OpenVINO has no plugin for the CPU (it has: {}); install it again".format(", ".join(devices) or "none")
            )
        return cls.describe(_version(openvino), [DEVICE])

    @classmethod
    def library_versions(cls) -> Dict[str, str]:
        """Return the versions of openvino and numpy."""
        import numpy
        import openvino

        return {"openvino": _version(openvino), "numpy": numpy.__version__}

    @classmethod
    def load(cls, content: bytes, options: LoadOptions, stage: Stage) -> LoadedModel:
        """Compile a model for latency, with float32 computed as float32.

        A symbolic batch becomes 1, because the runtime plans its memory by sizes. Raises LoadError when OpenVINO does
        not accept the model, OutOfMemoryError when memory ran out.
        """
        import openvino

        with stage("session_create"):
            try:
                core = openvino.Core()
                model = core.read_model(content, b"")
                _fix_batch(model)
                settings = _settings(core, model, options.intra_op_threads)
                return OpenvinoModel(core, core.compile_model(model, DEVICE, settings), settings)
            except OPENVINO_ERRORS as error:
                raise error_for(_sentence(error), LoadError) from error


def _settings(core: Any, model: Any, threads: int) -> Dict[str, Any]:
    """Return the properties to compile with.

    The types of the file decide. By default a CPU with bfloat16 computes float32 in 16 bits, and inputs of quantized
    linears that are float in the file are rounded to int8.
    """
    is_half = any(port.get_element_type().get_type_name() == "f16" for op in model.get_ops() for port in op.outputs())
    has_half = "FP16" in core.get_property(DEVICE, "OPTIMIZATION_CAPABILITIES")
    settings: Dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f16" if is_half and has_half else "f32",
    }
    if "DYNAMIC_QUANTIZATION_GROUP_SIZE" in set(core.get_property(DEVICE, "SUPPORTED_PROPERTIES")):
        settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = "0"
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads
    return settings


def _precision(facts: Mapping[str, str]) -> str:
    """Return the type that a layer computes in.

    The kernel's name ends in it. The "runtime precision" is that of integer weights, also where a float kernel decodes
    them.
    """
    computed = facts.get("primitiveType", "").rpartition("_")[2].lower()
    return _PRECISIONS.get(computed) or _PRECISIONS.get(facts.get("runtimePrecision", ""), "unknown")


def _reads_only(operation: Any, names: Set[str]) -> bool:
    """Tell whether all inputs of an operation come from these operations."""
    sources = [port.get_source_output().get_node().get_friendly_name() for port in operation.inputs()]
    return bool(sources) and names.issuperset(sources)


def _fix_batch(model: Any) -> None:
    """Give a model with a symbolic batch a batch of one.

    A model with other symbolic sizes stays as it is.
    """
    if not model.is_dynamic():
        return
    try:
        shapes = {port.get_any_name(): list(batch_of_one("", _sizes(port))) for port in model.inputs}
    except UnknownSizeError:  # `input_shapes` says it
        return
    model.reshape(shapes)


def _sizes(port: Any) -> List[int]:
    """Return the sizes of an input, a symbolic one as 0."""
    return [0 if size.is_dynamic else size.get_length() for size in port.get_partial_shape()]


def _realised_options(compiled: Any) -> Dict[str, str]:
    """Return what the compiled model says of its settings.

    A release that lacks a property leaves it out.
    """
    supported = set(compiled.get_property("SUPPORTED_PROPERTIES"))
    return {
        name: _text(compiled.get_property(property_name))
        for name, property_name in _REALISED.items()
        if property_name in supported
    }


def _text(value: Any) -> str:
    """Return a value as text, such as "f32" or "PERFORMANCE"."""
    if hasattr(value, "get_type_name"):
        return str(value.get_type_name())
    return str(getattr(value, "name", getattr(value, "value", value)))


def _version(openvino: Any) -> str:
    """Return the release without the number of its build."""
    return str(openvino.__version__).split("-", 1)[0]


def _sentence(error: BaseException) -> str:
    """Return an error without the lines about OpenVINO's source."""
    lines = [line.strip() for line in str(error).splitlines()]
    kept = [line for line in lines if line and not line.startswith("Exception from ")]
    return " ".join(kept) or type(error).__name__


BACKENDS = (OpenvinoCpu,)
