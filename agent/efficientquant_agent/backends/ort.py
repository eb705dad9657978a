"""ONNX Runtime on the CPU and the GPU.

The GPU is used by the CUDA and TensorRT providers.
"""

import os
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Type

from efficientquant_agent.backends import cudart
from efficientquant_agent.backends.base import (
    Backend,
    BackendBrokenError,
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
from efficientquant_agent.versions import version_of

# https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html. Older releases refuse the option.
_USE_TF32_SINCE = (1, 18)


def _runtime_errors() -> Tuple[Type[Exception], ...]:
    """Return the exception classes of ONNX Runtime.

    They share no base class of their own.
    """
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = [value for value in vars(state).values() if isinstance(value, type) and issubclass(value, Exception)]
    return (*own, RuntimeError, ValueError)


class OrtModel(LoadedModel):
    """A session of ONNX Runtime."""

    def __init__(self, session: Any, session_options: Mapping[str, str]) -> None:
        self._session = session
        self._errors = _runtime_errors()
        self.providers = session.get_providers()
        self.session_options = session_options

    def input_shapes(self) -> Dict[str, Tuple[int, ...]]:
        """Return every input's shape by name, a symbolic batch as 1.

        Raises LoadError for an input that is not float32, or that lacks another size.
        """
        shapes = {}
        for node in self._session.get_inputs():
            if node.type != "tensor(float)":
                raise LoadError(
                    "input '{}' is {}; only tensor(float) inputs can be staged".format(node.name, node.type)
                )
            try:
                shapes[node.name] = batch_of_one(node.name, node.shape)
            except UnknownSizeError as error:
                raise LoadError(str(error)) from error
        return shapes

    def stage(self, feeds: Sequence[Mapping[str, Any]]) -> List[Any]:
        """Return one dictionary of contiguous arrays per feed."""
        import numpy as np

        return [{name: np.ascontiguousarray(array) for name, array in feed.items()} for feed in feeds]

    def run_once(self, staged: Any) -> Any:
        """Run the session and return all outputs as numpy arrays.

        Raises InferenceError or OutOfMemoryError.
        """
        try:
            return self._session.run(None, staged)
        except self._errors as error:
            raise error_for(str(error), InferenceError) from error

    def outputs(self, staged: Any) -> List[Any]:
        """Run the session and return its newly allocated outputs."""
        return list(self.run_once(staged))


class OrtCpu(Backend):
    """The CPU execution provider.

    Every device with the extra [ort] has it.
    """

    name = "ort-cpu"
    preference = 50
    # Releases after 1.10 read opsets above 13 too, but opset 18 is tested only from 1.17 on. 4-bit integers came with
    # opset 21. 1.23 also casts them to 8 bits.
    forms: Sequence[Form] = (
        Form((1, 10), "onnxruntime", 13),
        Form((1, 17), "onnxruntime", 18),
        Form((1, 20), "onnxruntime", 21),
        Form((1, 23), "onnxruntime", 23),
    )
    packages = ("onnxruntime", "onnxruntime-gpu")
    # The providers to request, the preferred first. A session whose first provider is another is refused.
    _providers: Sequence[str] = ("CPUExecutionProvider",)

    @classmethod
    def probe(cls) -> Optional[BackendInfo]:
        """Return the installed version, or None without the provider.

        Raises BackendBrokenError when ONNX Runtime or the device of the provider does not work.
        """
        if not is_installed("onnxruntime"):
            return None
        try:
            import numpy  # noqa: F401 — onnxruntime needs it, and its own error is unclear
            import onnxruntime
        except (ImportError, OSError) as error:
            if cls is not OrtCpu:  # its providers are unknown, and OrtCpu alone reports the reason
                return None
            if isinstance(error, ModuleNotFoundError):
                raise BackendBrokenError(
                    "ONNX Runtime is installed and needs the module {}, which is not; install it".format(error.name)
                ) from error
            raise BackendBrokenError("ONNX Runtime is installed and does not load: {}".format(error)) from error
        if not hasattr(onnxruntime, "get_available_providers"):  # a folder that an uninstall left
            if cls is not OrtCpu:
                return None
            raise BackendBrokenError("ONNX Runtime is installed in parts: its module is empty; install it again")
        if cls._providers[0] not in onnxruntime.get_available_providers():
            return None
        cls._check_device()
        return cls.describe(onnxruntime.__version__, cls._providers)

    @classmethod
    def _check_device(cls) -> None:
        """Raise BackendBrokenError when the provider is installed without its device."""

    @classmethod
    def library_versions(cls) -> Dict[str, str]:
        """Return the versions of onnxruntime and numpy."""
        import numpy
        import onnxruntime

        return {"onnxruntime": onnxruntime.__version__, "numpy": numpy.__version__}

    @classmethod
    def load(cls, content: bytes, options: LoadOptions, stage: Stage) -> LoadedModel:
        """Create a session from a model's bytes, with all graph optimizations.

        Raises LoadError when ONNX Runtime does not accept the model, OutOfMemoryError when memory ran out.
        """
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        settings.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        settings.intra_op_num_threads = options.intra_op_threads
        settings.log_severity_level = 3  # errors only, because warnings about a model do not belong in the run's log
        provider_options = cls._provider_options(onnxruntime.__version__)
        with stage("session_create"):
            try:
                session = onnxruntime.InferenceSession(
                    content, settings, providers=list(cls._providers), provider_options=provider_options
                )
            except _runtime_errors() as error:
                raise error_for(str(error), LoadError) from error
        _check_providers(cls._providers[0], session.get_providers())
        realised = {
            "graph_optimization": "all",
            "execution_mode": "sequential",
            "intra_op_threads": str(options.intra_op_threads),
        }
        realised.update(cls._realised_options(provider_options[0]))
        return OrtModel(session, realised)

    @classmethod
    def _provider_options(cls, version: str) -> List[Dict[str, str]]:
        """Return each provider's options, in the order of the providers."""
        del version
        return [{} for _ in cls._providers]

    @classmethod
    def _realised_options(cls, first: Mapping[str, str]) -> Dict[str, str]:
        """Return the options of the first provider that go into the result."""
        return dict(first)


class OrtCuda(OrtCpu):
    """The CUDA execution provider with pageable host memory.

    Inputs and outputs are copied in every query, as `session.run` does it.
    """

    name = "ort-cuda"
    preference = 30
    # Nothing is known of its 4-bit kernels.
    forms = OrtCpu.forms[:2]
    uses_gpu = True
    _providers: Sequence[str] = ("CUDAExecutionProvider", "CPUExecutionProvider")

    @classmethod
    def _check_device(cls) -> None:
        try:
            cudart.gpus()
        except cudart.CudaError as error:
            raise BackendBrokenError(
                "onnxruntime has {}, but no GPU answers: {}".format(cls._providers[0], error)
            ) from error

    @classmethod
    def library_versions(cls) -> Dict[str, str]:
        """Return the versions of onnxruntime, numpy and CUDA."""
        return dict(super().library_versions(), cuda=cudart.open_library().runtime_version())

    @classmethod
    def load(cls, content: bytes, options: LoadOptions, stage: Stage) -> LoadedModel:
        """Create a session that computes float32 without TF32."""
        # cuBLAS, cuDNN and TensorRT read it when they start. It is the only switch that every release has.
        os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
        return super().load(content, options, stage)

    @classmethod
    def _provider_options(cls, version: str) -> List[Dict[str, str]]:
        cuda = {"device_id": "0", "cudnn_conv_algo_search": "EXHAUSTIVE"}
        if version_of(version) >= _USE_TF32_SINCE:
            cuda["use_tf32"] = "0"
        return [{"CUDAExecutionProvider": cuda}.get(provider, {}) for provider in cls._providers]

    @classmethod
    def _realised_options(cls, first: Mapping[str, str]) -> Dict[str, str]:
        return dict(first, tf32="off", cuda_graph="off", memory_kind="pageable", transfers="both ways in every query")


class OrtTensorrt(OrtCuda):
    """The TensorRT execution provider in float32.

    The CUDA provider runs the rest of the model. The engine is built inside "session_create", which takes minutes, so
    there is no second, warm load.
    """

    name = "ort-trt"
    preference = 40
    loads_quickly = False
    _providers = ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")


def _check_providers(asked: str, got: Sequence[str]) -> None:
    """Raise LoadError when ONNX Runtime fell back to another provider.

    It falls back without an error.
    """
    if not got or got[0] != asked:
        raise LoadError(
            "onnxruntime was asked for {} and gave {}: it could not start that provider and fell back; its own log "
            "names the library that is missing or does not fit".format(asked, ", ".join(got) or "none")
        )


BACKENDS = (OrtCpu, OrtCuda, OrtTensorrt)
