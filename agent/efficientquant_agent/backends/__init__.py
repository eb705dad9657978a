"""The backends, one module each.

A module in this folder that names BACKENDS is a backend.
"""

import importlib
import pkgutil
from types import ModuleType
from typing import Dict, List, Tuple, Type

from efficientquant_agent.backends.base import FAILURES, Backend, UnknownBackendError


def known() -> List[Type[Backend]]:
    """Return every backend of this agent, the preferred first.

    Their runtimes need not be installed. A module without BACKENDS is no backend. A module that cannot be imported is
    skipped, and `broken()` names it.
    """
    modules, _ = _modules()
    classes = [backend for module in modules for backend in getattr(module, "BACKENDS", ())]
    return sorted(classes, key=lambda backend: (backend.preference, backend.name))


def broken() -> Dict[str, Exception]:
    """Return the errors of modules that cannot be imported, by name."""
    return _modules()[1]


def find(name: str) -> Type[Backend]:
    """Return the backend of this name, installed or not.

    Raises UnknownBackendError when this agent has no such backend.
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
