"""The board's identity and abilities, read from /proc, /sys and /etc.

Absent facts are empty or None.
"""

import glob
import json
import os
import re
import signal
import socket
import subprocess
import sys
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from efficientquant_agent.host import clock_helper
from efficientquant_agent.records import BackendInfo, DeviceSnapshot, Gpu

# Each runtime has a shorter limit of its own; see backends/__main__.py.
_PROBE_TIMEOUT_S = 900.0
# The JetPack release of each release of Linux for Tegra. It is only shown to people.
_JETPACK = {
    "R32.6.1": "4.6",
    "R32.7.1": "4.6.1",
    "R32.7.2": "4.6.2",
    "R32.7.3": "4.6.3",
    "R32.7.4": "4.6.4",
    "R32.7.5": "4.6.5",
    "R32.7.6": "4.6.6",
    "R35.1.0": "5.0.2",
    "R35.2.1": "5.1",
    "R35.3.1": "5.1.1",
    "R35.4.1": "5.1.2",
    "R35.5.0": "5.1.3",
    "R35.6.0": "5.1.4",
    "R36.3.0": "6.0",
    "R36.4.0": "6.1",
    "R36.4.3": "6.2",
    "R36.4.4": "6.2.1",
}
# The GPU of a system on chip: (name, compute capability)
_TEGRA_GPUS = {
    "tegra210": ("Tegra X1", 53),
    "tegra186": ("Tegra X2", 62),
    "tegra194": ("Xavier", 72),
    "tegra234": ("Orin", 87),
}
# The dot products of 8-bit integers by their flags in cpuinfo: first those of x86, then those of arm64.
_DOT_PRODUCTS = (
    ("vnni", {"avx_vnni", "avx512_vnni"}),
    ("amx", {"amx_int8"}),
    ("dotprod", {"asimddp"}),
    ("i8mm", {"i8mm"}),
)


class Runtimes(NamedTuple):
    """The runtimes that a short child process could load.

    `broken` has a sentence for each runtime that does not load.
    """

    library_versions: Dict[str, str]
    backends: List[BackendInfo]
    broken: List[str]
    gpus: Sequence[Mapping[str, Any]] = ()  # as CUDA describes them
    cuda_version: str = ""  # of the runtime library
    broken_causes: Sequence[str] = ()  # of each in `broken`: the error's name, "NAME: detail", or empty
    cuda_library: str = ""
    cuda_driver_version: str = ""  # the newest CUDA that the driver supports
    cuda_error: str = ""  # why no GPU answers the runtime library
    pycuda_error: str = ""  # why an installed pycuda cannot be used


class Precisions(NamedTuple):
    """The precisions that a GPU computes faster than FP32."""

    fp16: bool
    int8: bool
    tf32: bool


