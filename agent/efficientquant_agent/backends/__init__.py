"""Ways to run a model: one module each, found by their presence."""

import importlib
import pkgutil
from types import ModuleType
from typing import Dict, List, Tuple, Type

from efficientquant_agent.backends.base import FAILURES, Backend, UnknownBackendError


def known() -> List[Type[Backend]]:
    """Return every backend of this agent, the preferred first.

    Its runtime need not be installed. A module without BACKENDS is no backend. One that cannot be imported is left
    out: `broken()` names it.
    """
    modules, _ = _modules()
    found = [backend for module in modules for backend in getattr(module, "BACKENDS", ())]
    return sorted(found, key=lambda backend: (backend.preference, backend.name))


def broken() -> Dict[str, Exception]:
    """Return the modules that cannot be imported, by name, with what they raise."""
    return _modules()[1]


def find(name: str) -> Type[Backend]:
    """Return the backend of this name, installed or not.

    Raises UnknownBackendError.
    """
    backends = known()
    for backend in backends:
        if backend.name == name:
            return backend
    raise UnknownBackendError(name, [backend.name for backend in backends])


def _modules() -> Tuple[List[ModuleType], Dict[str, Exception]]:
    modules: List[ModuleType] = []
    errors: Dict[str, Exception] = {}
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda module: module.name):
        if module.name == "__main__":
            continue
        try:
            modules.append(importlib.import_module(__name__ + "." + module.name))
        except FAILURES as error:
            errors[module.name] = error
    return modules, errors
