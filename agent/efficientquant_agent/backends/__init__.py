"""Ways to run a model: one module each, found by their presence."""

import importlib
import pkgutil
from typing import List, Type

from efficientquant_agent.backends.base import Backend

_NOT_BACKENDS = ("base", "__main__")


def known() -> List[Type[Backend]]:
    """Return every backend this agent has code for, whether or not its runtime is on the device."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name not in _NOT_BACKENDS)
    return [importlib.import_module(__name__ + "." + name).BACKEND for name in names]
