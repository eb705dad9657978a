"""Ways to run a model: one module each, found by their presence."""

import importlib
import pkgutil
from typing import List, Type

from efficientquant_agent.backends.base import Backend

_NOT_BACKENDS = ("base", "cudart", "trt_building", "trt_layers", "trt_log", "trt_running", "__main__")


def known() -> List[Type[Backend]]:
    """Return every backend this agent has code for, the preferred first, whether or not its runtime is here."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name not in _NOT_BACKENDS)
    found = [backend for name in names for backend in importlib.import_module(__name__ + "." + name).BACKENDS]
    return sorted(found, key=lambda backend: PREFERENCE.index(backend.name))


# Where nothing else is asked for, the first of these that a device has runs its jobs.
PREFERENCE = ("trt", "trt-rtx", "ort-cuda", "ort-trt", "ort-cpu")


def uses_gpu(name: str) -> bool:
    """Whether a backend computes on a GPU."""
    return name != "ort-cpu"


def builds_engines(name: str) -> bool:
    """Whether a backend wants an engine built before it loads."""
    return any(backend.builds for backend in known() if backend.name == name)