class DeviceFiles(NamedTuple):
    """The folders that hold the facts about a device.

    Tests pass captured trees.
    """

    proc: str = "/proc"
    sys: str = "/sys"
    etc: str = "/etc"
    usr: str = "/usr"
    var: str = "/var"

    @classmethod
    def of_tree(cls, root: str) -> "DeviceFiles":
        """Return the folders inside a tree that looks like a root directory."""
        return cls(*[os.path.join(root, name) for name in cls._fields])

    def snapshot(
        self,
        library_versions: Dict[str, str],
        backends: List[BackendInfo],
        gpus: Sequence[Mapping[str, Any]] = (),
        cuda_version: str = "",
        clock_control: str = "",
    ) -> DeviceSnapshot:
        """Return the snapshot of this board.

        The arguments are the facts that no file has: runtimes, GPUs as CUDA sees them, and how clocks may be changed.
        """
        cpu_model, cpu_count = self.cpu()
        return DeviceSnapshot(
            board_id=self.board_id(),
            board=self.board(),
            os=self.os_name(),
            kernel=_text(self.proc, "sys/kernel/osrelease"),
            architecture=os.uname().machine,
            cpu_model=cpu_model,
            cpu_count=cpu_count,
            memory_total_bytes=self.memory_bytes("MemTotal"),
            swap_total_bytes=self.memory_bytes("SwapTotal"),
            l4t=self.l4t(),
            library_versions=library_versions,
            backends=backends,
            jetpack=self.jetpack(),
            cuda_version=cuda_version,
            power_mode=self.power_mode(),
            clock_control=clock_control,
            gpus=self.gpus(gpus),
            cpu_dot_products=self.cpu_dot_products(),
        )

    def board_id(self) -> str:
        """Return an id that stays with the board when its disk moves.

        It is the serial number, else the machine id, else "host:" and the host name.
        """
        return (
            _text(self.proc, "device-tree/serial-number")
            or _text(self.etc, "machine-id")
            or "host:" + socket.gethostname()
        )

    def board(self) -> str:
        """Return the board's own name for itself, empty when it has none."""
        return _text(self.proc, "device-tree/model") or _text(self.sys, "class/dmi/id/product_name")

    def os_name(self) -> str:
        """Return the system's name, e.g. "Ubuntu 18.04.6 LTS", empty when unknown."""
        match = re.search(r'^PRETTY_NAME="?([^"\n]*)', _text(self.etc, "os-release"), re.MULTILINE)
        return match.group(1) if match else ""

    def l4t(self) -> str:
        """Return a Jetson's Linux for Tegra release, e.g. "R32.7.4", else empty."""
        match = re.search(r"^# R(\d+) \(release\), REVISION: ([\d.]+)", _text(self.etc, "nv_tegra_release"))
        return "R{}.{}".format(*match.groups()) if match else ""

    def jetpack(self) -> str:
        """Return the JetPack release, e.g. "4.6.4", empty when unknown.

        It is unknown for a release of Linux for Tegra that the table lacks.
        """
        return _JETPACK.get(self.l4t(), "")

    def soc(self) -> str:
        """Return a Jetson's system on chip, e.g. "tegra210", else empty."""
        names = re.findall(r"nvidia,(tegra\d+)(?=\x00|$)", _text(self.proc, "device-tree/compatible"))
        return names[-1] if names else ""

    def cpu(self) -> Tuple[str, int]:
        """Return the CPU's name and the number of logical CPUs.

        The name is empty when there is none.
        """
        text = _text(self.proc, "cpuinfo")
        model = re.search(r"^(?:model name|Hardware)\s*:\s*(.+)$", text, re.MULTILINE)
        return (model.group(1).strip() if model else ""), len(re.findall(r"^processor\s*:", text, re.MULTILINE))

    def cpu_dot_products(self) -> List[str]:
        """Return the dot products of 8-bit integers that every core has.

        They are "vnni" and "amx" on x86, "dotprod" and "i8mm" on arm64. A run may move between unlike cores.
        """
        lines = re.findall(r"^(?:flags|Features)\s*:(.*)$", _text(self.proc, "cpuinfo"), re.MULTILINE)
        common = set.intersection(*[set(line.split()) for line in lines]) if lines else set()
        return [name for name, flags in _DOT_PRODUCTS if flags & common]

    def memory_bytes(self, field: str) -> Optional[int]:
        """Return a field of meminfo in bytes, None without it."""
        match = re.search(r"^{}:\s+(\d+) kB$".format(field), _text(self.proc, "meminfo"), re.MULTILINE)
        return int(match.group(1)) * 1024 if match else None

    def clock_paths(self) -> clock_helper.ClockPaths:
        """Return the paths for reading this board's power mode and clocks."""
        return clock_helper.ClockPaths(
            nvpmodel=os.path.join(self.usr, "sbin/nvpmodel"),
            jetson_clocks=os.path.join(self.usr, "bin/jetson_clocks"),
            sys=self.sys,
            nvpmodel_conf=os.path.join(self.etc, "nvpmodel.conf"),
            nvpmodel_status=os.path.join(self.var, "lib/nvpmodel/status"),
        )

    def power_mode(self) -> str:
        """Return the power mode's name, else its number, else empty."""
        mode = clock_helper.read_power_mode(self.clock_paths())
        return "" if mode is None else mode[1] or str(mode[0])

    def power_modes(self) -> List[str]:
        """Return the names of the power modes, ordered by number."""
        return [name for _, name in sorted(clock_helper.read_power_modes(self.clock_paths()).items())]

    def max_clocks_hz(self) -> Dict[str, int]:
        """Return the highest clocks that the power mode allows.

        The keys are "cpu" and "gpu", and "emc" for root. A clock that cannot be read is missing.
        """
        highest_hz = {}  # type: Dict[str, int]
        for name, clocks in clock_helper.read_domains(self.sys).items():
            kind = name.rstrip("0123456789")
            highest_hz[kind] = max(highest_hz.get(kind, 0), clocks["max_hz"])
        return highest_hz

    def gpus(self, seen_by_cuda: Sequence[Mapping[str, Any]] = ()) -> List[Gpu]:
        """Return the GPUs that CUDA sees, else those known without it.

        Without CUDA the system on chip or the driver shows them. A driver reports no compute capability: it is then 0,
        and no precision counts as fast.
        """
        driver = self.driver_version()
        if seen_by_cuda:
            return [_gpu(dict(gpu, driver_version=gpu.get("driver_version") or driver)) for gpu in seen_by_cuda]
        if self.soc() in _TEGRA_GPUS:
            name, capability = _TEGRA_GPUS[self.soc()]
            facts = {"name": name, "compute_capability": capability, "integrated": True}
            return [_gpu(dict(facts, memory_total_bytes=self.memory_bytes("MemTotal")))]
        return [_gpu(dict(gpu, driver_version=driver)) for gpu in self._gpus_of_the_driver()]

    def driver_version(self) -> str:
        """Return the version of NVIDIA's driver for discrete GPUs, empty without one."""
        match = re.search(r"Kernel Module\b[^\n]*?\s(\d+\.\d+(?:\.\d+)?)\s", _text(self.proc, "driver/nvidia/version"))
        return match.group(1) if match else ""

    def cuda_toolkit(self) -> str:
        """Return the version of the CUDA toolkit below /usr/local/cuda, empty without one."""
        text = _text(self.usr, "local/cuda/version.json")  # from CUDA 11.1 on
        match = re.search(r'"cuda"\s*:\s*\{[^}]*"version"\s*:\s*"([0-9.]+)"', text)
        match = match or re.search(r"CUDA Version ([0-9.]+)", _text(self.usr, "local/cuda/version.txt"))
        return match.group(1) if match else ""

    def _gpus_of_the_driver(self) -> List[Dict[str, str]]:
        gpus = []
        for folder in sorted(glob.glob(os.path.join(glob.escape(self.proc), "driver/nvidia/gpus/*"))):
            fields = dict(re.findall(r"^([^:\n]+):[ \t]*(.*?)[ \t]*$", _text(folder, "information"), re.MULTILINE))
            gpus.append({"name": fields.get("Model", ""), "uuid": fields.get("GPU UUID", "")})
        return gpus


