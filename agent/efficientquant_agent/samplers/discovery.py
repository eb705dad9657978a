"""Discovery of the board's samplers and of its total power."""

import functools
import importlib
from typing import Any, Callable, List, NamedTuple, Optional

from efficientquant_agent.errors import SensorError
from efficientquant_agent.samplers import devfreq, jtop, memory, nvmap, nvml, power
from efficientquant_agent.samplers.base import Sampler, SamplerRoots
from efficientquant_agent.samplers.tegrastats_stream import Tegrastats

# Modules of this package with BOARD_PARTS, which read the whole board. The cheapest source of a quantity comes first.
MODULES = (
    "memory",
    "power",
    "thermal",
    "devfreq",
    "nvml",
)
# tegrastats writes its first line after one interval, and starts slowly from a cold disk.
_FIRST_LINE_S = 3.0


class Discovery(NamedTuple):
    """The readable quantities of this board.

    The caller closes the samplers, the stream and the GPU, in this order.
    """

    samplers: List[Sampler]
    stream: Optional[Tegrastats]
    gpu: Optional[nvml.Gpu]
    # The rails whose series power_<rail>_w add up to the total, joined by "+". "" when there is no known total.
    rail_set: str
    # Sentences for the run's log about quantities that exist and cannot be read, and about what a series means.
    notes: List[str]


def board_samplers(proc: str = "/proc", sys: str = "/sys", gpu: Optional[nvml.Gpu] = None) -> List[Sampler]:
    """Return the samplers of the whole board, from files and NVML.

    They need no child process. Raises SensorError when a file that lists the hardware cannot be read, where
    `discover` continues without it.
    """
    samplers: List[Sampler] = []
    for part in _board_parts(SamplerRoots(proc, sys, gpu)):
        _add(samplers, part())
    return samplers


def child_samplers(pid: int, proc: str = "/proc", sys: str = "/sys", gpu: Optional[nvml.Gpu] = None) -> List[Sampler]:
    """Return the samplers of one process.

    They read its PSS and its memory on the GPU, by nvmap or NVML. Raises SensorError like `devfreq.gpu_directory`.
    """
    samplers: List[Sampler] = [memory.SparingChildPss(pid, proc)]
    if devfreq.gpu_directory(sys) is not None:
        samplers.append(nvmap.NvmapProcess(pid, sys))
    if gpu is not None:
        samplers.extend(nvml.child_samplers(gpu, pid))
    return samplers


def discover(
    proc: str = "/proc",
    sys: str = "/sys",
    tegrastats_path: Optional[str] = None,
    interval_s: float = 0.1,
    nvml_module: Optional[Any] = None,
    with_jtop: bool = False,
    gpu_uuid: str = "",
    use_gpu: bool = True,
) -> Discovery:
    """Return all readable quantities, each from its cheapest source.

    Files and NVML come first. With `with_jtop`, jtop adds the series that they lack. If no rail is known by then and
    there is a `tegrastats_path`, tegrastats is started, and its first line awaited. It also adds missing series only. A
    source that fails becomes a note and does not stop the others.

    NVML reads the GPU with `gpu_uuid`, else its first GPU. Without `use_gpu` NVML is not used, and a GPU's power does
    not count as the total. Without a known total power, the board's memory is read less often.
    """
    notes: List[str] = []
    gpu = _tried(lambda: nvml.open_gpu(gpu_uuid, nvml_module), None, notes) if use_gpu else None
    samplers: List[Sampler] = []
    for part in _board_parts(SamplerRoots(proc, sys, gpu)):
        _add(samplers, _tried(part, [], notes))
    if with_jtop:
        _add(samplers, _tried(lambda: _jtop(interval_s), [], notes))
    rails = [rail for rail in (getattr(sampler, "rail", None) for sampler in samplers) if rail]
    stream = None
    if tegrastats_path and not rails:
        names = [sampler.name for sampler in samplers]
        stream = _tried(lambda: Tegrastats(tegrastats_path, interval_s, without=names), None, notes)
    if stream is not None:
        try:
            rails = list(stream.first_sample(_FIRST_LINE_S + interval_s).rails)
        except SensorError as error:
            notes.append(str(error))
            stream.close()
            stream = None
    rail_set = _rail_set(rails, gpu, notes)
    if not rail_set:
        samplers = memory.space_meminfo(samplers)
    return Discovery(samplers, stream, gpu, rail_set, notes)


def _board_parts(roots: SamplerRoots) -> List[Callable[[], List[Sampler]]]:
    """Return one function per kind of sampler.

    Each can fail without the others.
    """
    modules = [importlib.import_module("efficientquant_agent.samplers." + name) for name in MODULES]
    return [functools.partial(part, roots) for module in modules for part in module.BOARD_PARTS]


def _jtop(interval_s: float) -> List[Sampler]:
    samplers = jtop.jtop_samplers(interval_s)
    if samplers is None:
        raise SensorError("jtop", "jetson-stats is not installed")
    return samplers


def _add(samplers: List[Sampler], new: List[Sampler]) -> None:
    """Add samplers of new quantities and close the others."""
    names = {sampler.name for sampler in samplers}
    for sampler in new:
        if sampler.name in names:
            sampler.close()
        else:
            samplers.append(sampler)


def _rail_set(rails: List[str], gpu: Optional[nvml.Gpu], notes: List[str]) -> str:
    total = power.rail_set(rails)
    if total is not None:
        return total.name
    if rails:
        notes.append("no total power: the rails {} are no known set".format(", ".join(rails)))
        return ""
    if gpu is None:
        notes.append("no power: no rail of an INA3221 and no tegrastats here, and no NVML, which is for runs on a GPU")
        return ""
    has_energy = _tried(lambda: nvml.has_energy(gpu), False, notes)
    has_power = _tried(lambda: nvml.has_power(gpu), False, notes)
    if not has_energy and not has_power:
        notes.append("no power: NVML gives neither power nor energy of this GPU")
        return ""
    if not has_power:
        notes.append("there is no power_gpu_w; energy_gpu_j is exact")
    elif not _tried(lambda: nvml.has_instant_power(gpu), False, notes):
        exact = "; energy_gpu_j is exact" if has_energy else ", and there is no energy_gpu_j"
        notes.append("power_gpu_w is the driver's own average, not of the moment{}".format(exact))
    return "GPU"


def _tried(find: Callable[[], Any], otherwise: Any, notes: List[str]) -> Any:
    try:
        return find()
    except SensorError as error:
        notes.append(str(error))
        return otherwise
