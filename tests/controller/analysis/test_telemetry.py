"""Tests of the summaries of a run's series and of its derived columns."""

import pytest
from efficientquant_controller.analysis.derived import derived_columns
from efficientquant_controller.analysis.energy import EnergyRefusal
from efficientquant_controller.analysis.facts import RunFacts
from efficientquant_controller.analysis.telemetry import energy_in, inference_energy, peaks, rails, summarize_series

TIMES = [n / 10 for n in range(301)]  # 30 s at 10 Hz: idle, 10 s of load in the middle, idle
WINDOWS = {"idle_before": (0.0, 9.0), "measure": (11.0, 19.0), "idle_after": (21.0, 30.0)}


def steps(idle: float, busy: float) -> tuple[list[float], list[float]]:
    return TIMES, [busy if 10 <= time < 20 else idle for time in TIMES]


def nano(**series: tuple[list[float], list[float]]) -> RunFacts:
    return RunFacts(
        latency_s=[0.1] * 80,
        required_count=64,
        required_time_s=6.0,
        warmup_converged=True,
        series=series,
        windows=WINDOWS,
        conditions={"rail_set": "POM_5V_IN"},
        sampler_core_share=0.001,
    )


def xavier(**series: tuple[list[float], list[float]]) -> RunFacts:
    facts = nano(**series)
    return RunFacts(**{**facts.__dict__, "conditions": {"rail_set": "GPU+SYS5V"}})


@pytest.mark.parametrize(
    ("rail_set", "names"),
    [
        ("POM_5V_IN", ["power_pom_5v_in_w"]),
        ("GPU+CPU+SYS5V", ["power_gpu_w", "power_cpu_w", "power_sys5v_w"]),
        ("", []),
    ],
)
def test_a_rail_set_names_its_series(rail_set: str, names: list[str]) -> None:
    """The rails of a set are series by their lower-case names."""
    assert rails(rail_set) == names


def test_power_and_energy_of_a_rail() -> None:
    """5 W over 8 s and 80 inferences with 2 W idle give 0.5 J gross and 0.3 J net."""
    facts = nano(power_pom_5v_in_w=steps(2.0, 5.0))

    energy = inference_energy(facts)

    assert (energy.gross_j, energy.net_j, energy.idle_power_w, energy.idle_drift) == pytest.approx((0.5, 0.3, 2.0, 0.0))
    assert summarize_series(facts).mean_power_w == pytest.approx(5.0)


def test_a_set_of_rails_adds_up_and_other_rails_stay_out() -> None:
    """The module's power is the sum of the named rails only."""
    facts = xavier(power_gpu_w=steps(0.5, 6.0), power_sys5v_w=steps(1.5, 2.0), power_cv_w=steps(9.0, 9.0))

    assert energy_in(facts, "measure").mean_power_w == pytest.approx(8.0)


def test_a_set_without_one_of_its_rails_has_no_energy() -> None:
    """A set with a rail that was not read has no energy, and the message names the rail."""
    energy = energy_in(xavier(power_gpu_w=steps(0.5, 6.0)), "measure")

    assert (energy.energy_j, energy.refusal) == (None, EnergyRefusal.NO_READINGS)
    assert energy.message == "power_sys5v_w was not read"


def test_the_counter_goes_before_a_power_reading() -> None:
    """Energy comes from NVML's counter where there is one, not from power readings."""
    counter = (TIMES, [1000 + 20 * time for time in TIMES])
    facts = nano(energy_gpu_j=counter, power_pom_5v_in_w=steps(2.0, 5.0))

    assert energy_in(facts, "measure").energy_j == pytest.approx(160.0)


def test_a_discrete_gpus_power_is_renewed_once_a_second() -> None:
    """Without a counter, a window of under five seconds of NVML's power is too short."""
    facts = nano(power_pom_5v_in_w=steps(2.0, 5.0), gpu_used_bytes=steps(1e9, 3e9))
    short = RunFacts(**{**facts.__dict__, "windows": {"measure": (11.0, 15.9)}})

    assert energy_in(facts, "measure").energy_j == pytest.approx(40.0)
    assert energy_in(short, "measure").refusal is EnergyRefusal.TOO_FEW_UPDATES


