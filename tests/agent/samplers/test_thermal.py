"""Thermal zones, their common names, and zones that are left out."""

import errno
import os

import pytest
from efficientquant_agent.errors import SensorError
from efficientquant_agent.samplers.thermal import thermal_zones, zone_name


@pytest.mark.parametrize(
    ("board", "expected"),
    [
        ("nano-r32.7.4", {"ao": 45.0, "cpu": 40.5, "gpu": 38.75, "pll": 37.0, "thermal": 39.5}),
        (
            "agx-xavier-r35.4.1",
            {
                "cpu": 42.0,
                "gpu": 41.5,
                "aux": 41.0,
                "ao": 40.5,
                "tboard": 39.0,
                "tdiode": 42.75,
                "thermal": 41.6,
            },
        ),
        (
            "orin-nano-r36.3",
            {
                "cpu": 52.562,
                "gpu": 50.718,
                "cv0": None,
                "cv1": None,
                "cv2": None,
                "soc0": 49.093,
                "soc1": 49.656,
                "soc2": 48.437,
                "tj": 52.562,
            },
        ),
        ("x86", {"acpitz": 16.8, "acpitz_2": 27.8, "x86_pkg_temp": 48.0}),
    ],
)
def test_boards(boards, sampled, board, expected):
    """Each board's zones have exact temperatures, except parts that are off (−256 °C) and the PMIC."""
    by_series = sampled(thermal_zones(str(boards / board / "sys")))

    assert by_series == {"temperature_{}_c".format(zone): celsius for zone, celsius in expected.items()}


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("CPU-therm", "cpu"),
        ("cpu-thermal", "cpu"),
        ("CPU", "cpu"),
        ("thermal-fan-est", "thermal"),
        ("thermal", "thermal"),
        ("Tboard_tegra", "tboard"),
        ("PMIC-Die", "pmic"),
        ("x86_pkg_temp", "x86_pkg_temp"),
        ("iwlwifi 1", "iwlwifi_1"),
        ("℃", "zone"),
    ],
)
def test_zone_name(label, name):
    """The labels of kernels and tegrastats give the same name for the same zone."""
    assert zone_name(label) == name


def test_below_zero(board_copy, sampled):
    """A temperature below zero is a value."""
    board = board_copy("x86")
    (board / "sys/class/thermal/thermal_zone2/temp").write_text("-12500\n")

    assert sampled(thermal_zones(str(board / "sys")))["temperature_x86_pkg_temp_c"] == -12.5


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EINVAL])
def test_zone_without_power(boards, monkeypatch, number):
    """A zone that the kernel cannot read, because its part has no power, has no temperature."""
    zone = thermal_zones(str(boards / "orin-nano-r36.3/sys"))[0]

    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "pread", refuse)

    assert zone.sample() is None


def test_broken(board_copy):
    """A zone with an empty file is a SensorError."""
    board = board_copy("x86")
    (board / "sys/class/thermal/thermal_zone0/temp").write_text("")

    with pytest.raises(SensorError, match="thermal_zone0/temp: '' is not a whole number"):
        thermal_zones(str(board / "sys"))[0].sample()
