"""Problems of a device's runtimes: missing, hidden, broken or without GPU."""

import re
from itertools import zip_longest
from typing import Iterator, Optional, Type

from efficientquant_agent import backends
from efficientquant_agent.backends.base import Backend
from efficientquant_agent.doctor.facts import (
    ERROR,
    INFO,
    WARNING,
    Facts,
    Problem,
    in_environment,
    is_jetson,
    pip_install,
)
from efficientquant_agent.host.device import computing_gpu
from efficientquant_agent.records import Gpu
from efficientquant_agent.versions import version_of

_NEWER_JETPACK = "upgrade to JetPack 4.6.1 or newer (L4T R32.7), which has TensorRT 8.2"
_JETPACK_TENSORRT = "install JetPack's TensorRT: sudo apt install --reinstall python3-libnvinfer"
# The package index's current TensorRT is built with CUDA 13, whose oldest SM this is.
_OLDEST_SM_OF_THE_INDEX = 75
_OLDEST_DRIVER_OF_THE_INDEX = (580,)


def _modules(facts: Facts) -> Iterator[Problem]:
    if facts.missing_modules:
        yield Problem(
            "modules_missing",
            ERROR,
            "the agent cannot start: {} cannot be imported here".format(" and ".join(facts.missing_modules)),
            "install the agent again, as docs/boards.md says, into the environment of {}".format(
                facts.python or "this Python"
            ),
        )


def _tensorrt(facts: Facts) -> Iterator[Problem]:
    if _is_hidden(facts):
        yield Problem(
            "tensorrt_hidden",
            ERROR,
            "TensorRT is in {}, which this virtual environment does not see".format(facts.system_tensorrt[0]),
            "{}sed -i 's/^include-system-site-packages.*/include-system-site-packages = true/' {}/pyvenv.cfg".format(
                "" if facts.prefix_writable else "sudo ", facts.prefix or "$VIRTUAL_ENV"
            ),
        )
    elif _is_for_another_python(facts):
        path = facts.system_tensorrt[0]
        yield Problem(
            "tensorrt_other_python",
            ERROR,
            "TensorRT is installed for another Python ({}), not for {}".format(path, facts.python_version),
            "create the agent's environment with that Python and install the agent there: "
            "/usr/bin/{} -m venv --system-site-packages DIR".format(_python_of(path)),
        )
    version = facts.library_versions.get("tensorrt", "")
    if version_of(version)[:2] == (8, 0) or (not version and facts.l4t == "R32.6.1"):
        yield Problem(
            "tensorrt_8_0",
            WARNING,
            "TensorRT {} has no Round operator and cannot parse these models, so this agent does not use it".format(
                version or "8.0.1"
            ),
            _NEWER_JETPACK if is_jetson(facts) else pip_install(facts, "--upgrade tensorrt"),
        )


def _runtimes(facts: Facts) -> Iterator[Problem]:
    gpu = computing_gpu(facts.gpus)
    for sentence, cause in zip_longest(facts.broken, facts.broken_causes, fillvalue=""):
        yield Problem(
            "backend_broken", WARNING if facts.backends else ERROR, sentence, _runtime_fix(facts, sentence, cause)
        )
    if not facts.backends:
        yield Problem(
            "no_backend",
            ERROR,
            "nothing here can run a model",
            _any_runtime(facts),
        )
    elif gpu is not None and not any(backend.uses_gpu for backend in facts.backends):
        yield Problem(
            "gpu_unused",
            WARNING,
            "{} is here and no runtime uses it: models run on the CPU".format(gpu.name or "a GPU"),
            "mend what the problems about its runtimes name"
            if _has_unused_tensorrt(facts) or facts.broken
            else _gpu_runtime(facts, gpu),
        )


def _pycuda(facts: Facts) -> Iterator[Problem]:
    if facts.pycuda_error:
        yield Problem(
            "pycuda_unused",
            INFO,
            "{}: TensorRT runs with libcudart instead".format(facts.pycuda_error),
            "remove pycuda, or build it again for this CUDA and numpy: "
            + pip_install(facts, "--force-reinstall --no-cache-dir 'pycuda>=2020.1'"),
        )


CHECKS = (_modules, _tensorrt, _runtimes, _pycuda)


def _runtime_fix(facts: Facts, sentence: str, cause: str) -> str:
    """Return the fix for an installed runtime that does not work.

    It depends on the name of the error.
    """
    name, _, detail = cause.partition(": ")
    if name.startswith("cuda") or name == "libcudart":
        return _gpu_fix(facts, name)
    if name == "ModuleNotFoundError":
        return pip_install(facts, detail or "the module that it names")
    if name == "UnsupportedGpuError":
        return "nothing is to be mended: it has no code for this GPU, and the other backends are used"
    if name == "SIGILL":
        return "export OPENBLAS_CORETYPE=ARMV8 before starting the agent, where its numpy is older than 1.19.6"
    backend = _named_backend(sentence)
    if name in ("timeout", "crash"):
        part = backend.name if backend else "pycuda" if sentence.startswith("pycuda ") else ""
        probe = "-X faulthandler -m efficientquant_agent.backends {}".format(part).rstrip()
        return "{} shows where; install that runtime again, or remove it".format(
            in_environment(facts, probe).replace("sudo ", "")
        )
    if backend is not None and backend.is_in_jetpack and is_jetson(facts):
        return _NEWER_JETPACK if name == "RuntimeTooOldError" else _JETPACK_TENSORRT
    packages = _packages(facts, backend)
    if name == "RuntimeTooOldError":
        return pip_install(facts, "--upgrade", packages)
    return "install it again, with its libraries of the same release: {}".format(
        pip_install(facts, "--upgrade --force-reinstall", packages)
    )


