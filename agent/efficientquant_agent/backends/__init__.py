"""Ways to run a model: one module each, found by their presence."""

import importlib
import pkgutil
from typing import Dict, List, Type

from efficientquant_agent.backends.base import FAILURES, Backend, UnknownBackendError


def known() -> List[Type[Backend]]:
    """Return every backend this agent has code for, the preferred first, whether or not its runtime is here.

    A module without BACKENDS is no backend. One that cannot be imported is left out; `broken()` names it.
    """
    modules, _ = _modules()
    found = [backend for module in modules for backend in getattr(module, "BACKENDS", ())]
    return sorted(found, key=lambda backend: (backend.preference, backend.name))


def broken() -> Dict[str, Exception]:
    """Return the modules that cannot be imported, by name, with what they raise."""
    return _modules()[1]


def find(name: str) -> Type[Backend]:
    """Return the backend of this name, installed or not; raises UnknownBackendError."""
    backends = known()
    for backend in backends:
        if backend.name == name:
            return backend
    raise UnknownBackendError(name, [backend.name for backend in backends])


def _modules():  # type: ignore[no-untyped-def]
    modules, errors = [], {}
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda module: module.name):
        if module.name == "__main__":
            continue
        try:
            modules.append(importlib.import_module(__name__ + "." + module.name))
        except FAILURES as error:
            errors[module.name] = error
    return modules, errors
