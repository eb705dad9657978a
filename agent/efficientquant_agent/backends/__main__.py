"""Prints as one JSON line which runtimes and GPUs work here; the daemon runs this in a short child process."""

import json
import platform
from typing import Any, Dict

from efficientquant_agent import backends
from efficientquant_agent.backends import cudart
from efficientquant_agent.backends.base import BackendBrokenError
from efficientquant_agent.worker import claim_standard_output


def find_runtimes() -> Dict[str, Any]:
    """Return what works here, for `json.dumps`.

    {"library_versions": …, "backends": [{name, version, providers}], "broken": [sentence],
    "cuda_version": "" without a CUDA runtime, "gpus": [records.Gpu's fields], "gpu_error": why there are none or ""}.
    """
    found = {"library_versions": {"python": platform.python_version()}, "backends": [], "broken": []}
    found.update(find_gpus())
    for backend in backends.known():
        try:
            info = backend.probe()
        except BackendBrokenError as error:
            found["broken"].append("backend '{}' does not work here: {}".format(backend.name, error))
            continue
        if info is not None:
            found["library_versions"].update(backend.library_versions())
            found["backends"].append(info._asdict())
    return found


def find_gpus() -> Dict[str, Any]:
    """Return the CUDA runtime's version and its GPUs, or the sentence that says why there are none."""
    found: Dict[str, Any] = {"cuda_version": "", "gpus": [], "gpu_error": ""}
    try:
        library = cudart.open_library()
        found["cuda_version"] = library.runtime_version()
        found["gpus"] = [gpu._asdict() for gpu in cudart.gpus(library)]
    except cudart.CudaError as error:
        found["gpu_error"] = str(error)
    return found


if __name__ == "__main__":
    # Claimed before any runtime is loaded: what runtimes print, at exit too, is no answer.
    with claim_standard_output() as answer:
        answer.write(json.dumps(find_runtimes()) + "\n")
