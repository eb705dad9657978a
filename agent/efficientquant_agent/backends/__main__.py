"""The probe of runtimes and GPUs, which prints one JSON line.

The daemon runs it in a short child process. That process loads no runtime itself. It asks one more child for each
backend, and one for the GPUs, so a runtime that crashes or hangs hides no other.
"""

import json
import platform
import signal
import subprocess
import sys
from typing import Any, Callable, Dict

from efficientquant_agent import backends
from efficientquant_agent.backends import cudart
from efficientquant_agent.backends.base import FAILURES, BackendBrokenError, is_installed
from efficientquant_agent.backends.cuda_from_pycuda import find_pycuda
from efficientquant_agent.streams import claim_standard_output

GPUS, PYCUDA = "gpus", "pycuda"
# For one part. Loading TensorRT from a cold SD card takes half a minute.
_PART_TIMEOUT_S = 100.0


def find_part(name: str) -> Dict[str, Any]:
    """Return the facts about the GPUs, pycuda or a backend.

    They are the keys of `find_runtimes` that this part knows. Raises UnknownBackendError for another name.
    """
    if name == PYCUDA:
        return {"pycuda_error": find_pycuda().problem}
    return find_gpus() if name == GPUS else find_backend(name)


def find_runtimes(ask: Callable[[str], Dict[str, Any]] = find_part) -> Dict[str, Any]:
    """Return the runtimes and GPUs that work here, for `json.dumps`.

    {"library_versions": …, "backends": [records.BackendInfo's fields], "broken": [sentence],
    "broken_causes": [the error's name, "NAME: detail", or ""], "gpus": [records.Gpu's fields], and of CUDA
    "cuda_version" ("" without a runtime library), "cuda_library" (its path), "cuda_driver_version" ("" without a
    driver) and "gpu_error" (why there are no GPUs, or ""), and "pycuda_error" (why an installed pycuda cannot be used,
    or "")}. `ask` finds one part.
    """
    facts: Dict[str, Any] = {"library_versions": {"python": platform.python_version()}, "backends": [], "gpus": []}
    texts = ("cuda_version", "cuda_library", "cuda_driver_version", "gpu_error", "pycuda_error")
    facts.update(dict.fromkeys(texts, ""))
    facts.update(broken=[], broken_causes=[])
    for name, failure in sorted(backends.broken().items()):
        facts["broken"].append("the agent's file backends/{}.py cannot be used: {!r}".format(name, failure))
        facts["broken_causes"].append(_cause(failure))
    parts = [GPUS, PYCUDA] if is_installed("pycuda") else [GPUS]
    for name in parts + [backend.name for backend in backends.known()]:
        for key, value in ask(name).items():
            if isinstance(value, list):
                facts[key] += value
            elif isinstance(value, dict):
                facts[key].update(value)
            else:
                facts[key] = value
    return facts


def find_backend(name: str) -> Dict[str, Any]:
    """Return the facts about one backend, empty where it is not installed.

    Raises UnknownBackendError for an unknown name.
    """
    backend = backends.find(name)
    try:
        info = backend.probe()
        versions = backend.library_versions() if info is not None else {}
    except (BackendBrokenError,) + FAILURES as error:
        return _broken(name, "does not work here: {}".format(error or repr(error)), _cause(error))
    return {} if info is None else {"library_versions": versions, "backends": [info._asdict()]}


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


def find_in_child(name: str, timeout_s: float = _PART_TIMEOUT_S) -> Dict[str, Any]:
    """Return the facts of `find_part` from a child process.

    A child that crashes, hangs or gives no answer makes the part broken.
    """
    command = [sys.executable, "-m", "efficientquant_agent.backends", name]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        return _broken(name, "hangs: its probe took longer than {:g} s".format(timeout_s), "timeout")
    said = (done.stderr.decode(errors="replace").strip().splitlines() or ["no message"])[-1]
    if done.returncode < 0:
        killer = signal.Signals(-done.returncode).name
        cause = killer if killer == "SIGILL" else "crash"
        return _broken(name, "crashes: {} ended its probe ({})".format(killer, said), cause)
    try:
        facts = json.loads(done.stdout.decode())  # type: Dict[str, Any]
    except ValueError:
        return _broken(
            name, "gives no answer: its probe ended with code {} ({})".format(done.returncode, said), "crash"
        )
    return facts


def _broken(name: str, what: str, cause: str) -> Dict[str, Any]:
    if name == PYCUDA:  # a run imports it, so it is no pycuda_error, which a run survives
        return {"broken": ["pycuda {}; so does every run with TensorRT".format(what)], "broken_causes": [cause]}
    subject = "CUDA" if name == GPUS else "backend '{}'".format(name)
    facts: Dict[str, Any] = {"broken": ["{} {}".format(subject, what)], "broken_causes": [cause]}
    return dict(facts, gpu_error=facts["broken"][0]) if name == GPUS else facts


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
        facts = find_part(sys.argv[1]) if sys.argv[1:] else find_runtimes(find_in_child)
        answer.write(json.dumps(facts) + "\n")
