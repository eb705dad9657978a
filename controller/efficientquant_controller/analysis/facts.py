"""What a run delivered and what was asked of it: plain values, from which every derived number can be recomputed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite

from efficientquant_controller.analysis.energy import Readings, Window
from efficientquant_controller.model import Finding

MEASURE = "measure"
IDLE_BEFORE = "idle_before"
IDLE_AFTER = "idle_after"
MODEL = "model"  # from before loading to the end


@dataclass(frozen=True)
class RunFacts:
    """One run that succeeded.

    Times count in seconds from the run's start; `series` are readings by name and `windows` the marked parts by name.
    `conditions` are the agent's, as text, and `readings` its single readings, in the unit of their name. `clocks_asked`
    says that the user wanted clocks locked.
    """

    latency_s: Sequence[float]
    required_count: int
    required_time_s: float
    warmup_converged: bool
    series: Mapping[str, Readings] = field(default_factory=dict)
    windows: Mapping[str, Window] = field(default_factory=dict)
    conditions: Mapping[str, str] = field(default_factory=dict)
    readings: Mapping[str, float] = field(default_factory=dict)
    findings: Sequence[Finding] = ()
    sampler_core_share: float | None = None
    clocks_asked: bool = False

    def measured(self, name: str) -> list[float]:
        """The values of a series that were read in the measure window; none where either does not exist."""
        if name not in self.series or MEASURE not in self.windows:
            return []
        start_s, end_s = self.windows[MEASURE]
        times_s, values = self.series[name]
        return [value for time, value in zip(times_s, values, strict=True) if start_s <= time <= end_s]

    def target_hz(self, domain: str) -> float | None:
        """What the clocks of a domain ("gpu", "emc", "cpu") are meant to run at; None where nobody says."""
        value = self.readings.get(f"clock_{domain}_target_hz")
        return value if value is not None and value > 0 and isfinite(value) else None


def finite_number(text: str | None) -> float | None:
    """Read a finite number out of a text, or None."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if isfinite(value) else None
