"""Memory: what the child holds (PSS), what the board has left, what is swapped out."""

import os
import re
from typing import List, Optional, Sequence, Set

from efficientquant_agent.errors import SensorError
from efficientquant_agent.samplers.base import Budgeted, OpenFile, Part, Sampler

# Of one core, for a process that does not grow.
PSS_SHARE = 0.0005

# Six times what any kernel writes today.
_MEMINFO_BYTES = 16384

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


class SparingChildPss(Budgeted):
    """The PSS of a process, read when it may have reached a new peak, and otherwise as rarely as its price asks.

    For a PSS the kernel walks every page, holding the process's memory map against it; how many pages are resident
    it knows at once. As long as their number stays under what the last peak had, PSS has none to tell.
    """

    def __init__(self, pid: int, proc: str = "/proc", share: float = PSS_SHARE) -> None:
        super().__init__(ChildPss(pid, proc), share)
        self._statm = OpenFile(os.path.join(proc, str(pid), "statm"))
        self._peak_pages = 0

    def due(self, now_s: float) -> bool:
        """Say whether the process has grown past its peak by one percent, or the last reading is paid off."""
        paid_off, pages = super().due(now_s), self._resident_pages()
        if paid_off or pages > self._peak_pages * 1.01:
            self._peak_pages = max(pages, self._peak_pages)
            return True
        return False

    def close(self) -> None:
        """Close both files."""
        super().close()
        self._statm.close()

    def _resident_pages(self) -> int:
        """Return the second number of statm; 0 when it cannot be had, which leaves the pace to the price."""
        try:
            fields = (self._statm.read_short() or b"").split()
        except SensorError:
            return 0
        return int(fields[1]) if len(fields) > 1 and fields[1].isdigit() else 0


class Meminfo:
    """One reading of meminfo for several samplers: no two quantities of one tick come from two moments."""

    def __init__(self, proc: str = "/proc") -> None:
        self._file = OpenFile(os.path.join(proc, "meminfo"))
        self._content = b""
        self._served: Set[str] = set()

    def fields_bytes(self, reader: str, *fields: bytes) -> Optional[List[float]]:
        """Return the fields in bytes, None when the file or one of them is not there.

        The file is read anew as soon as the same `reader` comes back. Raises SensorError for what is no number.
        """
        if not self._served or reader in self._served:
            self._content = b"\n" + (self._file.read_short(_MEMINFO_BYTES) or b"")
            self._served.clear()
        self._served.add(reader)
        values = [self._field_bytes(field) for field in fields]
        return None if None in values else values

    def _field_bytes(self, field: bytes) -> Optional[float]:
        # Ten times a second, a regular expression would cost more than the kernel takes to write the file.
        start = self._content.find(b"\n" + field + b":")
        if start < 0:
            return None
        words = self._content[start : self._content.find(b"\n", start + 1)].split()
        if len(words) != 3 or words[2] != b"kB" or not words[1].isdigit():
            raise SensorError(
                self._file.path, "{} is {!r}".format(field.decode(), b" ".join(words[1:]).decode(errors="replace"))
            )
        return float(int(words[1]) * 1024)

    def close(self) -> None:
        """Close the file; whoever reads again opens it again."""
        self._file.close()


class _MeminfoSampler(Sampler):
    def __init__(self, proc: str = "/proc", meminfo: Optional[Meminfo] = None) -> None:
        self._meminfo = meminfo or Meminfo(proc)

    def close(self) -> None:
        """Close the file."""
        self._meminfo.close()


class BoardAvailable(_MeminfoSampler):
    """Memory that the whole board could still give away, in bytes: MemAvailable."""

    name = "board_available_bytes"

    def sample(self) -> Optional[float]:
        """Return MemAvailable in bytes, None on a kernel that does not know it."""
        values = self._meminfo.fields_bytes(self.name, b"MemAvailable")
        return values[0] if values else None


class BoardUsed(_MeminfoSampler):
    """Memory of the whole board that is neither free nor cache, in bytes: what `free` calls used, and jtop too."""

    name = "board_used_bytes"

    def sample(self) -> Optional[float]:
        """Return MemTotal − MemFree − Buffers − Cached − SReclaimable in bytes, None when one is not told."""
        values = self._meminfo.fields_bytes(self.name, b"MemTotal", b"MemFree", b"Buffers", b"Cached", b"SReclaimable")
        return values[0] - sum(values[1:]) if values else None


class SwapUsed(_MeminfoSampler):
    """Memory of the whole board that is swapped out, in bytes."""

    name = "swap_used_bytes"

    def sample(self) -> Optional[float]:
        """Return SwapTotal − SwapFree in bytes: 0.0 without swap, None on a kernel that does not say."""
        values = self._meminfo.fields_bytes(self.name, b"SwapTotal", b"SwapFree")
        return values[0] - values[1] if values else None


def meminfo_samplers(proc: str = "/proc") -> List[Sampler]:
    """Return the board's three quantities of memory, read together."""
    meminfo = Meminfo(proc)
    return [BoardUsed(meminfo=meminfo), BoardAvailable(meminfo=meminfo), SwapUsed(meminfo=meminfo)]


BOARD_PARTS: Sequence[Part] = (lambda roots: meminfo_samplers(roots.proc),)
