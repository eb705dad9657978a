"""Ways to run a model: one module each, found by their presence."""

import importlib
import pkgutil
from typing import List, Type

from efficientquant_agent.backends.base import Backend, UnknownBackendError


def known() -> List[Type[Backend]]:
    """Return every backend this agent has code for, the preferred first, whether or not its runtime is here.

    A module without BACKENDS is no backend.
    """
    names = sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "__main__")
    modules = [importlib.import_module(__name__ + "." + name) for name in names]
    found = [backend for module in modules for backend in getattr(module, "BACKENDS", ())]
    return sorted(found, key=lambda backend: (backend.preference, backend.name))


def find(name: str) -> Type[Backend]:
    """Return the backend of this name, installed or not; raises UnknownBackendError."""
    backends = known()
    for backend in backends:
        if backend.name == name:
            return backend
    raise UnknownBackendError(name, [backend.name for backend in backends])
