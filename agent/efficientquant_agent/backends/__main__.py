"""Prints as one JSON line which runtimes and GPUs work here; the daemon runs this in a short child process."""

import json
import platform
from typing import Any, Dict

from efficientquant_agent import backends
from efficientquant_agent.backends import cudart
from efficientquant_agent.backends.base import FAILURES, BackendBrokenError
from efficientquant_agent.streams import claim_standard_output


def find_runtimes() -> Dict[str, Any]:
    """Return what works here, for `json.dumps`.

    {"library_versions": …, "backends": [records.BackendInfo's fields], "broken": [sentence],
    "broken_causes": [the error's name, "NAME: detail", or ""], "gpus": [records.Gpu's fields], and of CUDA
    "cuda_version" ("" without a runtime library), "cuda_library" (its path), "cuda_driver_version" ("" without a
    driver) and "gpu_error" (why there are no GPUs, or "")}.
    """
    found = {"library_versions": {"python": platform.python_version()}, "backends": []}
    found.update(broken=[], broken_causes=[])
    found.update(find_gpus())
    for name, failure in sorted(backends.broken().items()):
        found["broken"].append("the agent's file backends/{}.py cannot be used: {!r}".format(name, failure))
        found["broken_causes"].append(_cause(failure))
    for backend in backends.known():
        try:
            info = backend.probe()
            versions = backend.library_versions() if info is not None else {}
        except (BackendBrokenError,) + FAILURES as error:
            found["broken"].append("backend '{}' does not work here: {}".format(backend.name, error or repr(error)))
            found["broken_causes"].append(_cause(error))
            continue
        if info is not None:
            found["library_versions"].update(versions)
            found["backends"].append(info._asdict())
    return found


def find_gpus() -> Dict[str, Any]:
    """Return the CUDA runtime's version and its GPUs, or the sentence that says why there are none."""
    found: Dict[str, Any] = dict.fromkeys(("cuda_version", "cuda_library", "cuda_driver_version", "gpu_error"), "")
    found["gpus"] = []
    try:
        library = cudart.open_library()
        found["cuda_library"] = cudart.loaded_path()
        found["cuda_version"] = library.runtime_version()
        found["cuda_driver_version"] = library.driver_version().replace("0.0", "")
        found["gpus"] = [gpu._asdict() for gpu in cudart.gpus(library)]
    except cudart.CudaError as error:
        found["gpu_error"] = str(error)
    return found


def _cause(error: Exception) -> str:
    """Return what broke a runtime, for a program: it decides about the fix."""
    cause = error.__cause__ or error
    if isinstance(cause, cudart.CudaError):
        return cause.name
    if isinstance(cause, ModuleNotFoundError):
        return "ModuleNotFoundError: {}".format(cause.name)
    return type(cause).__name__


if __name__ == "__main__":
    # Claimed before any runtime is loaded: what runtimes print, at exit too, is no answer.
    with claim_standard_output() as answer:
        answer.write(json.dumps(find_runtimes()) + "\n")
