"""The facts of a run, from which derived numbers are computed."""

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
    """A succeeded run: its measurements and its request.

    Times are in seconds from the run's start. `series` are readings by name and `windows` the marked parts by name.
    `conditions` are the agent's, as text. `readings` are its single readings, in the unit of their name. `clocks_asked`
    is true when the user requested locked clocks.
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
        """Return the values of a series in the measure window.

        The list is empty when either does not exist.
        """
        if name not in self.series or MEASURE not in self.windows:
            return []
        start_s, end_s = self.windows[MEASURE]
        times_s, values = self.series[name]
        return [value for time, value in zip(times_s, values, strict=True) if start_s <= time <= end_s]

    def target_hz(self, domain: str) -> float | None:
        """Return a domain's target clock in hertz, or None when unknown.

        The domains are "gpu", "emc" and "cpu".
        """
        value = self.readings.get(f"clock_{domain}_target_hz")
        return value if value is not None and value > 0 and isfinite(value) else None


def finite_number(text: str | None) -> float | None:
    """Parse a finite number from a text, or return None."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if isfinite(value) else None
