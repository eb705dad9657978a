"""The memory of the run's own process, read between its steps."""

import os
import re
import time
from typing import Dict, List, Optional

from efficientquant_agent.errors import SensorError
from efficientquant_agent.records import Series
from efficientquant_agent.samplers.base import OpenFile
from efficientquant_agent.samplers.memory import Smaps

# Written to clear_refs, it sets VmHWM to the present RSS (man 5 proc). Linux has it since 4.0.
_RESET_PEAK = b"5"
_PEAK = re.compile(rb"^VmHWM:\s+(\d+) kB$", re.MULTILINE)


class OwnMemory:
    """The PSS, USS and peak RSS of this process.

    Reading them here disturbs no measurement. From outside the PSS is read rarely, because the kernel locks the memory
    map meanwhile. `problems` are sentences about the kinds that cannot be read here.
    """

    def __init__(self, proc: str = "/proc") -> None:
        self.pss = Series("child_pss_bytes", [], [])
        self.problems: List[str] = []
        self._proc = proc
        self._uss_bytes: Optional[float] = None
        self._has_reset = False

    def reset_peak(self) -> None:
        """Let the peak RSS start from now."""
        path = os.path.join(self._proc, "self", "clear_refs")
        try:
            with open(path, "wb", buffering=0) as stream:
                stream.write(_RESET_PEAK)
            self._has_reset = True
        except OSError as error:
            self._miss("peak RSS", SensorError(path, (error.strerror or "unwritable").lower()))

    def note(self, with_uss: bool) -> None:
        """Read the PSS, and the USS where it counts."""
        smaps = Smaps("self", self._proc)
        try:
            sums = smaps.sums_bytes(b"Pss", b"Private_Clean", b"Private_Dirty")
        except SensorError as error:
            self._miss("USS", error)
            return
        finally:
            smaps.close()
        if sums is not None:
            self.pss.time_s.append(time.monotonic())
            self.pss.value.append(sums[0])
            if with_uss:
                self._uss_bytes = max(self._uss_bytes or 0.0, sums[1] + sums[2])

    def readings(self) -> Dict[str, float]:
        """Return the peak RSS and the larger USS, where known."""
        known = {} if self._uss_bytes is None else {"uss_bytes": self._uss_bytes}
        if self._has_reset:
            try:
                known["peak_rss_bytes"] = self._peak_rss_bytes()
            except SensorError as error:
                self._miss("peak RSS", error)
        return known

    def _peak_rss_bytes(self) -> float:
        file = OpenFile(os.path.join(self._proc, "self", "status"))
        try:
            match = _PEAK.search(file.read() or b"")
        finally:
            file.close()
        if match is None:
            raise SensorError(file.path, "no VmHWM line")
        return float(int(match.group(1)) * 1024)

    def _miss(self, kind: str, error: SensorError) -> None:
        problem = "the {} of the process is not known here: {}".format(kind, error)
        if problem not in self.problems:
            self.problems.append(problem)
