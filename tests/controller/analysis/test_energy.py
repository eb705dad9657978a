"""Tests of energy with signals of known integral, and of refusals."""

import math
from collections.abc import Callable

import pytest
from efficientquant_controller.analysis.energy import (
    MIN_UPDATES,
    Energy,
    EnergyRefusal,
    counter_energy,
    energy_per_inference,
    rails_energy,
    window_energy,
)
from hypothesis import given
from hypothesis import strategies as st

TENTHS = [n / 10 for n in range(101)]  # ten seconds at 10 Hz


def read(power_w: Callable[[float], float], times_s: list[float] = TENTHS) -> tuple[list[float], list[float]]:
    return times_s, [power_w(time) for time in times_s]


@given(st.floats(0, 4), st.floats(5, 10), st.floats(0, 100))
def test_a_constant_is_its_power_times_the_time(start_s: float, end_s: float, power_w: float) -> None:
    """The energy of a constant power is exact for any edges."""
    energy = window_energy(*read(lambda _: power_w), start_s, end_s)

    assert energy.energy_j == pytest.approx(power_w * (end_s - start_s), rel=1e-12)
    assert energy.mean_power_w == pytest.approx(power_w, rel=1e-12)


@given(st.floats(0, 4), st.floats(5, 10))
def test_a_ramp_is_exact_between_readings_too(start_s: float, end_s: float) -> None:
    """Trapezoids with interpolated edges integrate 3 + 2 t exactly."""
    energy = window_energy(*read(lambda time: 3 + 2 * time), start_s, end_s)

    assert energy.energy_j == pytest.approx(3 * (end_s - start_s) + end_s**2 - start_s**2, rel=1e-12)


@given(st.floats(0, 4), st.floats(5, 10))
def test_a_sine_is_off_by_no_more_than_trapezoids_may_be(start_s: float, end_s: float) -> None:
    """The error stays below the bound of trapezoids, inside and at the edges.

    The bound is h² / 12 × the length × the largest second derivative, and h² / 8 × h at each edge.
    """
    energy = window_energy(*read(lambda time: 5 + math.sin(time)), start_s, end_s)

    true_j = 5 * (end_s - start_s) + math.cos(start_s) - math.cos(end_s)
    assert abs((energy.energy_j or 0) - true_j) <= 0.1**2 / 12 * (end_s - start_s) + 2 * 0.1**3 / 8


def test_uneven_readings() -> None:
    """Readings need no fixed rate, and a triangle is exact when its corners are read."""
    energy = window_energy([0.0, 0.5, 1.0, 1.25, 2.0, 2.5, 3.0], [0.0, 1.0, 2.0, 1.75, 1.0, 0.5, 0.0], 0.0, 3.0)

    assert energy.energy_j == 3.0


@given(st.floats(0, 4), st.floats(5, 9.5))
def test_rails_add_up_as_on_a_common_grid(start_s: float, end_s: float) -> None:
    """Rails read at different times give the energy of their sum."""
    shifted = [time + 0.03 for time in TENTHS]
    gpu, cpu = read(lambda time: 2 * time), read(lambda time: 10 - time, shifted)

    energy = rails_energy({"gpu": gpu, "cpu": cpu}, max(start_s, 0.03), end_s)

    begin_s = max(start_s, 0.03)
    assert energy.energy_j == pytest.approx(10 * (end_s - begin_s) + (end_s**2 - begin_s**2) / 2, rel=1e-12)


def test_a_steady_rail_is_as_quick_as_its_neighbours() -> None:
    """A steady rail that changed every two seconds is taken to be renewed as often as the others."""
    steady = read(lambda time: 0.466 if time % 4 < 2 else 0.427)
    steady = ([*steady[0], 11.0, 13.0], [*steady[1], 0.427, 0.466])

    assert window_energy(*steady, 3.0, 8.0).refusal is EnergyRefusal.TOO_FEW_UPDATES
    assert rails_energy({"gpu": read(math.sin), "vddrq": steady}, 3.0, 8.0).refusal is None


def test_steps_from_idle_to_load_and_back_are_no_updates() -> None:
    """Two steps of an otherwise constant power are no updates, and its energy is exact."""
    energy = window_energy(*read(lambda time: 5.0 if 2 <= time < 9 else 2.0), 3.0, 8.0)

    assert energy.energy_j == pytest.approx(25.0)


def test_one_bad_rail_refuses_the_set() -> None:
    """One refused rail refuses the whole set, and the message names it."""
    holed = [time for time in TENTHS if not 4 < time < 6]

    energy = rails_energy({"gpu": read(lambda _: 1.0), "soc": read(lambda _: 1.0, holed)}, 1.0, 9.0)

    assert (energy.energy_j, energy.refusal) == (None, EnergyRefusal.GAP)
    assert energy.message == "soc: nothing was read for 2 s, and 0.5 s is the most that is interpolated"


def test_a_counter_is_read_at_the_edges() -> None:
    """A counter that grows by 7 W gives 7 J a second, also between its readings."""
    energy = counter_energy(*read(lambda time: 1000 + 7 * time), 1.234, 8.765)

    assert energy.energy_j == pytest.approx(7 * (8.765 - 1.234), rel=1e-9)
    assert energy.mean_power_w == pytest.approx(7, rel=1e-9)


