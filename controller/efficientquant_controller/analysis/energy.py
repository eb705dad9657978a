"""Energy of a marked window: rails integrated, counters subtracted, idling taken off, or a typed refusal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from math import floor, fsum, isfinite
from statistics import median

# Each edge of a window is uncertain by up to half an update of the sensor. With five updates inside, both edges
# together misplace at most a fifth of the step between the power inside and outside; with fewer, more than can be told.
MIN_UPDATES = 5
# A sampler that was late by this many of its intervals has not seen what happened meanwhile.
MAX_GAP_INTERVALS = 5

Readings = tuple[Sequence[float], Sequence[float]]  # times in seconds, ascending, and a value for each
Window = tuple[float, float]


class EnergyRefusal(StrEnum):
    """Why a window has no energy."""

    NO_READINGS = "no readings"
    NO_WINDOW = "no window"
    NOT_COVERED = "not covered"
    GAP = "gap"
    TOO_FEW_UPDATES = "too few updates"
    COUNTER_WENT_BACK = "counter went back"
    NO_INFERENCES = "no inferences"


@dataclass(frozen=True)
class Energy:
    """Joules of a window and their mean power in watts; both None where `refusal` says why, `message` in a sentence."""

    energy_j: float | None
    mean_power_w: float | None = None
    refusal: EnergyRefusal | None = None
    message: str = ""


@dataclass(frozen=True)
class InferenceEnergy:
    """Joules for each inference: all that flowed, and what flowed beyond idling.

    `idle_power_w` is the mean of before and after, or the one that was measured; `idle_drift` is after over before,
    less 1: None where one is missing. `net_j` is None without any idle power, and below 0 where idling took more.
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
    """Integrate power over a window by trapezoids, interpolating linearly at its edges.

    Exact for power that is linear between readings. `update_s` is how often the sensor renews its value, where that is
    known; else see `seen_update_s`. Raises ValueError for readings that are not finite or not in order.
    """
    if refused := _refused(times_s, watts, (start_s, end_s), update_s):
        return refused
    points = _clipped(times_s, watts, start_s, end_s)
    energy_j = fsum((t1 - t0) * (w0 + w1) / 2 for (t0, w0), (t1, w1) in pairwise(points))
    return Energy(energy_j, energy_j / (end_s - start_s))


def rails_energy(rails: Mapping[str, Readings], start_s: float, end_s: float, update_s: float | None = None) -> Energy:
    """Add up the rails of a set over one window; refused when any of them is.

    Each rail is integrated on its own times. That is the integral of their sum on the grid of all times together, both
    being linear between their readings, and a gap of one rail cannot hide behind another's readings. The rails of a
    board are renewed alike, so unless `update_s` is known a steady rail is taken to be as quick as the quickest.
    """
    if not rails:
        return Energy(None, None, EnergyRefusal.NO_READINGS, "no rail was read")
    seen = [one for one in (seen_update_s(*readings) for readings in rails.values()) if one is not None]
    update_s = update_s or min(seen, default=None)
    found = {name: window_energy(*readings, start_s, end_s, update_s) for name, readings in rails.items()}
    for name, one in found.items():
        if one.refusal is not None:
            return Energy(None, None, one.refusal, f"{name}: {one.message}")
    energy_j = fsum(one.energy_j or 0.0 for one in found.values())
    return Energy(energy_j, energy_j / (end_s - start_s))


def counter_energy(
    times_s: Sequence[float], joules: Sequence[float], start_s: float, end_s: float, update_s: float | None = None
) -> Energy:
    """Subtract an energy counter (NVML's, in joules) at a window's edges, interpolated between its readings.

    A counter that went back, because the driver was loaded anew, is refused.
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
    """Share a window's energy among its inferences, gross, and net of the power of idling for as long."""
    if measured.energy_j is None:
        return InferenceEnergy(None, refusal=measured.refusal, message=measured.message)
    if inferences < 1:
        return InferenceEnergy(None, refusal=EnergyRefusal.NO_INFERENCES, message="no inference ended in the window")
    gross_j = measured.energy_j / inferences
    known = [one.mean_power_w for one in (idle_before, idle_after) if one is not None and one.mean_power_w is not None]
    if not known:
        return InferenceEnergy(gross_j)
    idle_w = fsum(known) / len(known)
    drift = known[1] / known[0] - 1 if len(known) == 2 and known[0] else None
    return InferenceEnergy(gross_j, (measured.energy_j - idle_w * duration_s) / inferences, idle_w, drift)


def _refused(
    times_s: Sequence[float], values: Sequence[float], window: Window, update_s: float | None
) -> Energy | None:
    """Why a window of these readings has no energy; None when it has one."""
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
    """Refuse a window whose edges no reading reaches, or in which readings stopped for several intervals.

    Beyond the first and last reading a value is held, for no longer than a gap may be.
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
    """The shortest time between two changes of a value, which is how often its sensor renews it.

    A sensor that averages over a second and is read ten times a second gives each value ten times. Of the changes the
    closest two tell, since a steady load repeats values too. None for a value that changed fewer than MIN_UPDATES
    times: the steps from idling to measuring and back say nothing of a sensor.
    """
    changes = [time for (_, before), (time, now) in pairwise(zip(times_s, values, strict=True)) if now != before]
    if len(changes) < MIN_UPDATES:
        return None
    return min((later - earlier for earlier, later in pairwise(changes) if later > earlier), default=None)


def _updates(times_s: Sequence[float], values: Sequence[float], window: Window, update_s: float | None) -> int:
    """How often the sensor renewed its value in the window: never more often than it was read."""
    start_s, end_s = window
    read = len({time for time in times_s if start_s <= time <= end_s})
    update_s = update_s or seen_update_s(times_s, values)
    # The slack is for a quotient that should be whole and comes out a rounding error below.
    return min(read, floor((end_s - start_s) / update_s + 1e-6)) if update_s else read


def _clipped(
    times_s: Sequence[float], values: Sequence[float], start_s: float, end_s: float
) -> list[tuple[float, float]]:
    """The window's points: its edges, and the readings between them."""
    inside = [(time, value) for time, value in zip(times_s, values, strict=True) if start_s < time < end_s]
    return [(start_s, _at(times_s, values, start_s)), *inside, (end_s, _at(times_s, values, end_s))]


def _at(times_s: Sequence[float], values: Sequence[float], moment_s: float) -> float:
    """The value at a moment, linear between its neighbours, held beyond the ends."""
    if moment_s <= times_s[0]:
        return values[0]
    for (t0, v0), (t1, v1) in pairwise(zip(times_s, values, strict=True)):
        if t0 <= moment_s <= t1 and t1 > t0:
            return v0 + (v1 - v0) * (moment_s - t0) / (t1 - t0)
    return values[-1]
