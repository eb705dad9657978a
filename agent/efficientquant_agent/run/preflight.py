"""Checks before a run: heat, memory and other users of the GPU."""

import os
import re
from typing import Any, List, Mapping, NamedTuple, Optional

from efficientquant_agent.errors import RunFailedError, SensorError
from efficientquant_agent.records import Finding
from efficientquant_agent.samplers import nvml

# While it loads, an engine is in memory twice, plus its activations (measurement.md: three times its size).
MEMORY_FACTOR = 3


def hottest_c(latest: Mapping[str, float], hot_zones: str) -> Optional[float]:
    """Return the highest temperature of the computing zones, in °C.

    None without such a zone. The regular expression `hot_zones` matches the whole names of these zones.
    """
    return max((value for name, value in latest.items() if re.fullmatch(hot_zones, name)), default=None)


class Gate(NamedTuple):
    """The temperature limit for a start, and the zones that count.

    A board may start below `limit_c`.
    """

    limit_c: float
    hot_zones: str

    def is_open(self, latest: Mapping[str, float]) -> bool:
        """Return True when the board is cool enough or its temperature unknown."""
        temperature_c = hottest_c(latest, self.hot_zones)
        return temperature_c is None or temperature_c < self.limit_c

    def too_hot(self, latest: Mapping[str, float], waited_s: float) -> Finding:
        """Return the finding for a board that stayed too hot.

        The board is measured anyway, with a lower verdict.
        """
        return Finding(
            "temperature",
            "soft",
            "started at {:.1f} °C, which is above the gate of {:g} °C, after waiting {:.0f} s".format(
                hottest_c(latest, self.hot_zones) or 0.0, self.limit_c, waited_s
            ),
        )


def require_memory(content_path: str, available_bytes: Optional[int]) -> None:
    """Raise RunFailedError("refused") when the board has too little memory left.

    It needs three times the size of the file to load.
    """
    needed_bytes = MEMORY_FACTOR * os.stat(content_path).st_size
    if available_bytes is not None and available_bytes < needed_bytes:
        raise RunFailedError(
            "refused",
            "the board has {:.0f} MiB of memory left and {:.0f} MiB are needed ({} times the file to load); end other "
            "programs there, or take a smaller model".format(
                available_bytes / 2.0**20, needed_bytes / 2.0**20, MEMORY_FACTOR
            ),
        )


def gpu_neighbours(gpu: Any, own_pids: List[int], when: str) -> List[Finding]:
    """Return findings on other processes that compute on the GPU.

    Such a process makes the result invalid. Where processes cannot be listed, the finding says why.
    """
    if gpu is None:
        return [Finding("gpu_processes", "info", "there is no NVML here to list them")]
    try:
        others = nvml.other_processes(gpu, own_pids)
    except SensorError as error:
        return [Finding("gpu_processes", "info", str(error))]
    if others is None:
        return [Finding("gpu_processes", "info", "the driver does not list them")]
    if not others:
        return []
    pids = ", ".join(str(process.pid) for process in others)
    return [Finding("gpu_processes", "invalid", "other processes on the GPU {} measuring: {}".format(when, pids))]
