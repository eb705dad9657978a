"""ONNX Runtime's providers for GPUs, loaded as the agent loads them."""

import ctypes
import os
import re

from efficientquant_agent.backends.base import LoadError, LoadOptions

from gpu_check import tiny_model
from gpu_check.rows import Absent, Seen

_LIBRARIES = {"CUDAExecutionProvider": "cuda", "TensorrtExecutionProvider": "tensorrt"}


def check(backend) -> Seen:
    """Load the model with the provider and compare its outputs.

    A fallback to another provider is a failure. Raises Absent without the provider.
    """
    info = backend.probe()
    provider = backend._providers[0]
    if info is None:
        raise Absent("no onnxruntime with {} here".format(provider))
    yield "version", info.version
    try:
        model = backend.load(tiny_model.content(), LoadOptions(), tiny_model.no_stage)
    except LoadError as error:
        import onnxruntime

        raise explained(error, provider, os.path.dirname(onnxruntime.__file__)) from error
    yield "outputs", tiny_model.compared(model, "fp32")
    yield "session", dict(model.session_options, providers=list(model.providers))


def explained(error: LoadError, provider: str, package: str) -> Exception:
    """Return the error with the name of the missing library.

    Without TensorRT it is Absent for TensorRT's provider, because every onnxruntime-gpu lists that provider.
    """
    problem = loading_problem(os.path.join(package, "capi"), provider)
    if provider.startswith("Tensorrt") and re.search(r"libnv(infer|onnxparser)\S*: cannot open", problem):
        return Absent("it needs TensorRT: {}".format(problem))
    return LoadError("{} ({})".format(error, problem)) if problem else error


def loading_problem(folder: str, provider: str) -> str:
    """Return the loading error of a provider's library, or "".

    It is "" when the library loads or does not exist.
    """
    name = "libonnxruntime_providers_{}.so".format(_LIBRARIES.get(provider, ""))
    if not os.path.exists(os.path.join(folder, name)):
        return ""
    try:
        ctypes.CDLL(os.path.join(folder, "libonnxruntime_providers_shared.so"), ctypes.RTLD_GLOBAL)
        ctypes.CDLL(os.path.join(folder, name))
    except OSError as error:
        return str(error)
    return ""
