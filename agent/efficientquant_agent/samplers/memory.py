"""Memory of the child (PSS) and of the board, swap included."""

import os
import re
from typing import List, Optional, Sequence, Set, Union

from efficientquant_agent.errors import SensorError
from efficientquant_agent.samplers.base import Budgeted, OpenFile, Part, Sampler, Spaced

# The share of one core that reading the PSS may take while the process does not grow.
PSS_SHARE = 0.0005
# The pause between two readings of meminfo where no power is sampled. At 10 Hz it makes every third tick.
MEMINFO_INTERVAL_S = 0.25

# Six times what any kernel writes today.
_MEMINFO_BYTES = 16384


class Smaps:
    """The memory of one process by kind, summed over its mappings.

    Read from smaps_rollup, which Linux has since 4.14, else from smaps.
    """

    def __init__(self, pid: Union[int, str], proc: str = "/proc") -> None:
        directory = os.path.join(proc, str(pid))
        rollup = os.path.join(directory, "smaps_rollup")
        self._file = OpenFile(rollup if os.path.exists(rollup) else os.path.join(directory, "smaps"))

    def sums_bytes(self, *kinds: bytes) -> Optional[List[float]]:
        """Return the sum of each kind in bytes.

        Returns None once the process has no memory. Raises SensorError when the file cannot be read or has no line of a
        kind.
        """
        content = self._file.read()
        return [self._sum_bytes(content, kind) for kind in kinds] if content else None

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _sum_bytes(self, content: bytes, kind: bytes) -> float:
        values = re.findall(rb"^" + kind + rb":\s+(\d+) kB$", content, re.MULTILINE)
        if not values:
            raise SensorError(self._file.path, "no {} line".format(kind.decode()))
        return float(sum(map(int, values)) * 1024)


class ChildPss(Sampler):
    """Proportional set size (PSS) of one process, in bytes."""

    name = "child_pss_bytes"

    def __init__(self, pid: int, proc: str = "/proc") -> None:
        self._smaps = Smaps(pid, proc)

    def sample(self) -> Optional[float]:
        """Return the PSS in bytes, None once the process has no memory.

        Raises SensorError when the file cannot be read or has no Pss line.
        """
        sums = self._smaps.sums_bytes(b"Pss")
        return sums[0] if sums else None

    def close(self) -> None:
        """Close the file."""
        self._smaps.close()


class SparingChildPss(Budgeted):
    """A process's PSS, read at a possible new peak, otherwise rate-limited.

    To compute a PSS the kernel walks every page and locks the process's memory map meanwhile. The number of resident
    pages is cheap to read. While it stays below that of the last peak, the PSS has no new peak.
    """

    def __init__(self, pid: int, proc: str = "/proc", share: float = PSS_SHARE) -> None:
        super().__init__(ChildPss(pid, proc), share)
        self._statm = OpenFile(os.path.join(proc, str(pid), "statm"))
        self._peak_pages = 0

    def due(self, now_s: float) -> bool:
        """Tell whether the process outgrew its peak or the pause is over.

        It outgrew its peak when it has 1 % more resident pages.
        """
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
        """Return the second number of statm, 0 when it cannot be read.

        With 0, only the rate limit decides when a reading is due.
        """
        try:
            fields = (self._statm.read_short() or b"").split()
        except SensorError:
            return 0
        return int(fields[1]) if len(fields) > 1 and fields[1].isdigit() else 0


class Meminfo:
    """One reading of meminfo, shared by several samplers.

    All quantities of one tick come from the same moment.
    """

    def __init__(self, proc: str = "/proc") -> None:
        self._file = OpenFile(os.path.join(proc, "meminfo"))
        self._content = b""
        self._served: Set[str] = set()

    def fields_bytes(self, reader: str, *fields: bytes) -> Optional[List[float]]:
        """Return the fields in bytes, None when one is missing.

        Also returns None without the file. The file is read again when the same `reader` calls a second time. Raises
        SensorError for a field that is no number.
        """
        if not self._served or reader in self._served:
            self._content = b"\n" + (self._file.read_short(_MEMINFO_BYTES) or b"")
            self._served.clear()
        self._served.add(reader)
        values = [self._field_bytes(field) for field in fields]
        present = [value for value in values if value is not None]
        return present if len(present) == len(values) else None

    def _field_bytes(self, field: bytes) -> Optional[float]:
        # A regular expression, ten times a second, would cost more than the kernel needs to write the file.
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
        """Close the file.

        The next reading opens it again.
        """
        self._file.close()


class _MeminfoSampler(Sampler):
    def __init__(self, proc: str = "/proc", meminfo: Optional[Meminfo] = None) -> None:
        self._meminfo = meminfo or Meminfo(proc)

    def close(self) -> None:
        """Close the file."""
        self._meminfo.close()


class BoardAvailable(_MeminfoSampler):
    """Memory that the board can still allocate (MemAvailable), in bytes."""

    name = "board_available_bytes"

    def sample(self) -> Optional[float]:
        """Return MemAvailable in bytes, None on a kernel without it."""
        values = self._meminfo.fields_bytes(self.name, b"MemAvailable")
        return values[0] if values else None


class BoardUsed(_MeminfoSampler):
    """Memory of the board that is neither free nor cache, in bytes.

    `free` and jtop call it used.
    """

    name = "board_used_bytes"

    def sample(self) -> Optional[float]:
        """Return MemTotal − MemFree − Buffers − Cached − SReclaimable in bytes.

        Returns None when one of them is missing.
        """
        values = self._meminfo.fields_bytes(self.name, b"MemTotal", b"MemFree", b"Buffers", b"Cached", b"SReclaimable")
        return values[0] - sum(values[1:]) if values else None


class SwapUsed(_MeminfoSampler):
    """Memory of the board that is swapped out, in bytes."""

    name = "swap_used_bytes"

    def sample(self) -> Optional[float]:
        """Return SwapTotal − SwapFree in bytes.

        Returns 0.0 without swap, None when one of the fields is missing.
        """
        values = self._meminfo.fields_bytes(self.name, b"SwapTotal", b"SwapFree")
        return values[0] - values[1] if values else None


def meminfo_samplers(proc: str = "/proc") -> List[Sampler]:
    """Return samplers of the board's three memory quantities, read together."""
    meminfo = Meminfo(proc)
    return [BoardUsed(meminfo=meminfo), BoardAvailable(meminfo=meminfo), SwapUsed(meminfo=meminfo)]


def space_meminfo(samplers: Sequence[Sampler]) -> List[Sampler]:
    """Return the samplers with those of meminfo read less often.

    Reading meminfo is most of what watching costs on a board without other sensors.
    """
    return [
        Spaced(sampler, MEMINFO_INTERVAL_S) if isinstance(sampler, _MeminfoSampler) else sampler for sampler in samplers
    ]


BOARD_PARTS: Sequence[Part] = (lambda roots: meminfo_samplers(roots.proc),)