def _named_backend(sentence: str) -> Optional[Type[Backend]]:
    """Return the backend that a sentence of `efficientquant_agent.backends` is about."""
    names = re.findall(r"backend '([\w-]+)'", sentence)[:1]
    return next((backend for backend in backends.known() if backend.name in names), None)


def _packages(facts: Facts, backend: Optional[Type[Backend]]) -> str:
    """Return the package by which pip installs a backend.

    Of several packages it is the installed one, else the first.
    """
    offered = backend.packages if backend is not None else ()
    return next(
        (package for package in offered if package in facts.installed), next(iter(offered), "the packages it names")
    )


def _gpu_fix(facts: Facts, error: str) -> str:
    """Return the fix for a GPU that does not answer.

    It depends on CUDA's error. Installing the runtime again never helps.
    """
    driver = next((gpu.driver_version for gpu in facts.gpus if gpu.driver_version), "")
    if error == "libcudart":
        if is_jetson(facts):
            return "sudo apt install nvidia-jetpack (in a container, use one of NVIDIA's l4t images)"
        return pip_install(facts, "nvidia-cuda-runtime-cu12") + ", or NVIDIA's CUDA toolkit"
    if error == "cudaErrorInsufficientDriver":
        if is_jetson(facts):
            return (
                "a Jetson's driver comes with JetPack: use the CUDA and TensorRT of its own release (apt), or upgrade "
                "JetPack"
            )
        if driver or facts.cuda_driver_version:
            return "update NVIDIA's driver{} to one for CUDA {} or newer, then restart".format(
                " " + driver if driver else "", facts.cuda_version or "as new as the runtime"
            )
    if error in ("cudaErrorInsufficientDriver", "cudaErrorNoDevice"):
        return (
            "with an NVIDIA GPU in this machine, install its driver (nvidia-smi must list the GPU; a container is "
            "started with --gpus all); without one there is nothing to mend"
        )
    if error == "cudaErrorSystemDriverMismatch":
        return "restart the machine: its driver was updated while it was loaded"
    if error == "cudaErrorSystemNotReady":
        return "sudo systemctl restart nvidia-fabricmanager, or restart the machine"
    return "look at nvidia-smi and at `sudo dmesg | grep -i nvrm`, and restart the machine"


def _any_runtime(facts: Facts) -> str:
    on_cpu = "for ONNX Runtime on the CPU: " + pip_install(facts, "onnxruntime numpy")
    if facts.broken or _has_unused_tensorrt(facts):
        return "mend what the errors above name; or, " + on_cpu
    gpu = computing_gpu(facts.gpus)
    return on_cpu if gpu is None else "{}; for the GPU: {}".format(on_cpu, _gpu_runtime(facts, gpu))


def _gpu_runtime(facts: Facts, gpu: Gpu) -> str:
    if is_jetson(facts):
        return _JETPACK_TENSORRT
    if facts.cuda_error.startswith("cudaErrorInsufficientDriver"):
        return _gpu_fix(facts, "cudaErrorInsufficientDriver")
    capability = gpu.compute_capability
    if 0 < capability < _OLDEST_SM_OF_THE_INDEX:
        return "install a release of TensorRT that supports SM {}.{}, as its support matrix says".format(
            *divmod(capability, 10)
        )
    install = pip_install(facts, "tensorrt numpy")
    driver = gpu.driver_version
    if driver and version_of(driver) < _OLDEST_DRIVER_OF_THE_INDEX:
        return "update NVIDIA's driver {} to {} or newer (CUDA 13), restart, then {}".format(
            driver, _OLDEST_DRIVER_OF_THE_INDEX[0], install
        )
    return "install TensorRT: " + install


def _has_unused_tensorrt(facts: Facts) -> bool:
    return _is_hidden(facts) or _is_for_another_python(facts)


def _is_hidden(facts: Facts) -> bool:
    fits = any(_fits(path, facts.python_version) for path in facts.system_tensorrt)
    return fits and "tensorrt" not in facts.library_versions and facts.in_venv and not facts.sees_system_packages


def _is_for_another_python(facts: Facts) -> bool:
    fits = any(_fits(path, facts.python_version) for path in facts.system_tensorrt)
    return bool(facts.system_tensorrt) and "tensorrt" not in facts.library_versions and not fits


def _fits(path: str, python_version: str) -> bool:
    """Tell whether a folder's packages are for this version of Python.

    Debian's python3/dist-packages names no version, so it fits all.
    """
    match = re.search(r"/python(\d+\.\d+)/", path)
    return match is None or python_version.startswith(match.group(1) + ".")


def _python_of(path: str) -> str:
    match = re.search(r"/(python\d+\.\d+)/", path)
    return match.group(1) if match else "python3"
