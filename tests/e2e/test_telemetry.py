"""Telemetry of a run, from the board's sources to the database.

The sources are the board's files, tegrastats and NVML.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from fleet import FIXTURES, Fleet, Process, broken_rules

TINY = "test_efficientnet"
REPLAY = str(FIXTURES / "boards/tegrastats_replay")
RAILS = "sys/bus/i2c"
ZONES = "sys/class/thermal"


def copy_nano(fleet: Fleet, *without: str) -> Path:
    """Copy a Jetson Nano's files and add its power mode.

    The power mode is in the file that nvpmodel keeps for the next boot.
    """
    root = fleet.copy_board("nano-r32.7.4", *without)
    (root / "etc/nvpmodel.conf").write_text("< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=1 NAME=5W >\n")
    (root / "var/lib/nvpmodel").mkdir(parents=True)
    (root / "var/lib/nvpmodel/status").write_text("pmode:0000 fmode:quiet\n")
    return root


def connect_nano(fleet: Fleet, python: str, *without: str, **tegrastats: str) -> Process:
    """Connect an agent of a Nano with tegrastats and without some files."""
    options = ["--board-root", str(copy_nano(fleet, *without)), "--tegrastats", REPLAY]
    return fleet.connect_agent("nano", python, options=options, environment=tegrastats)


def bench(fleet: Fleet, *options: str) -> dict[str, Any]:
    """Measure one tiny model once, and return its result row.

    The board idles for one second before and after.
    """
    row = fleet.bench_once(TINY, "--idle", "1", *options)
    assert row["state"] == "succeeded", row
    return row


def test_a_nano_with_tegrastats(fleet: Fleet, python36: str) -> None:
    """A Nano with only tegrastats reports power, energy, temperature, conditions, agreement and its identity."""
    connect_nano(fleet, python36, RAILS, ZONES)

    row = bench(fleet)

    assert row["rail_set"] == "POM_5V_IN"
    # The rail's lowest and highest values in the replayed lines.
    low_w, high_w = rail_range()
    assert low_w < row["mean_power_w"] < high_w
    assert low_w < row["idle_power_w"] < high_w
    duration_s, count = measured(fleet)
    assert row["energy_per_inference_j"] == pytest.approx(row["mean_power_w"] * duration_s / count)
    net_j = (row["mean_power_w"] - row["idle_power_w"]) * duration_s / count
    assert row["net_energy_per_inference_j"] == pytest.approx(net_j)
    assert 30 < row["max_temperature_c"] < 85
    assert broken_rules(row) == []
    assert "not checked: the device's own throttle reasons (none were read)" in row["verdict_reasons"]
    assert (row["conditions"]["power_mode"], row["conditions"]["clocks"]) == ("MAXN", "free")
    assert row["output_argmax_agreement"] == 1.0
    assert row["output_cosine"] > 0.999
    assert row["output_max_abs"] < 1e-3
    [(*board, gpus)] = fleet.query("select board, l4t, jetpack, power_mode, gpus from device_snapshots")
    assert board == ["NVIDIA Jetson Nano Developer Kit", "R32.7.4", "4.6.4", "MAXN"]
    assert [(gpu["name"], gpu["compute_capability"]) for gpu in json.loads(gpus)] == [("Tegra X1", 53)]
    shown = fleet.run("results", "--wide").stdout
    assert all(heading in shown for heading in ("energy", "net of idle", "power", "hottest"))
    assert f"{row['mean_power_w']:.2f}" in shown


def test_a_nano_with_sysfs_rails(fleet: Fleet, python36: str) -> None:
    """With rails in sysfs no tegrastats is started, and a constant 4.521 W gives 0 J net."""
    options = ["--board-root", str(copy_nano(fleet)), "--tegrastats", "/bin/false"]
    fleet.connect_agent("nano", python36, options=options)

    row = bench(fleet)

    duration_s, count = measured(fleet)
    assert row["rail_set"] == "POM_5V_IN"
    assert row["mean_power_w"] == pytest.approx(4.521)
    assert row["idle_power_w"] == pytest.approx(4.521)
    assert row["energy_per_inference_j"] == pytest.approx(4.521 * duration_s / count)
    assert row["net_energy_per_inference_j"] == pytest.approx(0.0, abs=1e-9)
    assert row["max_temperature_c"] == 40.5
    assert row["gpu_clock_min_hz"] == row["gpu_clock_max_hz"] == 921600000
    assert fleet.query("select findings from runs") == [("[]",)]


def test_a_discrete_gpu(fleet: Fleet) -> None:
    """NVML's energy counter of a GPU that draws 200 W gives 200 W, measuring and idle."""
    fleet.connect_gpu(power_w=200.0, throttle_bits=0)

    row = bench(fleet)

    duration_s, count = measured(fleet)
    assert row["rail_set"] == "GPU"
    assert row["mean_power_w"] == pytest.approx(200.0, rel=0.01)
    assert row["idle_power_w"] == pytest.approx(200.0, rel=0.01)
    assert row["energy_per_inference_j"] == pytest.approx(200.0 * duration_s / count, rel=0.01)
    assert row["max_temperature_c"] == 55.0
    assert row["gpu_clock_max_hz"] == 1.71e9
    assert broken_rules(row) == []


