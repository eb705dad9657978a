"""What a board is, read from captured trees."""

from pathlib import Path

import pytest
from efficientquant_agent.device import Probe

NANO = {
    "proc/device-tree/serial-number": "1422919082257\x00",
    "proc/device-tree/model": "NVIDIA Jetson Nano Developer Kit\x00",
    "proc/sys/kernel/osrelease": "4.9.337-tegra\n",
    "proc/cpuinfo": "processor\t: 0\nmodel name\t: ARMv8 Processor rev 1 (v8l)\nprocessor\t: 1\n",
    "proc/meminfo": "MemTotal:        4059220 kB\nSwapTotal:             0 kB\n",
    "etc/nv_tegra_release": "# R32 (release), REVISION: 7.4, GCID: 33514132, BOARD: t210ref, EABI: aarch64\n",
    "etc/os-release": 'NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 18.04.6 LTS"\n',
    "etc/machine-id": "0123456789abcdef\n",
}


@pytest.fixture
def probe_of(tmp_path):
    """Return a probe of a tree that holds these files and nothing else."""

    def build(files):
        for name, content in files.items():
            path = Path(str(tmp_path), name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        return Probe(proc=str(tmp_path / "proc"), sys=str(tmp_path / "sys"), etc=str(tmp_path / "etc"))

    return build


def test_jetson(probe_of):
    """A Jetson is known by its serial number, its model and its L4T release."""
    device = probe_of(NANO).snapshot({}, [])

    assert device.board_id == "1422919082257"
    assert device.board == "NVIDIA Jetson Nano Developer Kit"
    assert (device.l4t, device.os, device.kernel) == ("R32.7.4", "Ubuntu 18.04.6 LTS", "4.9.337-tegra")
    assert (device.cpu_model, device.cpu_count) == ("ARMv8 Processor rev 1 (v8l)", 2)
    assert (device.memory_total_bytes, device.swap_total_bytes) == (4059220 * 1024, 0)


def test_board_without_a_serial_number(probe_of):
    """A machine without a serial number is known by its machine id."""
    assert probe_of({"etc/machine-id": "0123456789abcdef\n"}).board_id() == "0123456789abcdef"


def test_nothing_to_be_found(probe_of, monkeypatch):
    """What a probe does not find stays absent: None and empty, never zero and never a guess."""
    monkeypatch.setattr("socket.gethostname", lambda: "bench-1")

    device = probe_of({}).snapshot({}, [])

    assert device.board_id == "host:bench-1"
    assert (device.memory_total_bytes, device.swap_total_bytes) == (None, None)
    assert (device.l4t, device.board, device.cpu_model, device.os) == ("", "", "", "")
