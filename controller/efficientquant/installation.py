"""Commands that install optional parts of the product, and checks for them.

This module imports nothing heavy.
"""

import importlib.util
import json
import os
import platform
import shlex
import sys
from ctypes.util import find_library
from importlib.metadata import distributions
from typing import Any
from urllib.parse import unquote, urlsplit

from efficientquant.errors import MissingExtraError
from efficientquant.targets import Runtime, Target

DISTRIBUTION = "efficientquant"


def install_command(extra: str) -> str:
    """Return the shell command that adds an extra to the running Python.

    The extra comes from the same source as the installed product.
    """
    return f"{_pip()} install {_requirement(extra)}"


def require_builder(target: Target) -> None:
    """Raise MissingExtraError unless the target's builder is installed."""
    if target.runtime is Runtime.TENSORRT_RTX:
        require_rtx()
    elif target.runtime is Runtime.OPENVINO:
        require_openvino()


def require_rtx() -> None:
    """Raise MissingExtraError unless TensorRT-RTX can build engines here.

    It takes milliseconds, since it does not import the library.
    """
    if _is_there("tensorrt_rtx_bindings") and (_is_there("tensorrt_rtx_libs") or find_library("tensorrt_rtx")):
        return
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        advice = f"it is published for Linux on x86_64 only, and this is {sys.platform} on {platform.machine()}"
    else:
        advice = f"{install_command('rtx')} adds it"
    raise MissingExtraError("TensorRT-RTX", "rtx", advice)


def has_openvino() -> bool:
    """Tell whether OpenVINO is installed, without importing it."""
    return _is_there("openvino")


def require_openvino() -> None:
    """Raise MissingExtraError unless OpenVINO is installed."""
    if not has_openvino():
        raise MissingExtraError("OpenVINO", "openvino", f"{install_command('openvino')} adds it")


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:  # an import hook refuses it
        return False


def _pip() -> str:
    """Return the command for the running Python's pip, from the current folder."""
    pip = os.path.join(os.path.dirname(sys.executable), "pip")
    command = [pip] if os.access(pip, os.X_OK) else [sys.executable, "-m", "pip"]
    return shlex.join([_shortest(command[0]), *command[1:]])


def _requirement(extra: str) -> str:
    origin = _origin()
    url = str(origin.get("url", ""))
    if "dir_info" in origin:
        folder = _shortest(unquote(urlsplit(url).path))
        editable = "-e " if origin["dir_info"].get("editable") else ""
        return f"{editable}'{folder}[{extra}]'"
    if "vcs_info" in origin:
        return f"'{DISTRIBUTION}[{extra}] @ {origin['vcs_info']['vcs']}+{url}'"
    return f"'{DISTRIBUTION}[{extra}] @ {url}'" if url else f"'{DISTRIBUTION}[{extra}]'"


def _origin() -> dict[str, Any]:
    """Return pip's record of the source (PEP 610).

    It is {} for an installation from an index, or without a record.
    """
    # A checkout on sys.path is a distribution too, without a record.
    recorded = (distribution.read_text("direct_url.json") for distribution in distributions(name=DISTRIBUTION))
    return dict(json.loads(next(filter(None, recorded), "{}")))


def _shortest(path: str) -> str:
    """Make a path relative if it is below the current folder."""
    relative = os.path.relpath(path)
    return path if relative.startswith(os.pardir) else relative