def test_a_run_without_that_window_says_so() -> None:
    """A run without the measure window has no energy."""
    facts = RunFacts(**{**nano(power_pom_5v_in_w=steps(2.0, 5.0)).__dict__, "windows": {}})

    assert energy_in(facts, "measure").refusal is EnergyRefusal.NO_WINDOW
    assert inference_energy(facts).gross_j is None


def test_heat_clocks_and_memory() -> None:
    """Extremes are from the measure window, the process's peak from the whole run, and the paper's memory is a mean."""
    facts = nano(
        temperature_gpu_c=steps(90.0, 62.5),
        temperature_pmic_c=steps(100.0, 100.0),
        clock_gpu_hz=(TIMES, [76.8e6 if time < 11.05 else 921.6e6 for time in TIMES]),
        nvmap_process_bytes=steps(3000.0, 2000.0),
        board_used_bytes=steps(1e9, 2e9),
    )

    summary = summarize_series(facts)

    assert (summary.max_temperature_c, summary.gpu_clock_min_hz, summary.gpu_clock_max_hz) == (62.5, 76.8e6, 921.6e6)
    assert (summary.gpu_process_peak_bytes, summary.paper_memory_bytes) == (3000, 2_000_000_000)
    assert summary.paper_memory_kind == "board used RAM"


def test_a_discrete_gpu_has_its_own_kind_of_memory() -> None:
    """The paper's memory of a discrete GPU is the GPU's own memory."""
    summary = summarize_series(nano(gpu_used_bytes=steps(1e9, 3e9), board_used_bytes=steps(1e9, 2e9)))

    assert (summary.paper_memory_bytes, summary.paper_memory_kind) == (3_000_000_000, "device used memory")


def test_columns_of_a_run() -> None:
    """A run has its derived columns with values in SI units, or None."""
    columns = derived_columns(nano(power_pom_5v_in_w=steps(2.0, 5.0)))

    assert (columns["verdict"], columns["rail_set"], columns["latency_drift"]) == ("A", "POM_5V_IN", 0.0)
    assert columns["energy_per_inference_j"] == pytest.approx(0.5)
    assert (columns["latency_p90_bound_s"], columns["latency_p99_bound_s"]) == (0.1, None)
    assert (columns["throttled"], columns["max_temperature_c"], columns["gpu_process_peak_bytes"]) == (None, None, None)
    assert all(isinstance(reason, str) for reason in columns["verdict_reasons"])


def test_a_refused_energy_stands_among_the_reasons() -> None:
    """A board with a power sensor and no energy gets a last reason, and keeps its grade."""
    columns = derived_columns(nano(power_pom_5v_in_w=([11.5, 12.0], [5.0, 5.0])))

    assert (columns["verdict"], columns["energy_per_inference_j"]) == ("A", None)
    assert columns["verdict_reasons"][-1] == (
        "no energy: power_pom_5v_in_w: the sensor renewed its value 2 times in 8 s, and 5 are needed"
    )
    assert not any("energy" in reason for reason in derived_columns(no_sensor())["verdict_reasons"])


def no_sensor() -> RunFacts:
    return RunFacts(**{**nano().__dict__, "conditions": {"rail_set": ""}})


def test_columns_of_a_run_that_was_not_watched() -> None:
    """Columns without a series are None or empty."""
    columns = derived_columns(nano())

    known = {name for name, value in columns.items() if value not in (None, "")}
    assert known == {
        *("statistics_version", "verdict", "verdict_reasons", "latency_p90_bound_s", "latency_drift", "rail_set"),
    }


def test_extremes_count_from_before_loading() -> None:
    """Extremes of memory count from the window `model` on, if there is one."""
    series = {
        "child_pss_bytes": ([0.0, 1.0, 2.0], [9.0, 5.0, 7.0]),
        "board_available_bytes": ([0.0, 1.0, 2.0], [1.0, 4.0, 3.0]),
        "swap_used_bytes": ([], []),
    }
    assert peaks(series, {"model": (1.0, 2.0)}) == {"peak_pss_bytes": 7.0, "board_available_min_bytes": 3.0}
    assert peaks(series, {}) == {"peak_pss_bytes": 9.0, "board_available_min_bytes": 1.0}
    assert peaks({}, {}) == {}
