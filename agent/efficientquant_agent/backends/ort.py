"""ONNX Runtime on the CPU."""

from typing import Any, Dict, List, Optional, Tuple, Type

from efficientquant_agent.backends.base import Backend, BackendBrokenError, InferenceError, LoadedModel, LoadError
from efficientquant_agent.records import BackendInfo

_PROVIDERS = ["CPUExecutionProvider"]


def _runtime_errors() -> Tuple[Type[Exception], ...]:
    """Return what ONNX Runtime raises: its classes share no base of their own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = [value for value in vars(state).values() if isinstance(value, type) and issubclass(value, Exception)]
    return (*own, RuntimeError, ValueError)


class OrtModel(LoadedModel):
    """A session of ONNX Runtime."""

    def __init__(self, session: Any, session_options: Dict[str, str]) -> None:
        self._session = session
        self._errors = _runtime_errors()
        self.providers = session.get_providers()
        self.session_options = session_options

    def stage_inputs(self, count: int, seed: int) -> List[Dict[str, Any]]:
        """Return `count` feeds of the session, one float32 array per input of the model."""
        import numpy as np

        random = np.random.RandomState(seed % 2**32)
        for node in self._session.get_inputs():
            if node.type != "tensor(float)":
                raise LoadError(
                    "input '{}' is {}; only tensor(float) inputs can be staged".format(node.name, node.type)
                )
        return [
            {
                node.name: random.random_sample(
                    [size if isinstance(size, int) and size > 0 else 1 for size in node.shape]
                ).astype(np.float32)
                for node in self._session.get_inputs()
            }
            for _ in range(count)
        ]

    def run_once(self, staged: Dict[str, Any]) -> Any:
        """Run the session; all outputs are numpy arrays on return."""
        try:
            return self._session.run(None, staged)
        except self._errors as error:
            raise InferenceError(str(error)) from error


class OrtCpu(Backend):
    """The CPU execution provider: on every device that has the extra [ort]."""

    name = "ort-cpu"

    @classmethod
    def probe(cls) -> Optional[BackendInfo]:
        """Return the installed version, None without one."""
        try:
            import numpy  # noqa: F401 — onnxruntime needs it and says so badly
            import onnxruntime
        except ModuleNotFoundError:
            return None
        except (ImportError, OSError) as error:
            raise BackendBrokenError(str(error)) from error
        return BackendInfo(cls.name, onnxruntime.__version__, list(_PROVIDERS))

    @classmethod
    def library_versions(cls) -> Dict[str, str]:
        """Return the versions of onnxruntime and numpy."""
        import numpy
        import onnxruntime

        return {"onnxruntime": onnxruntime.__version__, "numpy": numpy.__version__}

    @classmethod
    def load(cls, model: bytes, intra_op_threads: int) -> LoadedModel:
        """Create a session from a model's bytes with all graph optimizations."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.intra_op_num_threads = intra_op_threads
        options.log_severity_level = 3  # errors: warnings about a model are not this run's log
        try:
            session = onnxruntime.InferenceSession(model, options, providers=_PROVIDERS)
        except _runtime_errors() as error:
            raise LoadError(str(error)) from error
        return OrtModel(
            session,
            {
                "graph_optimization": "all",
                "execution_mode": "sequential",
                "intra_op_threads": str(intra_op_threads),
            },
        )


BACKEND = OrtCpu
