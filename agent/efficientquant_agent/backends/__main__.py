"""The probe of runtimes and GPUs, which prints one JSON line.

The daemon runs it in a short child process.
"""

import json
import platform
from typing import Any, Dict

from efficientquant_agent import backends
from efficientquant_agent.backends import cudart
from efficientquant_agent.backends.base import FAILURES, BackendBrokenError
from efficientquant_agent.streams import claim_standard_output


def find_runtimes() -> Dict[str, Any]:
    """Return the runtimes and GPUs that work here, for `json.dumps`.

    {"library_versions": …, "backends": [records.BackendInfo's fields], "broken": [sentence],
    "broken_causes": [the error's name, "NAME: detail", or ""], "gpus": [records.Gpu's fields], and of CUDA
    "cuda_version" ("" without a runtime library), "cuda_library" (its path), "cuda_driver_version" ("" without a
    driver) and "gpu_error" (why there are no GPUs, or "")}.
    """
    facts: Dict[str, Any] = {"library_versions": {"python": platform.python_version()}, "backends": []}
    facts.update(broken=[], broken_causes=[])
    facts.update(find_gpus())
    for name, failure in sorted(backends.broken().items()):
        facts["broken"].append("the agent's file backends/{}.py cannot be used: {!r}".format(name, failure))
        facts["broken_causes"].append(_cause(failure))
    for backend in backends.known():
        try:
            info = backend.probe()
            versions = backend.library_versions() if info is not None else {}
        except (BackendBrokenError,) + FAILURES as error:
            facts["broken"].append("backend '{}' does not work here: {}".format(backend.name, error or repr(error)))
            facts["broken_causes"].append(_cause(error))
            continue
        if info is not None:
            facts["library_versions"].update(versions)
            facts["backends"].append(info._asdict())
    return facts


def find_gpus() -> Dict[str, Any]:
    """Return the CUDA runtime's versions and its GPUs.

    "gpu_error" says why there are no GPUs.
    """
    facts: Dict[str, Any] = dict.fromkeys(("cuda_version", "cuda_library", "cuda_driver_version", "gpu_error"), "")
    facts["gpus"] = []
    try:
        library = cudart.open_library()
        facts["cuda_library"] = cudart.loaded_path()
        facts["cuda_version"] = library.runtime_version()
        facts["cuda_driver_version"] = library.driver_version().replace("0.0", "")
        facts["gpus"] = [gpu._asdict() for gpu in cudart.gpus(library)]
    except cudart.CudaError as error:
        facts["gpu_error"] = str(error)
    return facts


def _cause(error: Exception) -> str:
    """Return the name of the error that broke a runtime.

    The doctor chooses the fix by it. A missing module's name follows the error's.
    """
    cause = error.__cause__ or error
    if isinstance(cause, cudart.CudaError):
        return cause.name
    if isinstance(cause, ModuleNotFoundError):
        return "ModuleNotFoundError: {}".format(cause.name)
    return type(cause).__name__


if __name__ == "__main__":
    # Claimed before any runtime is loaded, because runtimes print too, even at exit.
    with claim_standard_output() as answer:
        answer.write(json.dumps(find_runtimes()) + "\n")
