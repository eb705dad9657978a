"""Memory that a Jetson's graphics driver holds for the child.

The driver's buffers are not part of any process's PSS.
"""

import os
import re
from typing import Optional

from efficientquant_agent.errors import SensorError
from efficientquant_agent.samplers.base import OpenFile, Sampler

_CLIENTS = "kernel/debug/nvmap/iovmm/clients"
_UNITS = {b"": 1, b"K": 1 << 10, b"M": 1 << 20, b"G": 1 << 30}
# CLIENT  PROCESS  PID  SIZE, with a unit after the size. A process may have spaces in its name.
_CLIENT = re.compile(rb"^\S+[ \t]+\S.*?[ \t]+(\d+)[ \t]+(\d+)([KMG]?)[ \t]*$", re.MULTILINE)


class NvmapProcess(Sampler):
    """Bytes that nvmap holds for one process, from debugfs, as root.

    A process that is not listed has no value rather than 0, because in a container the list has the host's pids.
    """

    name = "nvmap_process_bytes"

    def __init__(self, pid: int, sys: str = "/sys") -> None:
        self._pid = pid
        self._file = OpenFile(os.path.join(sys, _CLIENTS))

    def sample(self) -> Optional[float]:
        """Return the sum of the process's entries in bytes.

        Returns None without nvmap or without an entry. Raises SensorError without root, and for a list without its
        heading.
        """
        content = self._file.read()
        if content is None:
            return None
        if not content.startswith(b"CLIENT"):
            raise SensorError(self._file.path, "the list of clients has lost its heading")
        sizes = [int(size) * _UNITS[unit] for pid, size, unit in _CLIENT.findall(content) if int(pid) == self._pid]
        return float(sum(sizes)) if sizes else None

    def close(self) -> None:
        """Close the file."""
        self._file.close()
