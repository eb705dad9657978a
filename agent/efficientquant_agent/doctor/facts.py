"""The doctor's facts about a device, and its problems."""

from types import MappingProxyType
from typing import Mapping, NamedTuple, Optional, Sequence

from efficientquant_agent.records import BackendInfo, Gpu

ERROR, WARNING, INFO = "error", "warning", "info"
READABLE, NEEDS_ROOT, ABSENT = "readable", "needs root", "absent"


class ControllerFacts(NamedTuple):
    """The doctor's facts about a controller.

    None and empty mean unknown.
    """

    address: str
    is_reachable: bool = False
    is_controller: bool = False  # also false for another kind of server
    reason: str = ""  # why it cannot be reached, or why it was not asked
    protocol_version: Optional[int] = None
    version: str = ""
    # This device's clock minus the controller's, corrected by half the round trip. Negative is behind.
    clock_ahead_s: Optional[float] = None
    round_trip_s: Optional[float] = None
    agent_protocol_version: Optional[int] = None


class Facts(NamedTuple):
    """The doctor's facts about a device.

    Empty and None mean that it found nothing.
    """

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
    cpu_dot_products: Sequence[str] = ()  # of 8-bit integers: "vnni", "amx", "dotprod", "i8mm"
    cpu_max_hz: Optional[int] = None
    gpu_max_hz: Optional[int] = None
    memory_total_bytes: Optional[int] = None
    swap_total_bytes: Optional[int] = None
    gpus: Sequence[Gpu] = ()
    cuda_version: str = ""  # of the runtime library, which can be installed without a driver or a GPU
    cuda_library: str = ""  # that library's path
    cuda_driver_version: str = ""  # the newest CUDA that the driver supports
    cuda_toolkit: str = ""  # of the files below /usr/local/cuda
    cuda_error: str = ""  # why no GPU answers the runtime library
    library_versions: Mapping[str, str] = MappingProxyType({})
    backends: Sequence[BackendInfo] = ()
    broken: Sequence[str] = ()
    broken_causes: Sequence[str] = ()  # of each in `broken`: the error's name, "NAME: detail", or empty
    pycuda_error: str = ""  # why an installed pycuda cannot be used
    power_mode: str = ""
    power_modes: Sequence[str] = ()
    clocks: str = ""  # "locked", "free" or "unverifiable"
    clock_control: str = ""  # "root", "helper" or "none"
    root_only: Mapping[str, str] = MappingProxyType({})  # "emc_clock", "nvmap", "iram": READABLE, NEEDS_ROOT or ABSENT
    tools: Mapping[str, str] = MappingProxyType(
        {}
    )  # "tegrastats", "nvpmodel", "jetson_clocks", "helper": path, or empty
    python_version: str = ""
    python: str = ""  # the interpreter's path, for commands that a person types
    prefix: str = ""  # of the virtual environment, or of the system's Python
    prefix_writable: bool = True
    missing_modules: Sequence[str] = ()  # without which the agent does not start
    in_venv: bool = False
    sees_system_packages: bool = True
    installed: Mapping[str, str] = MappingProxyType({})  # distribution → version, read without loading any of them
    system_tensorrt: Sequence[str] = ()  # folders, below the system's own Python
    openblas_coretype: str = ""
    state_dir: str = ""
    state_dir_writable: bool = True
    free_disk_bytes: Optional[int] = None
    controller: Optional[ControllerFacts] = None  # None when no controller is named


class Problem(NamedTuple):
    """A problem that keeps this device from measuring, or from measuring everything.

    `fix` is what a person can do.
    """

    id: str
    severity: str
    sentence: str
    fix: str


def is_jetson(facts: Facts) -> bool:
    """Tell whether a device's runtimes and driver come with JetPack.

    Its files decide, because other boards share memory, too.
    """
    return bool(facts.soc or facts.l4t)


def pip_install(facts: Facts, *arguments: str) -> str:
    """Return the pip command to type for the agent's own Python."""
    return in_environment(facts, "-m pip install " + " ".join(arguments))


def in_environment(facts: Facts, arguments: str) -> str:
    """Return a command of the agent's own Python.

    The `pip` or `python3` on PATH may belong to another Python.
    """
    return "{}{} {}".format("" if facts.prefix_writable else "sudo ", facts.python or "python3", arguments)
