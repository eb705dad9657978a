"""This machine's GPU, numpy and folders of NVIDIA's libraries.

The GPU is found by CUDA, NVML, nvidia-smi or the board. The libraries are those of pip and of a CUDA toolkit.
"""

import glob
import os
import platform
import site
import subprocess
import sys
from typing import Any, Callable, Dict, List, Mapping, NamedTuple

from efficientquant_agent.backends import cudart
from efficientquant_agent.errors import SensorError
from efficientquant_agent.host.device import DeviceFiles
from efficientquant_agent.samplers import nvml

SMI_TIMEOUT_S = 8.0


class Machine(NamedTuple):
    """The GPU under test.

    Unknown fields are empty. `trouble` is CUDA's error when CUDA finds no GPU.
    """

    name: str
    uuid: str = ""
    sm: str = ""
    driver: str = ""
    cuda: str = ""
    trouble: str = ""


def by_cuda() -> Dict[str, str]:
    """Return the first GPU that CUDA sees, or {"trouble"}."""
    try:
        library = cudart.open_library()
        gpu = cudart.gpus(library)[0]
    except cudart.CudaError as error:
        return {"trouble": str(error)}
    sm = "{}.{}".format(*divmod(gpu.compute_capability, 10))
    return {
        "name": gpu.name,
        "uuid": gpu.uuid,
        "sm": sm,
        "driver": gpu.driver_version,
        "cuda": library.runtime_version(),
    }


def by_nvml() -> Dict[str, str]:
    """Return the first GPU that NVML sees, or {"trouble"}."""
    try:
        gpu = nvml.open_gpu()
        if gpu is None:
            return {"trouble": "there is no NVML, or no module pynvml"}
        name, uuid = (gpu.ask(call) for call in (gpu.nvml.nvmlDeviceGetName, gpu.nvml.nvmlDeviceGetUUID))
        driver = gpu.nvml.nvmlSystemGetDriverVersion()
        gpu.close()
    except SensorError as error:
        return {"trouble": str(error)}
    return {"name": _text(name), "uuid": _text(uuid), "driver": _text(driver)}


def by_smi() -> Dict[str, str]:
    """Return the first GPU that nvidia-smi lists, or {"trouble"}."""
    fields = "name,uuid,driver_version"
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=" + fields, "--format=csv,noheader"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=SMI_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"trouble": "nvidia-smi: {}".format(error)}
    lines = done.stdout.decode(errors="replace").strip().splitlines() or ["no answer"]
    values = [value.strip() for value in lines[0].split(",")]
    if done.returncode or len(values) != 3 or not values[1].startswith("GPU-"):
        return {"trouble": "nvidia-smi: {}".format(lines[0])}
    return dict(zip(("name", "uuid", "driver"), values))


def by_board() -> Dict[str, str]:
    """Return the GPU of a Jetson's system on chip, or {"trouble"}."""
    gpus = DeviceFiles().gpus() if DeviceFiles().soc() else []
    if not gpus:
        return {"trouble": "this is no Jetson"}
    return {"name": gpus[0].name, "sm": "{}.{}".format(*divmod(gpus[0].compute_capability, 10))}


def numpy_version() -> Dict[str, str]:
    """Return {"version"} of numpy, or {"trouble"}."""
    try:
        import numpy
    except (ImportError, OSError) as error:
        return {"trouble": (str(error).strip().splitlines() or ["it does not load"])[0]}
    return {"version": numpy.__version__}


SOURCES: Mapping[str, Callable[[], Dict[str, str]]] = {
    "CUDA": by_cuda,
    "NVML": by_nvml,
    "nvidia-smi": by_smi,
    "board": by_board,
    "numpy": numpy_version,
}


def no_numpy(trouble: str) -> str:
    """Return the sentence for a Python without a working numpy.

    It says how to install numpy.
    """
    return (
        "numpy, which {} (Python {}) cannot import ({}): install it with {} -m pip install numpy or as the system's "
        "package python3-numpy, or name another Python: make gpu-check PYTHON=/path/to/python".format(
            sys.executable, platform.python_version(), trouble, os.path.basename(sys.executable)
        )
    )


def library_folders() -> List[str]:
    """Return the folders of NVIDIA's libraries, the preferred first.

    They are those of pip's packages and of a CUDA toolkit.
    """
    roots = list(sys.path) + (site.getsitepackages() if hasattr(site, "getsitepackages") else [])
    folders: List[str] = []
    for root in roots:
        folders += sorted(glob.glob(os.path.join(glob.escape(root or "."), "nvidia", "*", "lib")), reverse=True)
        folders += sorted(glob.glob(os.path.join(glob.escape(root or "."), "tensorrt*_libs")))
    folders += [folder for folder in ("/usr/local/cuda/lib64",) if os.path.isdir(folder)]
    return list(dict.fromkeys(os.path.abspath(folder) for folder in folders))


def with_libraries(environment: Mapping[str, str], folders: List[str]) -> Dict[str, str]:
    """Return the environment with these folders appended to its library path."""
    path = [environment.get("LD_LIBRARY_PATH", "")] + folders
    return dict(environment, LD_LIBRARY_PATH=os.pathsep.join(filter(None, path)))


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value or "")
