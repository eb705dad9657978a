"""What tegrastats says about a Jetson, from R28's lines to R39's: one pure function from a line to a sample.

The grammar goes by name. Between releases fields move, come and go (EMC, GR3D and IRAM change with the user's rights),
so a field is looked for wherever it stands, a field that is not whole counts as absent, and what is unknown is passed
over. Lines are expected to be complete, as the stream's reader sees to: a number that lost its last digits at the end
of an R32 line, where it has no unit, could not be told from a whole one.
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


def _pattern(expression: str) -> "re.Pattern":
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
# What these say has its own form; cut short, it may look like an engine's or a rail's.
_MEMORIES = frozenset(("RAM", "SWAP", "IRAM"))
_NOT_ENGINES = _MEMORIES | {"CPU", "MTS"}


class Memory(NamedTuple):
    """Bytes in use, and in all; tegrastats counts in powers of 1024 and calls them MB."""

    used_bytes: int
    total_bytes: int


class Swap(NamedTuple):
    """Swap in bytes; `cached_bytes` None where it is not told."""

    used_bytes: int
    total_bytes: int
    cached_bytes: Optional[int]


class Iram(NamedTuple):
    """Memory inside the video engine in bytes, as root sees it."""

    used_bytes: int
    total_bytes: int
    largest_free_bytes: Optional[int]


class FreeBlocks(NamedTuple):
    """The largest free blocks of RAM: how many, and of what size."""

    count: int
    size_bytes: int


class Core(NamedTuple):
    """A core that is on: its load as a fraction, its clock where told."""

    load: float
    hz: Optional[float]


class Engine(NamedTuple):
    """An engine that is on: its load as a fraction where told, and the clock of each of its clusters where told."""

    load: Optional[float]
    hz: List[float]


class Rail(NamedTuple):
    """Power in watts: now, on average since tegrastats started, and at most since then (R39)."""

    current_w: float
    average_w: Optional[float]
    peak_w: Optional[float]


class Sample(NamedTuple):
    """One line. None, an empty list or a missing key is what the line did not tell."""

    date: Optional[datetime]  # in the board's own time zone
    ram: Memory
    lfb: Optional[FreeBlocks]
    swap: Optional[Swap]
    iram: Optional[Iram]
    cpus: List[Optional[Core]]  # by number; None is a core that is off
    emc: Optional[Engine]
    gr3d: Optional[Engine]
    engines: Dict[str, Optional[Engine]]  # the others, by name without "_FREQ"; None is an engine that is off
    temperatures_c: Dict[str, float]  # without dummies and parts that are off
    rails: Dict[str, Rail]  # without channels that nothing is connected to


def parse_line(line: str) -> Sample:
    """Return what one line says, with every field that is whole.

    Raises TegrastatsError, and nothing else, for a line without RAM, which every line of tegrastats has, for two lines
    run together, and for one longer than any.
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
        emc=engines.pop("EMC", None),
        gr3d=engines.pop("GR3D", None),
        engines=engines,
        temperatures_c=_temperatures(line),
        rails=_rails(line),
    )


def values(sample: Sample) -> Dict[str, float]:
    """Return a sample as values of the series that this project records: SI units, loads as fractions.

    A GPU of several clusters runs at the fastest one's clock: the others may be switched off.
    """
    found = {"board_used_bytes": float(sample.ram.used_bytes)}
    if sample.swap is not None:
        found["swap_used_bytes"] = float(sample.swap.used_bytes)
    for number, core in enumerate(sample.cpus):
        if core is not None:
            found["load_cpu{}".format(number)] = core.load
            if core.hz is not None:
                found["clock_cpu{}_hz".format(number)] = core.hz
    for name, engine in (("gpu", sample.gr3d), ("emc", sample.emc)):
        if engine is not None and engine.load is not None:
            found["load_" + name] = engine.load
        if engine is not None and engine.hz:
            found["clock_{}_hz".format(name)] = max(engine.hz)
    for label, celsius in sample.temperatures_c.items():
        found[thermal.series_name(thermal.zone_name(label))] = celsius
    for label, rail in sample.rails.items():
        found[power.series_name(label)] = rail.current_w
    return found


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
    except ValueError:  # the thirteenth month: a field that is not whole
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
    """Return the cores; none at all when one of them cannot be read, for the others would change their numbers."""
    match = _CPU.search(line)
    if match is None:
        return []
    cores: List[Optional[Core]] = []
    for text in match.group(1).split(","):
        core = _CORE.fullmatch(text)
        if core is None or _fraction(core.group(1) or "0") is None:
            return []
        hz = core.group(2) or match.group(2)
        cores.append(None if core.group(1) is None else Core(_fraction(core.group(1)), _hz(hz) if hz else None))
    return cores


def _fraction(percent: str) -> Optional[float]:
    return int(percent) / 100 if int(percent) <= 100 else None


def _engines(line: str) -> Dict[str, Optional[Engine]]:
    """Return the engines by name; one that stands twice in a line is told by the first."""
    found: Dict[str, Optional[Engine]] = {}
    for label, off, load, clocks, load_alone, clock_alone in _ENGINE.findall(line):
        name = label[: -len("_FREQ")] if label.endswith("_FREQ") else label
        percent = load or load_alone
        fraction = _fraction(percent) if percent else None
        if label in _NOT_ENGINES or name in found or (percent and fraction is None):
            continue
        megahertz = (clocks or clock_alone).strip("[]")
        found[name] = None if off else Engine(fraction, [_hz(one) for one in megahertz.split(",") if one])
    return found


def _temperatures(line: str) -> Dict[str, float]:
    found: Dict[str, float] = {}
    for label, celsius, _peak in _TEMPERATURE.findall(line):
        if not thermal.is_dummy(thermal.zone_name(label)) and float(celsius) > thermal.OFF_C:
            found.setdefault(label, float(celsius))
    return found


def _rails(line: str) -> Dict[str, Rail]:
    found: Dict[str, Rail] = {}
    for label, current, unit, average, average_unit, peak, peak_unit in _RAIL.findall(line):
        if power.is_connected(label) and label not in _MEMORIES:
            # An average without the unit that the current has was cut short.
            average_w = int(average) / 1000 if average and unit == average_unit else None
            peak_w = int(peak) / 1000 if peak and unit == peak_unit else None
            found.setdefault(label, Rail(int(current) / 1000, average_w, peak_w))
    return found
