"""Power of a Jetson's rails, from its INA3221 monitors."""

import errno
import functools
import glob
import os
import re
from typing import Iterable, List, NamedTuple, Optional, Sequence

from efficientquant_agent.samplers.base import Number, OpenFile, Part, Sampler, read_text

# Rails that carry the whole board: the Nano's, the one of TX2, Xavier NX, Orin Nano and Orin NX, and Thor's.
_BOARD_RAILS = ("POM_5V_IN", "VDD_IN", "VIN")
# An AGX Xavier does not measure its input. These are "the module rails" that its manual adds up.
_MODULE_RAILS = ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V")


class RailSet(NamedTuple):
    """The rails whose powers add up to the board's total.

    `name` is the rails' names joined by "+".
    """

    name: str
    rails: List[str]


def rail_set(names: Iterable[str]) -> Optional[RailSet]:
    """Return the rails that make the board's total power, None if unknown.

    The names may come from tegrastats or from sysfs, in any order and case. The result is in upper case, so that
    both sources give the same name to the same set.
    """
    present = {name.upper() for name in names}
    for rail in _BOARD_RAILS:
        if rail in present:
            return RailSet(rail, [rail])
    if present.issuperset(_MODULE_RAILS):
        return RailSet("+".join(_MODULE_RAILS), list(_MODULE_RAILS))
    return None


def is_connected(rail: str) -> bool:
    """Tell whether a channel's label names a rail.

    The label of an unused channel is NC or empty.
    """
    return bool(rail) and rail.upper() != "NC"


@functools.lru_cache(maxsize=256)  # called for every rail of every line of tegrastats
def series_name(rail: str) -> str:
    """Return the series of a rail, e.g. "power_pom_5v_in_w"."""
    return "power_{}_w".format(re.sub(r"[^a-z0-9]+", "_", rail.lower()).strip("_"))


class IioRail(Number):
    """A rail of JetPack 4's driver, which gives milliwatts in one file."""

    def __init__(self, rail: str, path: str) -> None:
        super().__init__(series_name(rail), path, over=1000)
        self.rail = rail


class HwmonRail(Sampler):
    """A rail of the driver since JetPack 5.

    One file has millivolts, another milliamperes.
    """

    def __init__(self, rail: str, voltage_path: str, current_path: str) -> None:
        self.name = series_name(rail)
        self.rail = rail
        # ENODATA: the channel is switched off
        self._voltage = OpenFile(voltage_path, absent=(errno.ENODATA,))
        self._current = OpenFile(current_path, absent=(errno.ENODATA,))

    def sample(self) -> Optional[float]:
        """Return volts × amperes in watts, None while the channel is off.

        Raises SensorError when a file cannot be read.
        """
        millivolts, milliamperes = self._voltage.read_number(), self._current.read_number()
        return None if millivolts is None or milliamperes is None else millivolts * milliamperes / 1e6

    def close(self) -> None:
        """Close both files."""
        self._voltage.close()
        self._current.close()


def power_rails(sys: str = "/sys") -> List[Sampler]:
    """Return a sampler with a `rail` for each connected INA3221 channel.

    The list is empty on other boards. Raises SensorError when a label exists and cannot be read.
    """
    devices = os.path.join(glob.escape(sys), "bus/i2c/devices/*")
    drivers = os.path.join(glob.escape(sys), "bus/i2c/drivers/ina3221x/*")
    # iio:device0 is JetPack 4's. Its drivers folder lists the same devices, also where the first folder is masked.
    iio = glob.glob(os.path.join(devices, "iio:device*")) or glob.glob(os.path.join(drivers, "iio:device*"))
    samplers: List[Sampler] = []
    for monitor in sorted(iio):
        samplers.extend(_iio_rails(monitor))
    for monitor in sorted(glob.glob(os.path.join(devices, "hwmon/hwmon*"))):
        if (read_text(os.path.join(monitor, "name")) or "").startswith("ina"):
            samplers.extend(_hwmon_rails(monitor))
    return samplers


def _iio_rails(monitor: str) -> Iterable[Sampler]:
    for label in sorted(glob.glob(os.path.join(glob.escape(monitor), "rail_name_*"))):
        rail = read_text(label) or ""
        if is_connected(rail):
            channel = label.rsplit("_", 1)[1]
            yield IioRail(rail, os.path.join(monitor, "in_power{}_input".format(channel)))


def _hwmon_rails(monitor: str) -> Iterable[Sampler]:
    for label in sorted(glob.glob(os.path.join(glob.escape(monitor), "in*_label"))):
        channel = os.path.basename(label)[2 : -len("_label")]
        current = os.path.join(monitor, "curr{}_input".format(channel))
        rail = read_text(label) or ""
        # in7_label is "sum of shunt voltages", which has no current file
        if not is_connected(rail) or not os.path.exists(current):
            continue
        if read_text(os.path.join(monitor, "in{}_enable".format(channel))) != "0":
            yield HwmonRail(rail, os.path.join(monitor, "in{}_input".format(channel)), current)


BOARD_PARTS: Sequence[Part] = (lambda roots: power_rails(roots.sys),)
