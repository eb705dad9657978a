"""Summaries of a run's series: power, energy, heat, clocks and memory."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import inf
from statistics import fmean

from efficientquant_controller.analysis.energy import (
    Energy,
    EnergyRefusal,
    InferenceEnergy,
    Readings,
    Window,
    counter_energy,
    energy_per_inference,
    rails_energy,
)
from efficientquant_controller.analysis.facts import IDLE_AFTER, IDLE_BEFORE, MEASURE, MODEL, RunFacts

ENERGY_COUNTER = "energy_gpu_j"
# A discrete GPU gives the mean power of the last second (NVML, from Ampere on). The sensors of a Jetson renew their
# values more often than they are read.
_NVML_POWER_UPDATE_S = 1.0
# The zones of processors. On most Jetsons the PMIC's zone is a dummy of 50 or 100 °C. Each assignment sends the agent
# this pattern.
HOT_ZONES = r"temperature_(?:gpu|cpu|tj)[\w.-]*_c"
_PROCESS_MEMORY = ("gpu_process_bytes", "nvmap_process_bytes")
# The paper's memory: what the whole device used. The two kinds are never compared with each other.
_USED_MEMORY = {"gpu_used_bytes": "device used memory", "board_used_bytes": "board used RAM"}
# The column of each extreme, its series, and whether it is the highest or lowest value.
_PEAKS: Mapping[str, tuple[str, Callable[[Iterable[float]], float]]] = {
    "peak_pss_bytes": ("child_pss_bytes", max),
    "board_available_min_bytes": ("board_available_bytes", min),
    "swap_used_max_bytes": ("swap_used_bytes", max),
}


@dataclass(frozen=True)
class SeriesSummary:
    """A summary of the measure window.

    A number is None without readings.
    """

    mean_power_w: float | None = None
    max_temperature_c: float | None = None
    gpu_clock_min_hz: float | None = None
    gpu_clock_max_hz: float | None = None
    gpu_process_peak_bytes: int | None = None  # over the whole run
    paper_memory_bytes: int | None = None
    paper_memory_kind: str = ""


def summarize_series(facts: RunFacts) -> SeriesSummary:
    """Summarize the measure window.

    The peak of the process's memory is over the whole run, loading included.
    """
    heat = [value for name in hot_zones(facts.series) for value in facts.measured(name)]
    clocks = facts.measured("clock_gpu_hz")
    process_series = next((name for name in _PROCESS_MEMORY if name in facts.series and facts.series[name][1]), None)
    used_series = next((name for name in _USED_MEMORY if facts.measured(name)), None)
    return SeriesSummary(
        mean_power_w=energy_in(facts, MEASURE).mean_power_w,
        max_temperature_c=max(heat, default=None),
        gpu_clock_min_hz=min(clocks, default=None),
        gpu_clock_max_hz=max(clocks, default=None),
        gpu_process_peak_bytes=round(max(facts.series[process_series][1])) if process_series else None,
        paper_memory_bytes=round(fmean(facts.measured(used_series))) if used_series else None,
        paper_memory_kind=_USED_MEMORY[used_series] if used_series else "",
    )


def peaks(series: Mapping[str, Readings], windows: Mapping[str, Window]) -> dict[str, float]:
    """Return the extremes of memory from the window `model` on.

    All readings count without such a window.
    """
    start_s = windows[MODEL][0] if MODEL in windows else -inf
    extremes = {}
    for column, (name, extreme) in _PEAKS.items():
        values = [value for time_s, value in zip(*series.get(name, ((), ())), strict=True) if time_s >= start_s]
        if values:
            extremes[column] = extreme(values)
    return extremes


def hot_zones(series: Mapping[str, Readings]) -> list[str]:
    """Return the series with temperatures of the GPU, CPUs or junction."""
    return sorted(name for name in series if re.fullmatch(HOT_ZONES, name))


def rails(rail_set: str) -> list[str]:
    """Return the names of the series of a set of rails.

    The agent's names for "GPU+SYS5V" are power_gpu_w and power_sys5v_w.
    """
    words = (re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") for name in rail_set.split("+"))
    return [f"power_{word}_w" for word in words if word]


def energy_in(facts: RunFacts, window: str) -> Energy:
    """Return the energy of one window.

    It is from the GPU's own counter where there is one, otherwise from the run's set of rails.
    """
    if window not in facts.windows:
        return Energy(None, None, EnergyRefusal.NO_WINDOW, f"the run has no window {window!r}")
    start_s, end_s = facts.windows[window]
    if ENERGY_COUNTER in facts.series:
        return counter_energy(*facts.series[ENERGY_COUNTER], start_s, end_s)
    names = rails(facts.conditions.get("rail_set", ""))
    if missing := [name for name in names if name not in facts.series]:
        return Energy(None, None, EnergyRefusal.NO_READINGS, f"{', '.join(missing)} was not read")
    update_s = _NVML_POWER_UPDATE_S if "gpu_used_bytes" in facts.series else None
    return rails_energy({name: facts.series[name] for name in names}, start_s, end_s, update_s)


def inference_energy(facts: RunFacts) -> InferenceEnergy:
    """Return the energy of one inference, gross and net of idling."""
    start_s, end_s = facts.windows.get(MEASURE, (0.0, 0.0))
    idle_before, idle_after = energy_in(facts, IDLE_BEFORE), energy_in(facts, IDLE_AFTER)
    count = len(facts.latency_s)
    return energy_per_inference(energy_in(facts, MEASURE), end_s - start_s, count, idle_before, idle_after)