def precisions(compute_capability: int) -> Precisions:
    """Return the precisions that a GPU computes faster than FP32.

    `compute_capability` is 53 for SM 5.3. Source: NVIDIA's table of hardware and precision. SM 6.1 has FP16,
    at a 64th of FP32's speed.
    """
    return Precisions(
        fp16=compute_capability in (53, 60, 62) or compute_capability >= 70,
        int8=compute_capability == 61 or compute_capability >= 70,
        tf32=compute_capability >= 80,
    )


def computing_gpu(gpus: Sequence[Gpu]) -> Optional[Gpu]:
    """Return the GPU that runtimes compute on: CUDA's first, None without any."""
    return gpus[0] if gpus else None


def discrete_gpu(gpus: Sequence[Gpu]) -> Optional[Gpu]:
    """Return the computing GPU, None when it is integrated.

    An integrated GPU shares the board's memory and clocks. NVML reads and locks a discrete one.
    """
    gpu = computing_gpu(gpus)
    return None if gpu is None or gpu.integrated else gpu


def _gpu(facts: Mapping[str, Any]) -> Gpu:
    """Return the record of a GPU.

    Unknown facts are empty. Its precisions follow from its compute capability.
    """
    capability = int(facts.get("compute_capability") or 0)
    memory = facts.get("memory_total_bytes")
    return Gpu(
        name=str(facts.get("name") or ""),
        uuid=str(facts.get("uuid") or ""),
        compute_capability=capability,
        memory_total_bytes=None if memory is None else int(memory),
        integrated=bool(facts.get("integrated")),
        driver_version=str(facts.get("driver_version") or ""),
        **precisions(capability)._asdict(),
    )


def runtimes(timeout_s: float = _PROBE_TIMEOUT_S) -> Runtimes:
    """Return the runtimes that short child processes find here.

    The daemon itself never loads a runtime: an idle agent must stay small, and a crash must not end it.
    """
    command = [sys.executable, "-m", "efficientquant_agent.backends"]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=timeout_s, check=True)
    except subprocess.TimeoutExpired:
        return _no_runtimes("looking for runtimes took longer than {:g} s".format(timeout_s), "timeout")
    except subprocess.CalledProcessError as error:
        last_line = (error.stderr.decode(errors="replace").strip().splitlines() or ["no message"])[-1]
        return _no_runtimes(
            "looking for runtimes failed with code {}: {}".format(error.returncode, last_line),
            "SIGILL" if error.returncode == -signal.SIGILL else "crash",
        )
    answer = done.stdout.decode(errors="replace")
    try:
        return _as_runtimes(json.loads(answer))
    except (ValueError, KeyError, TypeError):
        last_line = (answer.strip().splitlines() or ["nothing"])[-1]
        return _no_runtimes("looking for runtimes gave no answer that can be read, but: {}".format(last_line), "crash")


def _no_runtimes(sentence: str, cause: str) -> Runtimes:
    return Runtimes({}, [], [sentence], broken_causes=[cause])


def _as_runtimes(answer: Mapping[str, Any]) -> Runtimes:
    """Return the record of an answer of `efficientquant_agent.backends`.

    Raises KeyError or TypeError when it is something else.
    """
    return Runtimes(
        library_versions=answer["library_versions"],
        backends=[BackendInfo(**backend) for backend in answer["backends"]],
        broken=answer["broken"],
        gpus=answer.get("gpus") or [],
        cuda_version=answer.get("cuda_version") or "",
        broken_causes=answer.get("broken_causes") or [],
        cuda_library=answer.get("cuda_library") or "",
        cuda_driver_version=answer.get("cuda_driver_version") or "",
        cuda_error=answer.get("gpu_error") or "",
        pycuda_error=answer.get("pycuda_error") or "",
    )


def _text(root: str, path: str) -> str:
    """Return a file's text, empty without a file.

    The NUL that device-tree strings end in is removed.
    """
    try:
        with open(os.path.join(root, path), encoding="utf-8", errors="replace") as stream:
            return stream.read().strip("\x00 \n\t")
    except OSError:
        return ""
