"""What is wrong with a device, from facts alone: each problem with how bad it is, in a sentence, and with its fix."""

import re
from types import MappingProxyType
from typing import Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from efficientquant_agent.records import BackendInfo, Gpu

ERROR, WARNING, INFO = "error", "warning", "info"
READABLE, NEEDS_ROOT, ABSENT = "readable", "needs root", "absent"

_GPU_BACKENDS = ("trt", "trt-rtx", "ort-trt", "ort-cuda")
_GIB = 1024**3


class Facts(NamedTuple):
    """What the doctor knows about a device; empty and None mean that it found nothing."""

    agent_version: str = ""
    board_id: str = ""
    board: str = ""
    soc: str = ""
    l4t: str = ""
    jetpack: str = ""
    os: str = ""
    kernel: str = ""
    architecture: str = ""
    cpu_model: str = ""
    cpu_count: int = 0
    cpu_max_hz: Optional[int] = None
    gpu_max_hz: Optional[int] = None
    memory_total_bytes: Optional[int] = None
    swap_total_bytes: Optional[int] = None
    gpus: Sequence[Gpu] = ()
    cuda_version: str = ""
    library_versions: Mapping[str, str] = MappingProxyType({})
    backends: Sequence[BackendInfo] = ()
    broken: Sequence[str] = ()
    power_mode: str = ""
    power_modes: Sequence[str] = ()
    clocks: str = ""  # "locked", "free" or "unverifiable"
    clock_control: str = ""  # "root", "helper" or "none"
    root_only: Mapping[str, str] = MappingProxyType({})  # "emc_clock", "nvmap", "iram": READABLE, NEEDS_ROOT or ABSENT
    tools: Mapping[str, str] = MappingProxyType(
        {}
    )  # "tegrastats", "nvpmodel", "jetson_clocks", "helper": path, or empty
    python_version: str = ""
    in_venv: bool = False
    sees_system_packages: bool = True
    installed: Mapping[str, str] = MappingProxyType({})  # distribution → version, read without loading any of them
    system_tensorrt: Sequence[str] = ()  # folders, below the system's own Python
    openblas_coretype: str = ""
    state_dir: str = ""
    state_dir_writable: bool = True
    free_disk_bytes: Optional[int] = None


class Problem(NamedTuple):
    """Something that keeps this device from measuring, or from measuring all; `fix` is what a person can do."""

    id: str
    severity: str
    sentence: str
    fix: str


def can_run(facts: Facts) -> bool:
    """Whether this device can run any model at all."""
    return bool(facts.backends)


def diagnose(facts: Facts) -> List[Problem]:
    """Return every problem, the worst first, those of one severity in the order of installing."""
    found = [problem for check in _CHECKS for problem in check(facts)]
    return sorted(found, key=lambda problem: (ERROR, WARNING, INFO).index(problem.severity))


def _python(facts: Facts) -> Iterator[Problem]:
    pip = facts.installed.get("pip", "")
    # manylinux_2_17, the tag of grpcio's wheels for aarch64, is known from 20.3 on.
    if pip and _version(pip) < (20, 3):
        yield Problem(
            "pip_too_old",
            WARNING,
            "pip {} does not know the wheels' tags and compiles grpcio instead, which takes hours on a board".format(
                pip
            ),
            "pip install 'pip==21.3.1'" if facts.python_version.startswith("3.6") else "pip install --upgrade pip",
        )
    numpy = facts.installed.get("numpy", "")
    if facts.architecture != "aarch64" or not numpy:
        return
    if _version(numpy) == (1, 19, 5):
        yield Problem(
            "numpy_illegal_instruction",
            ERROR,
            'numpy 1.19.5 ends with "Illegal instruction" on a Jetson, and every runtime with it',
            "pip install 'numpy==1.19.4'",
        )
    elif _version(numpy) < (1, 19, 6) and not facts.openblas_coretype:
        yield Problem(
            "openblas_coretype",
            WARNING,
            'numpy {} can end with "Illegal instruction" here: its OpenBLAS mistakes the processor'.format(numpy),
            "export OPENBLAS_CORETYPE=ARMV8 before starting the agent (its unit file does)",
        )


def _tensorrt(facts: Facts) -> Iterator[Problem]:
    for_this_python = [path for path in facts.system_tensorrt if _fits(path, facts.python_version)]
    others = [path for path in facts.system_tensorrt if path not in for_this_python]
    if "tensorrt" in facts.library_versions:
        pass
    elif for_this_python and facts.in_venv and not facts.sees_system_packages:
        yield Problem(
            "tensorrt_hidden",
            ERROR,
            "TensorRT is in {}, which this virtual environment does not see".format(for_this_python[0]),
            "create the environment again: python3 -m venv --clear --system-site-packages, then install the agent",
        )
    elif others and not for_this_python:
        yield Problem(
            "tensorrt_other_python",
            ERROR,
            "TensorRT is installed for another Python ({}), not for {}".format(others[0], facts.python_version),
            "create the agent's environment with the system's own Python: "
            "/usr/bin/python3 -m venv --system-site-packages",
        )
    version = facts.library_versions.get("tensorrt", "")
    if _version(version)[:2] == (8, 0) or (not version and facts.l4t == "R32.6.1"):
        yield Problem(
            "tensorrt_8_0",
            WARNING,
            "TensorRT {} has no Round operator, so it builds no engine from some models".format(version or "8.0.1"),
            "upgrade to JetPack 4.6.1 or later (R32.7.1), which has TensorRT 8.2",
        )


