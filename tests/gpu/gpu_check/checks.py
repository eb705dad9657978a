"""The checks with their shares of the time, in the report's order."""

import importlib
import platform
from typing import Callable, Mapping, NamedTuple

from efficientquant_agent.backends.ort import OrtCuda, OrtTensorrt
from efficientquant_agent.backends.trt import Tensorrt, TensorrtRtx

from gpu_check import cuda_runtime, engines, nvml_readings, onnx_runtime, whole_run
from gpu_check.rows import Absent, Seen

_PACKAGES = (
    "numpy",
    "onnxruntime",
    "tensorrt",
    "tensorrt_rtx",
    "tensorrt_rtx_bindings",
    "pycuda",
    "pynvml",
    "grpc",
    "google.protobuf",
)


class Check(NamedTuple):
    """A check and its share of the time.

    The unused part of a share goes to the later checks.
    """

    share_s: float
    check: Callable[[], Seen]


def check_packages() -> Seen:
    """Yield the version of each package."""
    yield "Python", platform.python_version()
    for name in _PACKAGES:
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError:
            yield name, Absent("not installed")
        except (ImportError, OSError, AttributeError, RuntimeError) as error:
            yield name, error
        else:
            version = getattr(module, "VERSION_TEXT", "of no known version")  # pycuda's
            yield name, getattr(module, "__version__", version)


CHECKS: Mapping[str, Check] = {
    "Packages": Check(20.0, check_packages),
    "NVML": Check(30.0, nvml_readings.check),
    "CUDA runtime": Check(20.0, cuda_runtime.check),
    "pycuda": Check(10.0, cuda_runtime.check_pycuda),
    "ONNX Runtime CUDA": Check(30.0, lambda: onnx_runtime.check(OrtCuda)),
    "Whole run, ONNX Runtime CUDA": Check(30.0, lambda: whole_run.check(OrtCuda)),
    "TensorRT": Check(50.0, lambda: engines.check(Tensorrt)),
    "Whole run, TensorRT": Check(25.0, lambda: whole_run.check(Tensorrt)),
    "TensorRT-RTX": Check(25.0, lambda: engines.check(TensorrtRtx)),
    "Whole run, TensorRT-RTX": Check(20.0, lambda: whole_run.check(TensorrtRtx)),
    "ONNX Runtime TensorRT": Check(20.0, lambda: onnx_runtime.check(OrtTensorrt)),
}
