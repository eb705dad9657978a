"""The child's memory in nvmap."""

import pytest
from efficientquant_agent.errors import SensorError
from efficientquant_agent.samplers.nvmap import NvmapProcess

CLIENTS = "sys/kernel/debug/nvmap/iovmm/clients"


def test_sum_of_a_process(boards):
    """A process with two entries holds their sum, which is listed in kilobytes."""
    assert NvmapProcess(4242, str(boards / "nano-r32.7.4/sys")).sample() == (118372 + 628) * 1024


def test_not_listed(boards):
    """A process that is not listed has no value, because a container's list has other pids."""
    assert NvmapProcess(1, str(boards / "nano-r32.7.4/sys")).sample() is None


def test_no_nvmap(boards):
    """A board without nvmap has no value."""
    assert NvmapProcess(4242, str(boards / "x86/sys")).sample() is None


@pytest.mark.parametrize(("size", "expected"), [("0K", 0.0), ("3M", 3 * 2**20), ("1G", 2.0**30), ("512", 512.0)])
def test_units(board_copy, size, expected):
    """Every unit of a size is parsed, also after a name with spaces and numbers, and 0 is a size."""
    board = board_copy("nano-r32.7.4")
    (board / CLIENTS).write_text(
        "CLIENT PROCESS PID SIZE\nuser   my app 7   4242   {}\ntotal   {}\n".format(size, size)
    )

    assert NvmapProcess(4242, str(board / "sys")).sample() == expected


def test_another_list(board_copy):
    """A file that is no list of clients is a SensorError."""
    board = board_copy("nano-r32.7.4")
    (board / CLIENTS).write_text("out of order\n")

    with pytest.raises(SensorError, match="iovmm/clients: the list of clients has lost its heading"):
        NvmapProcess(4242, str(board / "sys")).sample()
