"""Energy of a marked window, or a typed refusal.

The power of rails is integrated, and energy counters are subtracted. Net energy excludes idling.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from math import floor, fsum, isfinite
from statistics import median

# Each edge of a window is uncertain by up to half an update of the sensor. With five updates inside, both edges
# together misplace at most a fifth of the step between the power inside and outside. With fewer the error is larger.
MIN_UPDATES = 5
# Readings are not interpolated over a gap of more than this many intervals of the sampler.
MAX_GAP_INTERVALS = 5

Readings = tuple[Sequence[float], Sequence[float]]  # times in seconds, ascending, and their values
Window = tuple[float, float]


class EnergyRefusal(StrEnum):
    """The reason why a window has no energy."""

    NO_READINGS = "no readings"
    NO_WINDOW = "no window"
    NOT_COVERED = "not covered"
    GAP = "gap"
    TOO_FEW_UPDATES = "too few updates"
    COUNTER_WENT_BACK = "counter went back"
    NO_INFERENCES = "no inferences"


@dataclass(frozen=True)
class Energy:
    """A window's energy in joules and mean power in watts.

    Both are None when there is a `refusal`, which `message` explains in a sentence.
    """

    energy_j: float | None
    mean_power_w: float | None = None
    refusal: EnergyRefusal | None = None
    message: str = ""


@dataclass(frozen=True)
class InferenceEnergy:
    """The energy of one inference in joules, gross and net of idling.

    `idle_power_w` is the mean of before and after, or the only measured value. `idle_drift` is after over before,
    less 1, and None when either is missing. `net_j` is None without any idle power, and below 0 when idling took more.
    """

    gross_j: float | None
    net_j: float | None = None
    idle_power_w: float | None = None
    idle_drift: float | None = None
    refusal: EnergyRefusal | None = None
    message: str = ""


def window_energy(
    times_s: Sequence[float], watts: Sequence[float], start_s: float, end_s: float, update_s: float | None = None
) -> Energy:
    """Integrate power over a window by trapezoids.

    The edges are interpolated, so the result is exact for power that is linear between readings. `update_s` is the time
    between the sensor's updates. If it is None, `seen_update_s` estimates it. Raises ValueError for readings that are
    not finite or not in order, or lack a value.
    """
    if refused := _refused(times_s, watts, (start_s, end_s), update_s):
        return refused
    points = _clipped(times_s, watts, start_s, end_s)
    energy_j = fsum((t1 - t0) * (w0 + w1) / 2 for (t0, w0), (t1, w1) in pairwise(points))
    return Energy(energy_j, energy_j / (end_s - start_s))


def rails_energy(rails: Mapping[str, Readings], start_s: float, end_s: float, update_s: float | None = None) -> Energy:
    """Add up the energy of a set of rails over one window.

    The sum is refused when any rail is. Each rail is integrated over its own readings, so that the readings of one rail
    cannot hide a gap in another. The sum is the integral of the total power, because each rail is linear between its
    readings. All rails of a board update equally often. Without `update_s`, a steady rail is assumed to update as often
    as the fastest rail. Raises ValueError as `window_energy` does.
    """
    if not rails:
        return Energy(None, None, EnergyRefusal.NO_READINGS, "no rail was read")
    updates_s = [update for update in (seen_update_s(*readings) for readings in rails.values()) if update is not None]
    update_s = update_s or min(updates_s, default=None)
    energies = {name: window_energy(*readings, start_s, end_s, update_s) for name, readings in rails.items()}
    for name, energy in energies.items():
        if energy.refusal is not None:
            return Energy(None, None, energy.refusal, f"{name}: {energy.message}")
    energy_j = fsum(energy.energy_j or 0.0 for energy in energies.values())
    return Energy(energy_j, energy_j / (end_s - start_s))


def counter_energy(
    times_s: Sequence[float], joules: Sequence[float], start_s: float, end_s: float, update_s: float | None = None
) -> Energy:
    """Subtract an energy counter at the edges of a window.

    The counter (NVML's, in joules) is interpolated between its readings. A counter that went back is refused: the
    driver was reloaded. Raises ValueError as `window_energy` does.
    """
    if refused := _refused(times_s, joules, (start_s, end_s), update_s):
        return refused
    points = _clipped(times_s, joules, start_s, end_s)
    if any(later < earlier for (_, earlier), (_, later) in pairwise(points)):
        return Energy(None, None, EnergyRefusal.COUNTER_WENT_BACK, "the energy counter went back in the window")
    energy_j = points[-1][1] - points[0][1]
    return Energy(energy_j, energy_j / (end_s - start_s))


def energy_per_inference(
    measured: Energy, duration_s: float, inferences: int, idle_before: Energy | None, idle_after: Energy | None
) -> InferenceEnergy:
    """Divide a window's energy by its inferences, gross and net.

    Net energy excludes the energy of idling for `duration_s`.
    """
    if measured.energy_j is None:
        return InferenceEnergy(None, refusal=measured.refusal, message=measured.message)
    if inferences < 1:
        return InferenceEnergy(None, refusal=EnergyRefusal.NO_INFERENCES, message="no inference ended in the window")
    gross_j = measured.energy_j / inferences
    known = [
        idle.mean_power_w for idle in (idle_before, idle_after) if idle is not None and idle.mean_power_w is not None
    ]
    if not known:
        return InferenceEnergy(gross_j)
    idle_w = fsum(known) / len(known)
    drift = known[1] / known[0] - 1 if len(known) == 2 and known[0] else None
    return InferenceEnergy(gross_j, (measured.energy_j - idle_w * duration_s) / inferences, idle_w, drift)


def _refused(
    times_s: Sequence[float], values: Sequence[float], window: Window, update_s: float | None
) -> Energy | None:
    """Return the refusal of a window, or None.

    Raises ValueError for broken readings.
    """
    _check(times_s, values)
    start_s, end_s = window
    if not end_s > start_s:
        return Energy(None, None, EnergyRefusal.NO_WINDOW, f"the window from {start_s} to {end_s} s has no length")
    if len(times_s) < 2:
        return Energy(None, None, EnergyRefusal.NO_READINGS, f"the sensor was read {len(times_s)} times in the run")
    updates = _updates(times_s, values, window, update_s)
    if updates < MIN_UPDATES:
        sentence = (
            f"the sensor renewed its value {updates} times in {end_s - start_s:.3g} s, and {MIN_UPDATES} are needed"
        )
        return Energy(None, None, EnergyRefusal.TOO_FEW_UPDATES, sentence)
    return _gap(times_s, window)


def _check(times_s: Sequence[float], values: Sequence[float]) -> None:
    if len(times_s) != len(values):
        raise ValueError(f"{len(times_s)} times and {len(values)} values")
    if not all(map(isfinite, times_s)) or not all(map(isfinite, values)):
        raise ValueError("a reading is not a finite number")
    if any(later < earlier for earlier, later in pairwise(times_s)):
        raise ValueError("the times of the readings are not in order")


def _gap(times_s: Sequence[float], window: Window) -> Energy | None:
    """Refuse a window with a gap inside or at an edge.

    A gap is longer than MAX_GAP_INTERVALS median intervals. The first and last reading are extended by at most that.
    """
    start_s, end_s = window
    intervals = [later - earlier for earlier, later in pairwise(times_s) if later > earlier]
    longest_s = MAX_GAP_INTERVALS * median(intervals) if intervals else 0.0
    missing_s = max(times_s[0] - start_s, end_s - times_s[-1])
    if missing_s > longest_s:
        sentence = f"the readings leave out {missing_s:.3g} s at an edge of the window"
        return Energy(None, None, EnergyRefusal.NOT_COVERED, sentence)
    inside = (b - a for a, b in pairwise(times_s) if b > start_s and a < end_s)
    gap_s = max(inside, default=0.0)
    if gap_s > longest_s:
        sentence = f"nothing was read for {gap_s:.3g} s, and {longest_s:.3g} s is the most that is interpolated"
        return Energy(None, None, EnergyRefusal.GAP, sentence)
    return None


def seen_update_s(times_s: Sequence[float], values: Sequence[float]) -> float | None:
    """Return the time between a sensor's updates, in seconds.

    It is the shortest time between two changes. A sensor that averages over a second and is read ten times a second
    gives each value ten times. A steady load repeats values too, so longer times do not count. Returns None for a value
    that changed fewer than MIN_UPDATES times: the steps from idling to measuring and back say nothing about a sensor.
    """
    changes = [time for (_, before), (time, now) in pairwise(zip(times_s, values, strict=True)) if now != before]
    if len(changes) < MIN_UPDATES:
        return None
    return min((later - earlier for earlier, later in pairwise(changes) if later > earlier), default=None)


def _updates(times_s: Sequence[float], values: Sequence[float], window: Window, update_s: float | None) -> int:
    """Count the sensor's updates in the window, at most its readings."""
    start_s, end_s = window
    read = len({time for time in times_s if start_s <= time <= end_s})
    update_s = update_s or seen_update_s(times_s, values)
    # The slack is for a whole quotient that rounding made smaller.
    return min(read, floor((end_s - start_s) / update_s + 1e-6)) if update_s else read


def _clipped(
    times_s: Sequence[float], values: Sequence[float], start_s: float, end_s: float
) -> list[tuple[float, float]]:
    """Return the points of a window: its edges and the readings between."""
    inside = [(time, value) for time, value in zip(times_s, values, strict=True) if start_s < time < end_s]
    return [(start_s, _at(times_s, values, start_s)), *inside, (end_s, _at(times_s, values, end_s))]


def _at(times_s: Sequence[float], values: Sequence[float], moment_s: float) -> float:
    """Interpolate the value at a moment linearly.

    The first and last value are held beyond the ends.
    """
    if moment_s <= times_s[0]:
        return values[0]
    for (t0, v0), (t1, v1) in pairwise(zip(times_s, values, strict=True)):
        if t0 <= moment_s <= t1 and t1 > t0:
            return v0 + (v1 - v0) * (moment_s - t0) / (t1 - t0)
    return values[-1]
