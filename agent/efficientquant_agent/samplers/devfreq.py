"""Load of the GPU and clocks of GPU, memory and CPU cores.

GPU and memory are those of a Jetson. The clocks of the cores are read on any board.
"""

import errno
import glob
import os
import re
from typing import List, Optional, Sequence

from efficientquant_agent.errors import SensorError
from efficientquant_agent.samplers.base import Number, Part, Sampler, SamplerRoots

# The clocks of more cores would cost more than all other samplers. No edge board has more.
MAX_CORES = 16
# 57000000.gpu (Nano), 17000000.gp10b (TX2), .gv11b (Xavier), .ga10b (Orin, R35), .gpu (R36), gpu-gpc-0 (Thor);
# nvenc, nvdec, vic and other engines are in the same folder.
_GPU = re.compile(r"(?:^|\.)(?:gpu|g[pvab]\d\db)(?:-gpc-0)?$")

# Files with the memory's clock: BPMP's firmware from TX2 on, the common clock framework, the Nano.
_EMC_RATES = (
    "kernel/debug/bpmp/debug/clk/emc/rate",
    "kernel/debug/clk/emc/clk_rate",
    "kernel/debug/clk/override.emc/clk_rate",
)


class GpuLoad(Number):
    """Share of time that the GPU was busy.

    The kernel's governor measures it. The file holds 0 … 1000.
    """

    def __init__(self, path: str) -> None:
        super().__init__("load_gpu", path)

    def sample(self) -> Optional[float]:
        """Return the load as a fraction, None without the file.

        Raises SensorError for a load outside 0 … 1.
        """
        number = self._file.read_number()
        if number is not None and not 0 <= number <= 1000:
            raise SensorError(self._file.path, "a load of {} is not within 0 and 1000".format(number))
        return None if number is None else number / 1000


def gpu_directory(sys: str = "/sys") -> Optional[str]:
    """Return the devfreq folder of an integrated GPU, None without one.

    A board without one is not a Jetson. Raises SensorError when the folders cannot be listed.
    """
    root = os.path.join(sys, "class/devfreq")
    try:
        names = sorted(os.listdir(root))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SensorError(root, (error.strerror or "unreadable").lower()) from error
    return next((os.path.join(root, name) for name in names if _GPU.search(name)), None)


def gpu_samplers(sys: str = "/sys") -> List[Sampler]:
    """Return samplers of the integrated GPU's load and clock.

    The list is empty without an integrated GPU. Raises SensorError like `gpu_directory`.
    """
    directory = gpu_directory(sys)
    if directory is None:
        return []
    return [
        GpuLoad(os.path.join(directory, "device/load")),
        Number("clock_gpu_hz", os.path.join(directory, "cur_freq")),
    ]


def emc_clock(sys: str = "/sys") -> Optional[Sampler]:
    """Return a sampler of the memory's clock, None without such a file.

    Only root may read the file. For other users the sampler exists and its `sample` raises SensorError.
    """
    for rate in _EMC_RATES:
        path = os.path.join(sys, rate)
        try:
            os.stat(path)
        except FileNotFoundError:
            continue
        except OSError:  # no permission for a parent folder: not absent
            pass
        return Number("clock_emc_hz", path)
    return None


def cpu_clocks(sys: str = "/sys") -> List[Sampler]:
    """Return a sampler of the clock of each core that exposes it.

    The sampler of a core that is switched off returns None.
    """
    samplers: List[Sampler] = []
    pattern = os.path.join(glob.escape(sys), "devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq")
    for path in sorted(glob.glob(pattern), key=lambda path: (len(path), path)):
        core = path.split(os.sep)[-3]
        # EBUSY: all cores of this clock domain are off
        samplers.append(Number("clock_{}_hz".format(core), path, times=1000, absent=(errno.EBUSY,)))
    return samplers


def _emc(roots: SamplerRoots) -> List[Sampler]:
    """Return the sampler of a Jetson's memory clock.

    Only Jetsons expose this. It is skipped elsewhere, because debugfs would only report that it needs root.
    """
    clock = emc_clock(roots.sys) if gpu_directory(roots.sys) is not None else None
    return [] if clock is None else [clock]


BOARD_PARTS: Sequence[Part] = (
    lambda roots: gpu_samplers(roots.sys),
    _emc,
    lambda roots: cpu_clocks(roots.sys)[:MAX_CORES],
)
