"""Load of the GPU and clocks of GPU, memory and CPU cores."""

import os
import shutil

import pytest
from efficientquant_agent.errors import SensorError
from efficientquant_agent.samplers.devfreq import cpu_clocks, emc_clock, gpu_directory, gpu_samplers


@pytest.mark.parametrize(
    ("board", "load", "hz"),
    [("nano-r32.7.4", 0.873, 921.6e6), ("agx-xavier-r35.4.1", 0.421, 1377e6), ("orin-nano-r36.3", 0.0, 306e6)],
)
def test_gpu(boards, sampled, board, load, hz):
    """Each board's GPU is found among its other engines, and its load is a fraction that may be 0."""
    sys = str(boards / board / "sys")

    assert sampled(gpu_samplers(sys)) == {"load_gpu": load, "clock_gpu_hz": hz}


@pytest.mark.parametrize("name", ["57000000.gpu", "17000000.gp10b", "17000000.gv11b", "17000000.ga10b", "gpu-gpc-0"])
def test_gpu_by_any_name(tmp_path, name):
    """The GPU is found under the name of every generation."""
    for engine in ("154c0000.nvenc", "15340000.vic", "gpu-nvd-0", name):
        (tmp_path / "class/devfreq" / engine).mkdir(parents=True)

    assert gpu_directory(str(tmp_path)) == str(tmp_path / "class/devfreq" / name)


def test_no_gpu(boards):
    """A PC without an integrated GPU has no samplers of its load and clock."""
    assert gpu_samplers(str(boards / "x86/sys")) == []


def test_impossible_load(board_copy):
    """A load beyond 1000 is a SensorError."""
    board = board_copy("nano-r32.7.4")
    (board / "sys/class/devfreq/57000000.gpu/device/load").write_text("1001\n")

    with pytest.raises(SensorError, match="device/load: a load of 1001 is not within 0 and 1000"):
        gpu_samplers(str(board / "sys"))[0].sample()


@pytest.mark.parametrize(("board", "hz"), [("nano-r32.7.4", 1.6e9), ("agx-xavier-r35.4.1", 2.133e9)])
def test_emc(boards, sampled, board, hz):
    """The memory's clock is read from the file of the board's generation."""
    assert sampled([emc_clock(str(boards / board / "sys"))]) == {"clock_emc_hz": hz}


def test_emc_absent(boards):
    """A kernel without a file for the memory's clock has no sampler of it."""
    assert emc_clock(str(boards / "orin-nano-r36.3/sys")) is None


def test_emc_closed(board_copy, closed_to_us):
    """A debugfs that this user may not open is a SensorError, because the clock exists."""
    board = board_copy("agx-xavier-r35.4.1")
    closed_to_us(board / "sys/kernel/debug")

    with pytest.raises(SensorError, match="permission denied"):
        emc_clock(str(board / "sys")).sample()


def test_emc_closed_says_the_system(board_copy, monkeypatch):
    """A stat that the system refuses gives a sampler that raises SensorError, for any user."""
    board = board_copy("agx-xavier-r35.4.1")

    def refuse(path, *_, **__):
        raise PermissionError(13, "Permission denied", path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", refuse)
        clock = emc_clock(str(board / "sys"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with pytest.raises(SensorError, match="clk/emc/rate: permission denied"):
            clock.sample()


def test_cores(boards, sampled):
    """Clocks of cores are in Hz, and a core that is off at the start has none."""
    assert sampled(cpu_clocks(str(boards / "agx-xavier-r35.4.1/sys"))) == {
        "clock_cpu0_hz": 2.2656e9,
        "clock_cpu1_hz": 2.2656e9,
        "clock_cpu2_hz": 1.1904e9,
        "clock_cpu3_hz": 1.1904e9,
    }


def test_core_that_goes_off(board_copy):
    """A core that is switched off during a run has no clock and raises no error."""
    board = board_copy("nano-r32.7.4")
    clocks = cpu_clocks(str(board / "sys"))
    shutil.rmtree(str(board / "sys/devices/system/cpu/cpu3/cpufreq"))

    assert [clock.sample() for clock in clocks] == [1.479e9, 1.479e9, 1.479e9, None]
