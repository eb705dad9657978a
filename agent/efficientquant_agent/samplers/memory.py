"""Memory: what the child holds (PSS), what the board has left, what is swapped out."""

import os
import re
from typing import Optional

from efficientquant_agent.errors import SensorError
from efficientquant_agent.samplers.base import OpenFile, Sampler

_PSS = re.compile(rb"^Pss:\s+(\d+) kB$", re.MULTILINE)


class ChildPss(Sampler):
    """Proportional set size of one process in bytes, from smaps_rollup (Linux 4.14) or, before that, smaps."""

    name = "child_pss_bytes"

    def __init__(self, pid: int, proc: str = "/proc") -> None:
        directory = os.path.join(proc, str(pid))
        rollup = os.path.join(directory, "smaps_rollup")
        self._file = OpenFile(rollup if os.path.exists(rollup) else os.path.join(directory, "smaps"))

    def sample(self) -> Optional[float]:
        """Return the PSS in bytes, None once the process has no memory any more."""
        content = self._file.read()
        if not content:
            return None
        values = _PSS.findall(content)
        if not values:
            raise SensorError(self._file.path, "no Pss line")
        return float(sum(int(value) for value in values) * 1024)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class _Meminfo(Sampler):
    def __init__(self, proc: str = "/proc") -> None:
        self._file = OpenFile(os.path.join(proc, "meminfo"))

    def _field_bytes(self, content: bytes, field: bytes) -> Optional[float]:
        match = re.search(rb"^" + field + rb":\s+(\S+)(?: kB)?$", content, re.MULTILINE)
        if match is None:
            return None
        if not match.group(1).isdigit():
            raise SensorError(self._file.path, "{} is {!r}".format(field.decode(), match.group(1).decode()))
        return float(int(match.group(1)) * 1024)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class BoardAvailable(_Meminfo):
    """Memory that the whole board could still give away, in bytes: MemAvailable."""

    name = "board_available_bytes"

    def sample(self) -> Optional[float]:
        """Return MemAvailable in bytes, None on a kernel that does not know it."""
        content = self._file.read()
        return None if content is None else self._field_bytes(content, b"MemAvailable")


class SwapUsed(_Meminfo):
    """Memory of the whole board that is swapped out, in bytes."""

    name = "swap_used_bytes"

    def sample(self) -> Optional[float]:
        """Return SwapTotal − SwapFree in bytes: 0.0 without swap, None on a kernel that does not say."""
        content = self._file.read()
        if content is None:
            return None
        total, free = self._field_bytes(content, b"SwapTotal"), self._field_bytes(content, b"SwapFree")
        return None if total is None or free is None else total - free
