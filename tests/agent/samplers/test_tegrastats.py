"""The parser of tegrastats' lines, with exact values and incomplete fields absent."""

import pytest
from efficientquant_agent.errors import SensorError, TegrastatsError
from efficientquant_agent.samplers.tegrastats import MAX_LINE, parse_line, values
from tegrastats_lines import LINES, MB, sample


@pytest.mark.parametrize("name", LINES)
def test_line(name):
    """Exactly the fields of a line are found, by their names and with exact values."""
    line, expected = LINES[name]

    assert parse_line(line) == expected
    assert parse_line(line + "\r\n") == expected


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("", "not a line of tegrastats: ''"),
        ("tegrastats: cannot open /dev/x", "not a line of tegrastats"),
        ("RAM 19", "not a line of tegrastats: 'RAM 19'"),
        ("ERROR 12/13 GPU@40C", "not a line of tegrastats"),
        ("RAM 1923/3964MB CPU [5%@12RAM 1923/3964MB RAM 1924/3964MB", "two lines in one"),
        ("RAM ٣/٤MB", "not a line of tegrastats"),
        ("RAM 12345678901234567890/3964MB", "not a line of tegrastats"),
        ("RAM 1923/3964MB " + "GPU@40C " * 600, "a line of 4816 characters"),
        ("\x00\xff\ud800", "not a line of tegrastats"),
    ],
)
def test_garbage(line, reason):
    """A line that cannot be trusted raises TegrastatsError, which shows its beginning."""
    with pytest.raises(TegrastatsError) as caught:
        parse_line(line)

    assert caught.value.reason.startswith(reason)
    assert caught.value.line == line[:80]
    assert isinstance(caught.value, SensorError)


def test_the_longest_line():
    """A line of exactly the maximum length is parsed."""
    assert parse_line("RAM 7/8MB".ljust(MAX_LINE)) == sample(7, 8)


def test_values_of_a_nano():
    """A sample becomes values by series, in SI units."""
    line, _ = LINES["R32 Nano, root"]

    assert values(parse_line(line)) == {
        "board_used_bytes": 1931.0 * MB,
        "swap_used_bytes": 191.0 * MB,
        "load_cpu0": 0.05,
        "clock_cpu0_hz": 1.224e9,
        "load_cpu1": 0.04,
        "clock_cpu1_hz": 1.224e9,
        "load_cpu2": 0.03,
        "clock_cpu2_hz": 1.224e9,
        "load_cpu3": 0.06,
        "clock_cpu3_hz": 1.224e9,
        "load_gpu": 0.41,
        "clock_gpu_hz": 7.6e7,
        "load_emc": 0.02,
        "clock_emc_hz": 1.6e9,
        "temperature_pll_c": 37.0,
        "temperature_cpu_c": 40.0,
        "temperature_gpu_c": 40.5,
        "temperature_ao_c": 45.0,
        "temperature_thermal_c": 40.0,
        "power_pom_5v_in_w": 1.75,
        "power_pom_5v_gpu_w": 0.0,
        "power_pom_5v_cpu_w": 0.366,
    }


def test_values_leave_out_missing_fields():
    """Cores that are off and readings for root only give no values."""
    line, _ = LINES["R32 Nano in its 5 W mode, not root: two cores off, no clocks of EMC and GPU, no rails"]

    by_series = values(parse_line(line))

    assert {"load_cpu1", "clock_cpu1_hz"} <= set(by_series)
    assert not {"load_cpu2", "clock_cpu2_hz", "clock_gpu_hz", "clock_emc_hz", "load_emc"} & set(by_series)
    assert not [name for name in by_series if name.startswith("power")]


def test_an_idle_memory_controller_with_a_clock_is_idle():
    """With a clock, as root sees it, 0 % is a value."""
    (line,) = [line for line, _ in LINES.values() if "EMC_FREQ 0%@2133" in line]

    assert values(parse_line(line))["load_emc"] == 0.0


def test_values_of_a_gpu_in_clusters():
    """The clock of a GPU with clusters is that of the fastest cluster."""
    line, _ = LINES["R36 AGX Orin, root: engines off, at work, and one cluster of the GPU without power"]

    assert values(parse_line(line))["clock_gpu_hz"] == 1.3e9
