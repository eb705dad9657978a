"""What the series of a run say of its measure window: power, energy, heat, clocks, memory."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

from efficientquant_controller.analysis.energy import (
    Energy,
    EnergyRefusal,
    InferenceEnergy,
    Readings,
    counter_energy,
    energy_per_inference,
    rails_energy,
)
from efficientquant_controller.analysis.facts import IDLE_AFTER, IDLE_BEFORE, MEASURE, RunFacts

ENERGY_COUNTER = "energy_gpu_j"
# A discrete GPU gives the mean power of the last second (NVML, from Ampere on); the sensors of a Jetson are quicker
# than they are read.
_NVML_POWER_UPDATE_S = 1.0
# The zones that compute; a PMIC's zone is a dummy of 50 or 100 °C on most Jetsons. Agents get it with each assignment.
HOT_ZONES = r"temperature_(?:gpu|cpu|tj)[\w.-]*_c"
_PROCESS_MEMORY = ("gpu_process_bytes", "nvmap_process_bytes")
# The paper's memory: what the whole device used. The two kinds are never compared with each other.
_USED_MEMORY = {"gpu_used_bytes": "device used memory", "board_used_bytes": "board used RAM"}


@dataclass(frozen=True)
class SeriesSummary:
    """The measure window in a few numbers; None where nothing was read."""

    mean_power_w: float | None = None
    max_temperature_c: float | None = None
    gpu_clock_min_hz: float | None = None
    gpu_clock_max_hz: float | None = None
    gpu_process_peak_bytes: int | None = None  # over the whole run
    paper_memory_bytes: int | None = None
    paper_memory_kind: str = ""


def summarize_series(facts: RunFacts) -> SeriesSummary:
    """Summarize the measure window; the process's memory has its peak of the whole run, loading included."""
    heat = [value for name in hot_zones(facts.series) for value in facts.measured(name)]
    clocks = facts.measured("clock_gpu_hz")
    held = next((name for name in _PROCESS_MEMORY if name in facts.series and facts.series[name][1]), None)
    used = next((name for name in _USED_MEMORY if facts.measured(name)), None)
    return SeriesSummary(
        mean_power_w=energy_in(facts, MEASURE).mean_power_w,
        max_temperature_c=max(heat, default=None),
        gpu_clock_min_hz=min(clocks, default=None),
        gpu_clock_max_hz=max(clocks, default=None),
        gpu_process_peak_bytes=round(max(facts.series[held][1])) if held else None,
        paper_memory_bytes=round(fmean(facts.measured(used))) if used else None,
        paper_memory_kind=_USED_MEMORY[used] if used else "",
    )


def hot_zones(series: Mapping[str, Readings]) -> list[str]:
    """The series that hold a temperature of the GPU, of a CPU or of the junction."""
    return sorted(name for name in series if re.fullmatch(HOT_ZONES, name))


def rails(rail_set: str) -> list[str]:
    """The series of a set of rails, as the agent names them: "GPU+SYS5V" is power_gpu_w and power_sys5v_w."""
    words = (re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") for name in rail_set.split("+"))
    return [f"power_{word}_w" for word in words if word]


def energy_in(facts: RunFacts, window: str) -> Energy:
    """The energy of one window, from the GPU's own counter where there is one, else from the run's set of rails."""
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
    """The energy of one inference: the measure window's among all its inferences, and less what idling takes."""
    start_s, end_s = facts.windows.get(MEASURE, (0.0, 0.0))
    idle_before, idle_after = energy_in(facts, IDLE_BEFORE), energy_in(facts, IDLE_AFTER)
    count = len(facts.latency_s)
    return energy_per_inference(energy_in(facts, MEASURE), end_s - start_s, count, idle_before, idle_after)