def _runtimes(facts: Facts) -> Iterator[Problem]:
    for sentence in facts.broken:
        yield Problem(
            "backend_broken",
            WARNING if facts.backends else ERROR,
            sentence,
            "install that runtime again in the version that the agent's README names for this board, or remove it",
        )
    if not facts.backends:
        yield Problem(
            "no_backend",
            ERROR,
            "nothing here can run a model",
            "install what the errors above name"
            if facts.broken
            else "pip install 'efficientquant-agent[ort]' for ONNX Runtime on the CPU, or install TensorRT",
        )
    elif facts.gpus and not any(backend.name in _GPU_BACKENDS for backend in facts.backends):
        yield Problem(
            "gpu_unused",
            WARNING,
            "{} is here and no runtime uses it: models run on the CPU".format(facts.gpus[0].name or "a GPU"),
            "install JetPack's TensorRT: sudo apt install python3-libnvinfer"
            if facts.soc
            else "install TensorRT: pip install tensorrt",
        )


def _board(facts: Facts) -> Iterator[Problem]:
    if facts.board_id.startswith("host:"):
        yield Problem(
            "identity_unsure",
            WARNING,
            "this machine has neither a serial number nor a machine id, so only its host name tells it from others",
            "sudo systemd-machine-id-setup",
        )
    if facts.soc and not facts.l4t:
        yield Problem(
            "l4t_unknown",
            WARNING,
            "this is a Jetson, and its release of Linux for Tegra cannot be read",
            "in a container, mount it: --volume /etc/nv_tegra_release:/etc/nv_tegra_release:ro",
        )
    if facts.soc and not facts.tools.get("tegrastats"):
        yield Problem(
            "tegrastats_missing",
            WARNING,
            "tegrastats is missing",
            "in a container, mount it: --volume /usr/bin/tegrastats:/usr/bin/tegrastats:ro",
        )
    memory_bytes = facts.memory_total_bytes
    if facts.soc and memory_bytes is not None and memory_bytes < 4.5 * _GIB and facts.swap_total_bytes == 0:
        yield Problem(
            "swap_missing",
            WARNING,
            "{:.1f} GiB of memory and no swap: building an engine may be killed".format(memory_bytes / _GIB),
            "sudo fallocate -l 4G /swapfile && sudo chmod 600 /swapfile && sudo mkswap /swapfile && "
            "sudo swapon /swapfile",
        )


def _rights(facts: Facts) -> Iterator[Problem]:
    hidden = [name for name, state in sorted(facts.root_only.items()) if state == NEEDS_ROOT]
    if hidden:
        yield Problem(
            "root_only",
            INFO,
            "only root can read: {}; these stay unknown, and locked clocks cannot be fully verified".format(
                ", ".join(hidden)
            ),
            "run the agent as root, as its unit file does",
        )
    can_lock = bool(facts.tools.get("jetson_clocks")) or any(not gpu.integrated for gpu in facts.gpus)
    if can_lock and facts.clock_control == "none":
        yield Problem(
            "clocks_not_settable",
            INFO,
            "clocks and power modes cannot be set by this user",
            "install the helper as deploy/agent/sudoers says, or run the agent as root",
        )
    if facts.soc and facts.clocks == "free":
        yield Problem(
            "clocks_free",
            INFO,
            "clocks follow the load: short runs measure the governor",
            "submit with --lock-clocks",
        )


def _nvml(facts: Facts) -> Iterator[Problem]:
    if all(gpu.integrated for gpu in facts.gpus):
        return
    other = facts.installed.get("pynvml", "")
    if "nvidia-ml-py" not in facts.installed:
        yield Problem(
            "nvml_missing",
            WARNING,
            "without nvidia-ml-py the GPU's power, memory, clocks and temperature stay unknown",
            "pip install nvidia-ml-py",
        )
    # From 12 on it is nothing but a dependency on nvidia-ml-py.
    if other and _version(other) < (12,):
        yield Problem(
            "pynvml_shadows",
            WARNING,
            "the package pynvml {} has a module of the same name as nvidia-ml-py and can hide it".format(other),
            "pip uninstall -y pynvml && pip install --force-reinstall nvidia-ml-py",
        )


def _disk(facts: Facts) -> Iterator[Problem]:
    if not facts.state_dir_writable:
        yield Problem(
            "state_dir_unusable",
            ERROR,
            "the state directory {} cannot be written to".format(facts.state_dir),
            "pass --state-dir, or give this user that directory",
        )
    if facts.free_disk_bytes is not None and facts.free_disk_bytes < 2 * _GIB:
        yield Problem(
            "disk_low",
            WARNING,
            "{:.1f} GiB are free for models and engines in {}".format(facts.free_disk_bytes / _GIB, facts.state_dir),
            "free some space, or pass --state-dir on another disk",
        )


_CHECKS = (_python, _tensorrt, _runtimes, _board, _rights, _nvml, _disk)


def _version(text: str) -> Tuple[int, ...]:
    """Return the leading numbers of a version: "8.0.1.6" → (8, 0, 1, 6), "" → ()."""
    match = re.match(r"\d+(?:\.\d+)*", text)
    return tuple(int(part) for part in match.group().split(".")) if match else ()


def _fits(path: str, python_version: str) -> bool:
    """Whether packages in a folder are for a Python; Debian's python3/dist-packages does not say for which."""
    match = re.search(r"/python(\d+\.\d+)/", path)
    return match is None or python_version.startswith(match.group(1) + ".")
