"""Temperatures of the board's thermal zones, named like those of tegrastats."""

import errno
import functools
import glob
import os
import re
from typing import Dict, List, Optional, Sequence

from efficientquant_agent.samplers.base import Number, Part, Sampler, read_text

# A zone whose part is switched off reads −256 °C.
OFF_C = -256.0

# Suffixes that kernels add to a zone's name: CPU-therm (R32, R35), cpu-thermal (R36), Tboard_tegra, PMIC-Die.
_SUFFIX = re.compile(r"([-_](therm|thermal|tegra|die)|-fan-est)$", re.IGNORECASE)


@functools.lru_cache(maxsize=256)  # called for every temperature of every line of tegrastats
def zone_name(label: str) -> str:
    """Return the plain lower-case name of a zone.

    "CPU-therm", "cpu-thermal" and "CPU" are all "cpu".
    """
    return re.sub(r"[^a-z0-9]+", "_", _SUFFIX.sub("", label).lower()).strip("_") or "zone"


def is_dummy(zone: str) -> bool:
    """Tell whether a zone measures nothing.

    A Jetson's PMIC always reads 50 °C or 100 °C.
    """
    return zone == "pmic"


def series_name(zone: str) -> str:
    """Return the series of a zone, e.g. "temperature_gpu_c"."""
    return "temperature_{}_c".format(zone)


class ThermalZone(Number):
    """One thermal zone in °C."""

    def __init__(self, zone: str, path: str) -> None:
        # The errors of zones whose part has no power: EAGAIN or EINVAL, depending on the kernel
        super().__init__(series_name(zone), path, over=1000, absent=(errno.EAGAIN, errno.EINVAL))

    def sample(self) -> Optional[float]:
        """Return the temperature in °C, None while the part is off."""
        number = self._file.read_number()
        return None if number is None or number <= OFF_C * 1000 else number / 1000


def thermal_zones(sys: str = "/sys") -> List[Sampler]:
    """Return a sampler for each real thermal zone, in the kernel's order.

    Zones of the same name (two ACPI zones of a PC) are numbered: acpitz, acpitz_2.
    Raises SensorError when a zone's type exists and cannot be read.
    """
    samplers: List[Sampler] = []
    seen: Dict[str, int] = {}
    directories = glob.glob(os.path.join(glob.escape(sys), "class/thermal/thermal_zone*"))
    for directory in sorted(directories, key=lambda path: (len(path), path)):
        label = read_text(os.path.join(directory, "type"))
        if label is None or is_dummy(zone_name(label)):
            continue
        zone = zone_name(label)
        seen[zone] = seen.get(zone, 0) + 1
        if seen[zone] > 1:
            zone = "{}_{}".format(zone, seen[zone])
        samplers.append(ThermalZone(zone, os.path.join(directory, "temp")))
    return samplers


BOARD_PARTS: Sequence[Part] = (lambda roots: thermal_zones(roots.sys),)