def test_a_counter_that_went_back_is_refused() -> None:
    """A counter that went back is refused inside the window, and accepted outside of it."""
    times_s, joules = read(lambda time: 7 * time if time < 5 else 7 * time - 30)

    assert counter_energy(times_s, joules, 1.0, 9.0).refusal is EnergyRefusal.COUNTER_WENT_BACK
    assert counter_energy(times_s, joules, 5.1, 9.0).energy_j == pytest.approx(7 * 3.9)


@pytest.mark.parametrize(("end_s", "refusal"), [(1.4, EnergyRefusal.TOO_FEW_UPDATES), (1.5, None)])
def test_a_window_needs_five_updates(end_s: float, refusal: EnergyRefusal | None) -> None:
    """A window of four updates is refused, and five are enough."""
    assert MIN_UPDATES == 5

    energy = window_energy(*read(lambda time: time), 1.0, end_s)

    assert energy.refusal is refusal
    assert (energy.energy_j is None) is (refusal is not None)


def test_a_repeated_value_is_no_update() -> None:
    """A sensor that averages over a second has four updates in 4.5 s, however often it is read."""
    stairs = read(lambda time: float(math.floor(time + 1e-9)))

    energy = window_energy(*stairs, 0.5, 5.0)

    assert energy.refusal is EnergyRefusal.TOO_FEW_UPDATES
    assert energy.message == "the sensor renewed its value 4 times in 4.5 s, and 5 are needed"
    assert window_energy(*stairs, 0.5, 5.5).energy_j is not None
    assert window_energy(*stairs, 0.5, 5.0, update_s=0.1).energy_j is not None


def test_a_steady_load_repeats_its_value() -> None:
    """A sensor that once changed within 0.1 s counts as updated while its value stays the same."""
    energy = window_energy(*read(lambda time: 1.0 + time if time < 1 else 2.0), 3.0, 9.0)

    assert energy.energy_j == pytest.approx(12.0)


@pytest.mark.parametrize(
    ("times_s", "window", "refusal"),
    [
        ([], (0.0, 1.0), EnergyRefusal.NO_READINGS),
        ([0.5], (0.0, 1.0), EnergyRefusal.NO_READINGS),
        (TENTHS, (5.0, 5.0), EnergyRefusal.NO_WINDOW),
        (TENTHS, (5.0, 4.0), EnergyRefusal.NO_WINDOW),
        (TENTHS, (5.0, 11.0), EnergyRefusal.NOT_COVERED),
        (TENTHS, (-1.0, 5.0), EnergyRefusal.NOT_COVERED),
        ([time for time in TENTHS if not 3 < time < 4], (2.0, 8.0), EnergyRefusal.GAP),
        ([time for time in TENTHS if not 3 < time < 4], (3.5, 8.0), EnergyRefusal.GAP),
        ([time for time in TENTHS if not 3 < time < 4], (4.0, 8.0), None),
        (TENTHS, (5.0, 10.4), None),  # held for less than a gap may last
    ],
)
def test_refusals(times_s: list[float], window: tuple[float, float], refusal: EnergyRefusal | None) -> None:
    """A window without enough readings is refused with a type and a sentence."""
    energy = window_energy(*read(lambda _: 1.0, times_s), *window)

    assert energy.refusal is refusal
    assert bool(energy.message) is (refusal is not None)


@pytest.mark.parametrize(
    ("times_s", "watts"), [([0.0, 1.0], [1.0]), ([1.0, 0.0], [1.0, 1.0]), ([0.0, 1.0], [1.0, math.nan])]
)
def test_broken_readings_are_an_error(times_s: list[float], watts: list[float]) -> None:
    """Readings out of order, without a value, or not finite raise ValueError instead of a refusal."""
    with pytest.raises(ValueError, match=r"times|finite"):
        window_energy(times_s, watts, 0.0, 1.0)


def test_gross_and_net() -> None:
    """600 J over 60 s and 1,000 inferences, with 3.8 and 4.2 W idle: 0.6 J gross, 0.36 J net."""
    energy = energy_per_inference(Energy(600.0, 10.0), 60.0, 1000, Energy(38.0, 3.8), Energy(42.0, 4.2))

    assert (energy.gross_j, energy.net_j) == pytest.approx((0.6, 0.36))
    assert (energy.idle_power_w, energy.idle_drift) == pytest.approx((4.0, 4.2 / 3.8 - 1))


def test_one_idle_window_subtracts_and_tells_no_drift() -> None:
    """One idle window gives net energy without a drift, and none gives no net energy."""
    refused = Energy(None, None, EnergyRefusal.GAP, "…")

    once = energy_per_inference(Energy(600.0, 10.0), 60.0, 1000, refused, Energy(42.0, 4.0))
    never = energy_per_inference(Energy(600.0, 10.0), 60.0, 1000, None, refused)

    assert (once.net_j, once.idle_drift) == (pytest.approx(0.36), None)
    assert (never.gross_j, never.net_j, never.idle_power_w) == (0.6, None, None)


def test_a_refused_window_has_no_energy_per_inference() -> None:
    """The window's refusal is passed on, and a window without an inference has its own refusal."""
    refused = energy_per_inference(Energy(None, None, EnergyRefusal.GAP, "a hole"), 60.0, 1000, None, None)
    empty = energy_per_inference(Energy(1.0, 1.0), 1.0, 0, None, None)

    assert (refused.gross_j, refused.refusal, refused.message) == (None, EnergyRefusal.GAP, "a hole")
    assert empty.refusal is EnergyRefusal.NO_INFERENCES
