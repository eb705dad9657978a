"""Power of a Jetson's rails from its INA3221 monitors, and which of them add up to the board."""

import errno
import functools
import glob
import os
import re
from typing import Iterable, List, NamedTuple, Optional, Sequence

from efficientquant_agent.samplers.base import Number, OpenFile, Part, Sampler, read_text

# Rails that carry everything: the Nano's; the one of TX2, Xavier NX and Orin Nano and NX.
_BOARD_RAILS = ("POM_5V_IN", "VDD_IN")
# An AGX Xavier measures no input; these are "the module rails" that its manual adds up.
_MODULE_RAILS = ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V")


class RailSet(NamedTuple):
    """The rails that make the board's total; its name is theirs, joined by "+"."""

    name: str
    rails: List[str]


def rail_set(names: Iterable[str]) -> Optional[RailSet]:
    """Return the rails whose powers add up to the board's, None when these names hold no known total.

    The names may come from tegrastats or from sysfs, in any order and case; the answer is in upper case, so that
    both name one set alike.
    """
    present = {name.upper() for name in names}
    for rail in _BOARD_RAILS:
        if rail in present:
            return RailSet(rail, [rail])
    if present.issuperset(_MODULE_RAILS):
        return RailSet("+".join(_MODULE_RAILS), list(_MODULE_RAILS))
    return None


def is_connected(rail: str) -> bool:
    """Say whether a channel's label names a rail: an unused one is called NC, or nothing."""
    return bool(rail) and rail.upper() != "NC"


@functools.lru_cache(maxsize=256)  # asked for every rail of every line of tegrastats
def series_name(rail: str) -> str:
    """Return the series of a rail, e.g. "power_pom_5v_in_w"."""
    return "power_{}_w".format(re.sub(r"[^a-z0-9]+", "_", rail.lower()).strip("_"))


class IioRail(Number):
    """A rail of JetPack 4's driver, which multiplies by itself: milliwatts in one file."""

    def __init__(self, rail: str, path: str) -> None:
        super().__init__(series_name(rail), path, over=1000)
        self.rail = rail


class HwmonRail(Sampler):
    """A rail of the driver since JetPack 5: millivolts in one file, milliamperes in another."""

    def __init__(self, rail: str, voltage_path: str, current_path: str) -> None:
        self.name = series_name(rail)
        self.rail = rail
        # ENODATA: the channel is switched off
        self._voltage = OpenFile(voltage_path, absent=(errno.ENODATA,))
        self._current = OpenFile(current_path, absent=(errno.ENODATA,))

    def sample(self) -> Optional[float]:
        """Return volts × amperes in watts, None while the channel is off."""
        millivolts, milliamperes = self._voltage.read_number(), self._current.read_number()
        return None if millivolts is None or milliamperes is None else millivolts * milliamperes / 1e6

    def close(self) -> None:
        """Close both files."""
        self._voltage.close()
        self._current.close()


def power_rails(sys: str = "/sys") -> List[Sampler]:
    """Return a sampler with a `rail` for each connected channel of each INA3221; none at all on other boards.

    Raises SensorError when a label is there and cannot be read.
    """
    devices = os.path.join(glob.escape(sys), "bus/i2c/devices/*")
    drivers = os.path.join(glob.escape(sys), "bus/i2c/drivers/ina3221x/*")
    # iio:device0 is JetPack 4's; its drivers folder shows the same devices once more, where the first is masked.
    iio = glob.glob(os.path.join(devices, "iio:device*")) or glob.glob(os.path.join(drivers, "iio:device*"))
    found: List[Sampler] = []
    for monitor in sorted(iio):
        found.extend(_iio_rails(monitor))
    for monitor in sorted(glob.glob(os.path.join(devices, "hwmon/hwmon*"))):
        if (read_text(os.path.join(monitor, "name")) or "").startswith("ina"):
            found.extend(_hwmon_rails(monitor))
    return found


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
        # in7_label is "sum of shunt voltages", which has no current of its own
        if not is_connected(rail) or not os.path.exists(current):
            continue
        if read_text(os.path.join(monitor, "in{}_enable".format(channel))) != "0":
            yield HwmonRail(rail, os.path.join(monitor, "in{}_input".format(channel)), current)


BOARD_PARTS: Sequence[Part] = (lambda roots: power_rails(roots.sys),)