def test_heat_while_measuring(fleet: Fleet, python36: str) -> None:
    """A run in which the board exceeds 85 °C is INVALID, and the row says why."""
    connect_nano(fleet, python36, RAILS, ZONES, TEGRASTATS_HEAT_C="3")

    row = bench(fleet, "--start-below", "0")

    assert row["verdict"] == "INVALID"
    assert row["max_temperature_c"] >= 85
    assert any("°C (85 °C is too hot to measure)" in reason for reason in row["verdict_reasons"])


def test_a_hot_board_cools_down_first(fleet: Fleet, python36: str) -> None:
    """A board above the start temperature waits in the phase "gate" until a reading is below it."""
    # It starts at 41 °C and cools by half a degree with each line, so it is below 33 °C after 1.6 s.
    connect_nano(fleet, python36, RAILS, ZONES, TEGRASTATS_HEAT_C="-0.5")
    campaign = fleet.submit(TINY, max_start_temperature_c=33.0, idle_s=1.0)
    fleet.wait_for_phase(campaign, "nano", "gate")

    assert fleet.watch_to_end(campaign).campaign.state == "succeeded"

    result = fleet.raw_result(only_run(fleet))
    starts_s = {window.name: window.start_s for window in result.windows}
    [heat] = [series for series in result.series if series.name == "temperature_cpu_c"]
    seen_c = [value for time_s, value in zip(heat.time_s, heat.value, strict=True) if time_s <= starts_s["idle_before"]]
    assert len(seen_c) > 10
    assert seen_c[0] > 40
    assert seen_c[-1] < 33 <= min(seen_c[:10])
    assert not result.findings


def test_a_sensor_that_vanishes(fleet: Fleet, python36: str) -> None:
    """A run whose sensor fails midway succeeds without energy, and the row says why."""
    # The twelfth line comes after 1.2 s, and the measurement ends after two at the earliest.
    agent = connect_nano(fleet, python36, RAILS, ZONES, TEGRASTATS_DIE_AFTER="12", TEGRASTATS_DIE_CODE="3")

    row = bench(fleet)

    agent.wait_for("no more tegrastats in this run: ")
    assert row["verdict"] in ("B", "INVALID")
    [reason] = broken_rules(row)
    assert "tegrastats was lost during the run: " in reason
    assert any(reason.startswith("no energy: ") for reason in row["verdict_reasons"])
    assert row["energy_per_inference_j"] is row["net_energy_per_inference_j"] is row["mean_power_w"] is None
    [(findings,)] = fleet.query("select findings from runs")
    assert [(finding["check"], finding["severity"]) for finding in json.loads(findings)] == [("sensor", "soft")]
    assert "ended with code 3" in findings


def rail_range() -> tuple[float, float]:
    """Return the lowest and highest power of POM_5V_IN in the replay, in watts."""
    words = [line.split() for line in (FIXTURES / "boards/tegrastats/nano-r32.7.4.txt").read_text().splitlines()]
    values = [int(line[line.index("POM_5V_IN") + 1].split("/")[0]) / 1000 for line in words]
    return min(values), max(values)


def only_run(fleet: Fleet) -> str:
    """Return the id of the only run."""
    [(run_id,)] = fleet.query("select run_id from runs")
    return str(run_id)


def measured(fleet: Fleet) -> tuple[float, int]:
    """Return the only run's measure window in seconds and its number of inferences."""
    result = fleet.raw_result(only_run(fleet))
    [window] = [window for window in result.windows if window.name == "measure"]
    return window.end_s - window.start_s, len(result.latency_s)
