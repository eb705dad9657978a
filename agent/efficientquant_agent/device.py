"""What this board is and can do, read from /proc, /sys and /etc; absent stays absent."""

import json
import os
import re
import socket
import subprocess
import sys
from typing import Dict, List, NamedTuple, Optional, Tuple

from efficientquant_agent.records import BackendInfo, DeviceSnapshot

_PROBE_TIMEOUT_S = 120.0


class Probe(NamedTuple):
    """Where to look; tests pass captured trees."""

    proc: str = "/proc"
    sys: str = "/sys"
    etc: str = "/etc"

    def snapshot(self, library_versions: Dict[str, str], backends: List[BackendInfo]) -> DeviceSnapshot:
        """Return what the file system says about this board, with what was found about its runtimes."""
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
        )

    def board_id(self) -> str:
        """Return what stays with the board when its disk moves: the serial number, else the machine id."""
        return (
            _text(self.proc, "device-tree/serial-number")
            or _text(self.etc, "machine-id")
            or "host:" + socket.gethostname()
        )

    def board(self) -> str:
        """Return the board's own name for itself, empty when it has none."""
        return _text(self.proc, "device-tree/model") or _text(self.sys, "class/dmi/id/product_name")

    def os_name(self) -> str:
        """Return e.g. "Ubuntu 18.04.6 LTS", empty when unknown."""
        match = re.search(r'^PRETTY_NAME="?([^"\n]*)', _text(self.etc, "os-release"), re.MULTILINE)
        return match.group(1) if match else ""

    def l4t(self) -> str:
        """Return the Linux for Tegra release, e.g. "R32.7.4"; empty on anything but a Jetson."""
        match = re.search(r"^# R(\d+) \(release\), REVISION: ([\d.]+)", _text(self.etc, "nv_tegra_release"))
        return "R{}.{}".format(*match.groups()) if match else ""

    def cpu(self) -> Tuple[str, int]:
        """Return the CPU's name (empty when it has none) and the number of logical CPUs."""
        text = _text(self.proc, "cpuinfo")
        model = re.search(r"^(?:model name|Hardware)\s*:\s*(.+)$", text, re.MULTILINE)
        return (model.group(1).strip() if model else ""), len(re.findall(r"^processor\s*:", text, re.MULTILINE))

    def memory_bytes(self, field: str) -> Optional[int]:
        """Return a field of meminfo in bytes, None when it is not there."""
        match = re.search(r"^{}:\s+(\d+) kB$".format(field), _text(self.proc, "meminfo"), re.MULTILINE)
        return int(match.group(1)) * 1024 if match else None


def find_runtimes() -> Tuple[Dict[str, str], List[BackendInfo], List[str]]:
    """Return library versions, usable backends and what is broken, found by a short child process.

    The daemon itself never loads a runtime: an idle agent must stay small, and a crash must not take it along.
    """
    command = [sys.executable, "-m", "efficientquant_agent.backends"]
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=_PROBE_TIMEOUT_S, check=True
        )
        found = json.loads(done.stdout.decode().splitlines()[-1])
    except subprocess.TimeoutExpired:
        return {}, [], ["looking for runtimes took longer than {:g} s".format(_PROBE_TIMEOUT_S)]
    except subprocess.CalledProcessError as error:
        last_line = (error.stderr.decode(errors="replace").strip().splitlines() or ["no message"])[-1]
        return {}, [], ["looking for runtimes failed with code {}: {}".format(error.returncode, last_line)]
    return found["library_versions"], [BackendInfo(**backend) for backend in found["backends"]], found["broken"]


def _text(root: str, path: str) -> str:
    """Return a file's text without the NUL that device-tree strings end in, empty when there is no such file."""
    try:
        with open(os.path.join(root, path), errors="replace") as stream:
            return stream.read().strip("\x00 \n\t")
    except OSError:
        return ""
