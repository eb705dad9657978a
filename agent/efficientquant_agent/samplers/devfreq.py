"""Clocks and load of a Jetson's GPU, of its memory, and of any board's cores."""

import errno
import glob
import os
import re
from typing import List, Optional, Sequence

from efficientquant_agent.errors import SensorError
from efficientquant_agent.samplers.base import Number, Part, Sampler, SamplerRoots

# Beyond this many cores (no edge board has them), their clocks would cost more than everything else.
MAX_CORES = 16
# 57000000.gpu (Nano), 17000000.gp10b (TX2), .gv11b (Xavier), .ga10b (Orin, R35), .gpu (R36), gpu-gpc-0 (Thor);
# its neighbours there are nvenc, nvdec, vic and the like.
_GPU = re.compile(r"(?:^|\.)(?:gpu|g[pvab]\d\db)(?:-gpc-0)?$")

# Where the memory's clock stands: BPMP's firmware from TX2 on, the common clock framework, the Nano.
_EMC_RATES = (
    "kernel/debug/bpmp/debug/clk/emc/rate",
    "kernel/debug/clk/emc/clk_rate",
    "kernel/debug/clk/override.emc/clk_rate",
)


class GpuLoad(Number):
    """Share of time the GPU was busy, as the kernel's governor sees it: 0 … 1000 in the file."""

    def __init__(self, path: str) -> None:
        super().__init__("load_gpu", path)

    def sample(self) -> Optional[float]:
        """Return the load as a fraction; SensorError outside 0 … 1."""
        number = self._file.read_number()
        if number is not None and not 0 <= number <= 1000:
            raise SensorError(self._file.path, "a load of {} is not within 0 and 1000".format(number))
        return None if number is None else number / 1000


def gpu_directory(sys: str = "/sys") -> Optional[str]:
    """Return the devfreq folder of an integrated GPU, None where there is none: this is no Jetson."""
    root = os.path.join(sys, "class/devfreq")
    try:
        names = sorted(os.listdir(root))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SensorError(root, (error.strerror or "unreadable").lower()) from error
    return next((os.path.join(root, name) for name in names if _GPU.search(name)), None)


def gpu_samplers(sys: str = "/sys") -> List[Sampler]:
    """Return load and clock of the integrated GPU; none where there is none."""
    directory = gpu_directory(sys)
    if directory is None:
        return []
    return [
        GpuLoad(os.path.join(directory, "device/load")),
        Number("clock_gpu_hz", os.path.join(directory, "cur_freq")),
    ]


def emc_clock(sys: str = "/sys") -> Optional[Sampler]:
    """Return the sampler of the memory's clock, None on a kernel that shows it nowhere.

    The file belongs to root: for anyone else the sampler exists, and its `sample` raises SensorError.
    """
    for rate in _EMC_RATES:
        path = os.path.join(sys, rate)
        try:
            os.stat(path)
        except FileNotFoundError:
            continue
        except OSError:  # a folder on the way is closed: not absent
            pass
        return Number("clock_emc_hz", path)
    return None


def cpu_clocks(sys: str = "/sys") -> List[Sampler]:
    """Return a sampler for the clock of each core that has one; a core that is switched off answers None."""
    found: List[Sampler] = []
    pattern = os.path.join(glob.escape(sys), "devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq")
    for path in sorted(glob.glob(pattern), key=lambda path: (len(path), path)):
        core = path.split(os.sep)[-3]
        # EBUSY: the core's clock domain has no core left that is on
        found.append(Number("clock_{}_hz".format(core), path, times=1000, absent=(errno.EBUSY,)))
    return found


def _emc(roots: SamplerRoots) -> List[Sampler]:
    """Return the memory's clock, of a Jetson: elsewhere it is in debugfs, which only root may open."""
    clock = emc_clock(roots.sys) if gpu_directory(roots.sys) is not None else None
    return [] if clock is None else [clock]


BOARD_PARTS: Sequence[Part] = (
    lambda roots: gpu_samplers(roots.sys),
    _emc,
    lambda roots: cpu_clocks(roots.sys)[:MAX_CORES],
)
