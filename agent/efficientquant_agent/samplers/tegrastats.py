"""Parser of tegrastats' lines, from R28 to R39.

One pure function makes a sample from a line. Fields are found by name, because they move, come and go between releases
(EMC, GR3D and IRAM change with the user's rights). A field may be anywhere, an incomplete field counts as absent,
and unknown text is skipped. Lines must be complete, which the reader of the stream ensures. At the end of an R32 line,
a number has no unit, and without its last digits it would still look complete.
"""

import re
from datetime import datetime
from typing import Dict, List, NamedTuple, Optional

from efficientquant_agent.errors import TegrastatsError
from efficientquant_agent.samplers import power, thermal

# The longest real line, a 14-core board's with every engine, has about 700 characters.
MAX_LINE = 4096

_UNITS = {"k": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_START, _END = r"(?<!\S)", r"(?!\S)"
_SIZE = r"(\d{1,9})/(\d{1,9})([kMG])B"
# "3%@1300", "3%", "@4266" (idle on R39), "114" (a clock alone), "0%@[114,0]", "off"
_CLOCKS = r"\d{1,5}|\[\d{1,5}(?:,\d{1,5})*\]"
_CELSIUS = r"(-?\d{1,4}(?:\.\d{1,6})?)C"


def _pattern(expression: str) -> "re.Pattern[str]":
    return re.compile(_START + expression + _END, re.ASCII)


_DATE = re.compile(r"\s*(\d\d)-(\d\d)-(\d{4}) (\d\d):(\d\d):(\d\d)(?!\S)", re.ASCII)
_RAM = _pattern("RAM +" + _SIZE)
_LFB = re.compile(_START + r"RAM +\S+ +\(lfb (\d{1,9})x(\d{1,9})([kMG])B\)", re.ASCII)
_SWAP = _pattern("SWAP +" + _SIZE + r"(?: +\(cached (\d{1,9})([kMG])B\))?")
_IRAM = _pattern("IRAM +" + _SIZE + r"(?: *\(lfb (\d{1,9})([kMG])B\))?")
_CPU = _pattern(r"(?:CPU|cpu) +\[([^\[\]]*)\](?:@(\d{1,5}))?")
_CORE = re.compile(r"\s*(?:off|(\d{1,3})%(?:@(\d{1,5}))?)\s*", re.ASCII)
_ENGINE = _pattern(r"([A-Z][A-Z0-9_]*) +(?:(off)|(?:(\d{1,3})%)?@(" + _CLOCKS + r")|(\d{1,3})%|(\d{1,5}))")
_TEMPERATURE = _pattern(r"([A-Za-z][\w.-]*)@" + _CELSIUS + "(?:/" + _CELSIUS + ")?")
_RAIL = re.compile(
    _START + r"([A-Z][A-Z0-9_]*) +(-?\d{1,9})(mW)?/(?:(-?\d{1,9})(mW)?(?:/(-?\d{1,9})(mW)?)?)?" + _END, re.ASCII
)
# These fields have their own form. Cut short, they may look like an engine or a rail.
_MEMORIES = frozenset(("RAM", "SWAP", "IRAM"))
_NOT_ENGINES = _MEMORIES | {"CPU", "MTS"}


class Memory(NamedTuple):
    """Memory in bytes, used and in total.

    tegrastats counts in powers of 1024 and calls them MB.
    """

    used_bytes: int
    total_bytes: int


class Swap(NamedTuple):
    """Swap in bytes.

    `cached_bytes` is None where the line lacks it.
    """

    used_bytes: int
    total_bytes: int
    cached_bytes: Optional[int]


class Iram(NamedTuple):
    """Memory inside the video engine in bytes, shown only to root."""

    used_bytes: int
    total_bytes: int
    largest_free_bytes: Optional[int]


class FreeBlocks(NamedTuple):
    """Number and size of the largest free blocks of RAM."""

    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody calls here
    size_bytes: int


class Core(NamedTuple):
    """A core that is on.

    `load` is a fraction. `hz` is None where the line lacks it.
    """

    load: float
    hz: Optional[float]


class Engine(NamedTuple):
    """An engine that is on.

    `load` is a fraction, None where the line lacks it. `hz` has the clock of each cluster and may be empty.
    """

    load: Optional[float]
    hz: List[float]


class Rail(NamedTuple):
    """Power of a rail in watts.

    `average_w` and `peak_w` (R39) count since tegrastats started.
    """

    current_w: float
    average_w: Optional[float]
    peak_w: Optional[float]


class Sample(NamedTuple):
    """The fields of one line.

    A field that the line lacks is None, an empty list or a missing key.
    """

    date: Optional[datetime]  # in the board's own time zone
    ram: Memory
    lfb: Optional[FreeBlocks]
    swap: Optional[Swap]
    iram: Optional[Iram]
    cpus: List[Optional[Core]]  # by number, None for a core that is off
    emc: Optional[Engine]
    gr3d: Optional[Engine]
    engines: Dict[str, Optional[Engine]]  # the others, by name without "_FREQ", None for an engine that is off
    temperatures_c: Dict[str, float]  # without dummies and parts that are off
    rails: Dict[str, Rail]  # without channels that nothing is connected to


def parse_line(line: str) -> Sample:
    """Parse one line, with every field that is complete.

    Raises TegrastatsError, and no other error, for a line without RAM, which every line of tegrastats has, for two
    lines run together, and for a line longer than MAX_LINE.
    """
    if len(line) > MAX_LINE:
        raise TegrastatsError(line, "a line of {} characters".format(len(line)))
    ram = _RAM.findall(line)
    if len(ram) != 1:
        raise TegrastatsError(line, "two lines in one" if ram else "not a line of tegrastats")
    engines = _engines(line)
    return Sample(
        date=_date(line),
        ram=Memory(_bytes(ram[0][0], ram[0][2]), _bytes(ram[0][1], ram[0][2])),
        lfb=_free_blocks(line),
        swap=_swap(line),
        iram=_iram(line),
        cpus=_cpus(line),
        emc=_emc(engines.pop("EMC", None)),
        gr3d=engines.pop("GR3D", None),
        engines=engines,
        temperatures_c=_temperatures(line),
        rails=_rails(line),
    )


def values(sample: Sample) -> Dict[str, float]:
    """Return a sample as values by series.

    Units are SI, loads are fractions. The clock of a GPU with several clusters is that of the fastest, because the
    others may be switched off.
    """
    by_series = {"board_used_bytes": float(sample.ram.used_bytes)}
    if sample.swap is not None:
        by_series["swap_used_bytes"] = float(sample.swap.used_bytes)
    for number, core in enumerate(sample.cpus):
        if core is not None:
            by_series["load_cpu{}".format(number)] = core.load
            if core.hz is not None:
                by_series["clock_cpu{}_hz".format(number)] = core.hz
    for name, engine in (("gpu", sample.gr3d), ("emc", sample.emc)):
        if engine is not None and engine.load is not None:
            by_series["load_" + name] = engine.load
        if engine is not None and engine.hz:
            by_series["clock_{}_hz".format(name)] = max(engine.hz)
    for label, celsius in sample.temperatures_c.items():
        by_series[thermal.series_name(thermal.zone_name(label))] = celsius
    for label, rail in sample.rails.items():
        by_series[power.series_name(label)] = rail.current_w
    return by_series


def _bytes(number: str, unit: str) -> int:
    return int(number) * _UNITS[unit]


def _hz(megahertz: str) -> float:
    return int(megahertz) * 1e6


def _date(line: str) -> Optional[datetime]:
    match = _DATE.match(line)
    if match is None:
        return None
    month, day, year, hour, minute, second = map(int, match.groups())
    try:
        return datetime(year, month, day, hour, minute, second)
    except ValueError:  # e.g. month 13: an incomplete field counts as absent
        return None


def _free_blocks(line: str) -> Optional[FreeBlocks]:
    match = _LFB.search(line)
    return match and FreeBlocks(int(match.group(1)), _bytes(match.group(2), match.group(3)))


def _swap(line: str) -> Optional[Swap]:
    match = _SWAP.search(line)
    if match is None:
        return None
    used, total, unit, cached, cached_unit = match.groups()
    return Swap(_bytes(used, unit), _bytes(total, unit), _bytes(cached, cached_unit) if cached else None)


def _iram(line: str) -> Optional[Iram]:
    match = _IRAM.search(line)
    if match is None:
        return None
    used, total, unit, free, free_unit = match.groups()
    return Iram(_bytes(used, unit), _bytes(total, unit), _bytes(free, free_unit) if free else None)


def _cpus(line: str) -> List[Optional[Core]]:
    """Return the cores, none of them when one cannot be parsed.

    Without it the others would get wrong numbers.
    """
    match = _CPU.search(line)
    if match is None:
        return []
    cores: List[Optional[Core]] = []
    for text in match.group(1).split(","):
        core = _CORE.fullmatch(text)
        load = None if core is None else _fraction(core.group(1) or "0")
        if core is None or load is None:
            return []
        hz = core.group(2) or match.group(2)
        cores.append(None if core.group(1) is None else Core(load, _hz(hz) if hz else None))
    return cores


def _fraction(percent: str) -> Optional[float]:
    return int(percent) / 100 if int(percent) <= 100 else None


def _engines(line: str) -> Dict[str, Optional[Engine]]:
    """Return the engines by name, the first of each name."""
    engines: Dict[str, Optional[Engine]] = {}
    for label, off, load, clocks, load_alone, clock_alone in _ENGINE.findall(line):
        name = label[: -len("_FREQ")] if label.endswith("_FREQ") else label
        percent = load or load_alone
        fraction = _fraction(percent) if percent else None
        if label in _NOT_ENGINES or name in engines or (percent and fraction is None):
            continue
        megahertz = (clocks or clock_alone).strip("[]")
        engines[name] = None if off else Engine(fraction, [_hz(clock) for clock in megahertz.split(",") if clock])
    return engines


def _emc(engine: Optional[Engine]) -> Optional[Engine]:
    """Return the memory controller, its load unknown without root.

    tegrastats then prints 0 % and no clock, however busy the memory is.
    """
    return Engine(None, []) if engine == Engine(0.0, []) else engine


def _temperatures(line: str) -> Dict[str, float]:
    temperatures_c: Dict[str, float] = {}
    for label, celsius, _peak in _TEMPERATURE.findall(line):
        if not thermal.is_dummy(thermal.zone_name(label)) and float(celsius) > thermal.OFF_C:
            temperatures_c.setdefault(label, float(celsius))
    return temperatures_c


def _rails(line: str) -> Dict[str, Rail]:
    rails: Dict[str, Rail] = {}
    for label, current, unit, average, average_unit, peak, peak_unit in _RAIL.findall(line):
        if power.is_connected(label) and label not in _MEMORIES:
            # An average that lacks the unit of the current value was cut short.
            average_w = int(average) / 1000 if average and unit == average_unit else None
            peak_w = int(peak) / 1000 if peak and unit == peak_unit else None
            rails.setdefault(label, Rail(int(current) / 1000, average_w, peak_w))
    return rails
