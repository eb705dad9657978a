"""Derived columns of a run, which a later version can recompute.

The summary of its latencies is separate.
"""

from typing import Any

from efficientquant_controller.analysis.energy import InferenceEnergy
from efficientquant_controller.analysis.facts import RunFacts
from efficientquant_controller.analysis.statistics import STATISTICS_VERSION, drift, upper_bound
from efficientquant_controller.analysis.telemetry import inference_energy, summarize_series
from efficientquant_controller.analysis.verdict import judge, was_throttled

# A warm board idles at a higher power. Beyond this drift the idle power is too uncertain to be subtracted.
MAX_IDLE_DRIFT = 0.1


def derived_columns(facts: RunFacts) -> dict[str, Any]:
    """Compute a succeeded run's columns, in SI units.

    An unknown number is None.
    """
    verdict, energy, summary = judge(facts), inference_energy(facts), summarize_series(facts)
    return {
        "statistics_version": STATISTICS_VERSION,
        "verdict": verdict.grade.value,
        "verdict_reasons": [*verdict.reasons, *_no_energy(facts, energy), *_idle_drift(energy)],
        "latency_p90_bound_s": upper_bound(facts.latency_s, 90).value_s,
        "latency_p99_bound_s": upper_bound(facts.latency_s, 99).value_s,
        "latency_drift": drift(facts.latency_s),
        "energy_per_inference_j": energy.gross_j,
        "net_energy_per_inference_j": energy.net_j,
        "mean_power_w": summary.mean_power_w,
        "idle_power_w": energy.idle_power_w,
        "rail_set": facts.conditions.get("rail_set", ""),
        "max_temperature_c": summary.max_temperature_c,
        "gpu_clock_min_hz": summary.gpu_clock_min_hz,
        "gpu_clock_max_hz": summary.gpu_clock_max_hz,
        "throttled": was_throttled(facts),
        "gpu_process_peak_bytes": summary.gpu_process_peak_bytes,
        "paper_memory_bytes": summary.paper_memory_bytes,
        "paper_memory_kind": summary.paper_memory_kind,
    }


def _idle_drift(energy: InferenceEnergy) -> list[str]:
    """Report idle power that changed by more than MAX_IDLE_DRIFT.

    Net energy is only as exact as the idle power that is subtracted.
    """
    if energy.idle_drift is None or abs(energy.idle_drift) <= MAX_IDLE_DRIFT:
        return []
    way = "above" if energy.idle_drift > 0 else "below"
    return [
        f"net energy is uncertain: idle power after the run was {abs(energy.idle_drift):.0%} {way} that before it "
        f"(at most {MAX_IDLE_DRIFT:.0%})"
    ]


def _no_energy(facts: RunFacts, energy: InferenceEnergy) -> list[str]:
    """Report why a device with power sensors has no energy."""
    return [f"no energy: {energy.message}"] if energy.refusal and facts.conditions.get("rail_set") else []
