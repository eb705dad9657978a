"""`efficientquant devices`."""

import json

import pytest
from efficientquant_controller.cli.devices import duration
from efficientquant_protos.v1 import fleet_pb2 as pb


def nano(**values) -> pb.Device:
    snapshot = pb.DeviceSnapshot(
        board="Jetson Nano",
        architecture="aarch64",
        os="Ubuntu 18.04",
        cpu_count=4,
        memory_total_bytes=4 << 30,
        l4t="R32.7.4",
        library_versions={"python": "3.6.9"},
        backends=[pb.Backend(name="ort-cpu", version="1.10.0", providers=["CPUExecutionProvider"])],
    )
    return pb.Device(**{"device_id": "d1", "name": "nano-1", "state": "idle", "snapshot": snapshot, **values})


def test_table_says_what_a_device_can_do(command, control):
    """The table shows state, board, runtimes and system of each device."""
    control.devices = [nano()]

    lines = command("devices").out.splitlines()

    assert [line.split() for line in lines if "nano-1" in line] == [
        [
            "nano-1",
            "idle",
            "Jetson",
            "Nano,",
            "4",
            "cores,",
            "4.0",
            "GiB",
            "ort-cpu",
            "1.10.0",
            "L4T",
            "R32.7.4,",
            "Ubuntu",
            "18.04,",
            "aarch64,",
            "Python",
            "3.6.9",
        ]
    ]


def test_offline_device_says_since_when(command, control, now_s):
    """A device that is gone shows for how long."""
    control.devices = [nano(state="offline", last_seen_unix_s=now_s - 185)]

    assert "offline for 3 min" in command("devices").out


def test_device_without_runtime(command, control):
    """A device that can run nothing says so."""
    control.devices = [pb.Device(name="bare", state="idle")]

    out = command("devices").out

    assert "nothing: no runtime found" in out
    assert "unknown board" in out


def test_no_device(command, control):
    """With no device the command says how to connect one."""
    outcome = command("devices")

    assert outcome.exit_code == 0
    assert f"efficientquant-agent --controller {control.address} --name NAME" in outcome.out


def test_json_is_the_record(command, control):
    """--json prints the devices with all they told, and nothing else."""
    control.devices = [nano(last_seen_unix_s=12.5, agent_version="0.1.0")]

    (device,) = json.loads(command("devices", "--json").out)

    assert (device["name"], device["state"], device["last_seen_unix_s"]) == ("nano-1", "idle", 12.5)
    assert device["snapshot"]["memory_total_bytes"] == 4 << 30
    assert device["snapshot"]["library_versions"] == {"python": "3.6.9"}
    assert device["snapshot"]["backends"] == [
        {"name": "ort-cpu", "version": "1.10.0", "providers": ["CPUExecutionProvider"]}
    ]


def test_forget(command, control):
    """--forget asks the controller to free the name, and says that results stay."""
    outcome = command("devices", "--forget", "nano-1")

    assert control.requests == [pb.ForgetDeviceRequest(name="nano-1")]
    assert outcome.out == "forgot nano-1; its results stay, and its name is free\n"


@pytest.mark.parametrize(
    ("seconds", "text"), [(-3, "0 s"), (59.9, "59 s"), (60, "1 min"), (7199, "1 h"), (3 * 86400, "3 d")]
)
def test_duration(seconds, text):
    """A length of time is told in its largest whole unit."""
    assert duration(seconds) == text
