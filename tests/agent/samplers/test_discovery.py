"""Discovery of samplers by the cheapest source, with notes about broken ones."""

import os
import sys

import pytest
from efficientquant_agent.errors import SensorError
from efficientquant_agent.samplers import board_samplers, child_samplers, discover


@pytest.fixture(autouse=True)
def no_gpu_of_this_machine(monkeypatch):
    """Hide this machine's GPU, which is not the board's."""
    monkeypatch.setitem(sys.modules, "pynvml", None)


@pytest.fixture
def discovered(boards):
    """Discover a board, and close everything after the test."""
    discoveries = []

    def find(board, **options):
        root = boards / board
        discoveries.append(discover(str(root / "proc"), str(root / "sys"), **options))
        return discoveries[-1]

    yield find
    for discovery in discoveries:
        for sampler in discovery.samplers:
            sampler.close()
        if discovery.stream:
            discovery.stream.close()


def names(samplers):
    return sorted(sampler.name for sampler in samplers)


NANO = [
    "board_available_bytes",
    "board_used_bytes",
    "child_pss_bytes",
    "clock_cpu0_hz",
    "clock_cpu1_hz",
    "clock_cpu2_hz",
    "clock_cpu3_hz",
    "clock_emc_hz",
    "clock_gpu_hz",
    "load_gpu",
    "nvmap_process_bytes",
    "power_pom_5v_cpu_w",
    "power_pom_5v_gpu_w",
    "power_pom_5v_in_w",
    "swap_used_bytes",
    "temperature_ao_c",
    "temperature_cpu_c",
    "temperature_gpu_c",
    "temperature_pll_c",
    "temperature_thermal_c",
]
OF_THE_CHILD = ["child_pss_bytes", "nvmap_process_bytes"]


def test_nano(discovered):
    """On a Nano with its rails in sysfs, tegrastats is not started."""
    discovery = discovered("nano-r32.7.4", tegrastats_path="/nowhere/tegrastats")

    assert names(discovery.samplers) == [name for name in NANO if name not in OF_THE_CHILD]
    assert (discovery.stream, discovery.gpu, discovery.rail_set, discovery.notes) == (None, None, "POM_5V_IN", [])


@pytest.mark.parametrize(
    ("board", "rail_set"),
    [("agx-xavier-r35.4.1", "GPU+CPU+SOC+CV+VDDRQ+SYS5V"), ("orin-nano-r36.3", "VDD_IN")],
)
def test_rail_set(discovered, board, rail_set):
    """The rails that make a board's total are named."""
    assert discovered(board).rail_set == rail_set


def test_board_and_child_apart(boards):
    """The samplers of the board exist before a child does, and both together are all samplers."""
    roots = str(boards / "nano-r32.7.4/proc"), str(boards / "nano-r32.7.4/sys")

    board, child = board_samplers(*roots), child_samplers(4242, *roots)

    assert sorted(names(board) + names(child)) == NANO
    assert names(child) == OF_THE_CHILD
    assert {sampler.name: sampler.sample() for sampler in child}["child_pss_bytes"] == 80216 * 1024
    for sampler in board + child:
        sampler.close()


def test_files_stay_open(boards, monkeypatch):
    """After the first tick no file is opened again."""
    roots = str(boards / "nano-r32.7.4/proc"), str(boards / "nano-r32.7.4/sys")
    samplers = board_samplers(*roots) + child_samplers(4242, *roots)
    opened, first = [], [sampler.sample() for sampler in samplers]
    really_open = os.open

    def counted(path, *arguments):
        opened.append(path)
        return really_open(path, *arguments)

    monkeypatch.setattr(os, "open", counted)

    assert [sampler.sample() for sampler in samplers] == first
    assert opened == []
    for sampler in samplers:
        sampler.close()


def test_tegrastats_where_there_are_no_rails(discovered, boards):
    """Without rails in sysfs tegrastats is started, adds the missing series and names the rails."""
    discovery = discovered("x86", tegrastats_path=str(boards / "tegrastats_replay"), interval_s=0.001)

    (_, values), *_ = discovery.stream.read()
    assert discovery.rail_set == "POM_5V_IN"
    assert values["power_pom_5v_in_w"] == 3.82
    assert "temperature_gpu_c" in values
    assert not set(values) & set(names(discovery.samplers))
    assert discovery.notes == []


def test_tegrastats_that_ends(discovered, boards, monkeypatch):
    """A tegrastats that exits without output is a note, and discovery continues without it."""
    monkeypatch.setenv("TEGRASTATS_DIE_AFTER", "0")

    discovery = discovered("x86", tegrastats_path=str(boards / "tegrastats_replay"))

    assert (discovery.stream, discovery.rail_set) == (None, "")
    assert discovery.notes[0].endswith("tegrastats_replay: ended with code 0")
    assert "board_used_bytes" in names(discovery.samplers)


@pytest.mark.parametrize(("board", "ticks"), [("nano-r32.7.4", 10), ("x86", 4)])
def test_memory_is_read_less_often_without_power(discovered, board, ticks):
    """Without a sampled power the board's memory is read at every third of ten ticks a second."""
    samplers = [sampler for sampler in discovered(board).samplers if sampler.name.startswith("board_")]

    assert len(samplers) == 2
    for sampler in samplers:
        assert sum(sampler.due(100.0 + tick / 10) for tick in range(10)) == ticks


def test_no_power_at_all(discovered):
    """A board without any source of power has no total and a note about it."""
    discovery = discovered("x86")

    assert discovery.rail_set == ""
    assert discovery.notes == [
        "no power: no rail of an INA3221 and no tegrastats here, and no NVML, which is for runs on a GPU"
    ]


def test_broken_label(board_copy):
    """A label that cannot be read loses only its own kind of sampler."""
    board = board_copy("nano-r32.7.4")
    label = board / "sys/bus/i2c/devices/6-0040/iio:device0/rail_name_0"
    label.unlink()
    label.mkdir()

    discovery = discover(str(board / "proc"), str(board / "sys"))

    assert discovery.notes[0].endswith("rail_name_0: is a directory")
    assert "temperature_gpu_c" in names(discovery.samplers)
    with pytest.raises(SensorError, match="rail_name_0: is a directory"):
        board_samplers(str(board / "proc"), str(board / "sys"))


def test_jtop_that_is_missing(discovered, monkeypatch):
    """A missing jetson-stats is a note, only when jtop was requested."""
    monkeypatch.setitem(sys.modules, "jtop", None)

    assert "jtop: jetson-stats is not installed" in discovered("orin-nano-r36.3", with_jtop=True).notes
    assert discovered("orin-nano-r36.3").notes == []
