"""`efficientquant devices`."""

import json

import pytest
from efficientquant_controller.cli.fleet.devices import duration
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
    """The table has the state, board, runtimes and system of each device."""
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


def shown(command, control, *devices: pb.Device) -> str:
    """Return the table as one line, in which folded cells are whole."""
    control.devices = list(devices)
    return " ".join(command("devices").out.split())


@pytest.mark.parametrize(
    ("gpu", "text"),
    [
        (pb.Gpu(name="Tegra X1", compute_capability=53, fp16=True), "Tegra X1 (SM 5.3 FP16)"),
        (pb.Gpu(name="Xavier", compute_capability=72, fp16=True, int8=True), "Xavier (SM 7.2 FP16 INT8)"),
        (
            pb.Gpu(name="RTX 3080", compute_capability=86, fp16=True, int8=True, tf32=True),
            "RTX 3080 (SM 8.6 FP16 INT8 TF32)",
        ),
        (pb.Gpu(name="RTX 5090", compute_capability=120, fp16=True), "RTX 5090 (SM 12.0 FP16)"),
        (pb.Gpu(name="old one"), "old one (unknown SM)"),
    ],
)
def test_gpu_says_what_it_computes(command, control, gpu, text):
    """A GPU is shown with its SM and its arithmetic types."""
    device = nano(snapshot=pb.DeviceSnapshot(backends=[pb.Backend(name="trt", version="8.2.1")], gpus=[gpu]))

    assert f"trt 8.2.1, {text}" in shown(command, control, device)


def test_the_cpu_says_what_it_computes_in_integers(command, control):
    """A CPU's dot products stand behind the runtimes, in the table and in JSON."""
    device = nano()
    device.snapshot.cpu_dot_products.extend(["vnni", "amx"])

    assert "ort-cpu 1.10.0, CPU with VNNI/AMX" in shown(command, control, device)
    (row,) = json.loads(command("devices", "--json").out)
    assert row["snapshot"]["cpu_dot_products"] == ["vnni", "amx"]


def test_jetpack_and_mode_stand_with_the_system(command, control):
    """A Jetson shows its L4T and JetPack release and its power mode."""
    device = nano()
    device.snapshot.jetpack, device.snapshot.power_mode = "4.6.4", "MAXN"

    assert "L4T R32.7.4 (JetPack 4.6.4), mode MAXN, Ubuntu 18.04, aarch64" in shown(command, control, device)


def test_no_jetpack_without_l4t(command, control):
    """Missing facts of a device are left out."""
    out = shown(command, control, nano(snapshot=pb.DeviceSnapshot(os="Debian 12", architecture="x86_64")))

    assert "Debian 12, x86_64" in out
    assert not any(word in out for word in ("L4T", "JetPack", "mode ", "SM "))


def test_offline_device_says_since_when(command, control, now_s):
    """An offline device shows for how long."""
    control.devices = [nano(state="offline", last_seen_unix_s=now_s - 185)]

    assert "offline for 3 min" in command("devices").out


@pytest.mark.parametrize("off_s", [-7200.0, 7200.0])
def test_ages_are_by_the_controllers_clock(command, control, now_s, off_s):
    """The age is by the controller's clock, even if the client's is two hours off."""
    control.devices = [nano(state="offline", last_seen_unix_s=now_s + off_s - 185)]
    control.now_unix_s = now_s + off_s

    assert "offline for 3 min" in command("devices").out


def test_device_without_runtime(command, control):
    """A device without a runtime says so."""
    control.devices = [pb.Device(name="bare", state="idle")]

    out = command("devices").out

    assert "nothing: see 'efficientquant-agent doctor'" in out
    assert "unknown board" in out


def test_no_device(command, control):
    """Without a device the command says how to connect one."""
    outcome = command("devices")

    assert outcome.exit_code == 0
    assert f"efficientquant-agent --controller {control.address} --name NAME" in outcome.out


def test_json_is_the_record(command, control):
    """--json prints the whole record of each device."""
    control.devices = [nano(last_seen_unix_s=12.5, agent_version="0.1.0")]
    snapshot = control.devices[0].snapshot
    snapshot.jetpack, snapshot.clock_control = "4.6.4", "helper"
    snapshot.gpus.append(pb.Gpu(name="Tegra X1", compute_capability=53, integrated=True, fp16=True))

    (device,) = json.loads(command("devices", "--json").out)

    assert (device["name"], device["state"], device["last_seen_unix_s"]) == ("nano-1", "idle", 12.5)
    assert device["snapshot"]["memory_total_bytes"] == 4 << 30
    assert device["snapshot"]["library_versions"] == {"python": "3.6.9"}
    assert (device["snapshot"]["jetpack"], device["snapshot"]["clock_control"]) == ("4.6.4", "helper")
    (gpu,) = device["snapshot"]["gpus"]
    assert (gpu["name"], gpu["compute_capability"], gpu["memory_total_bytes"]) == ("Tegra X1", 53, None)
    (backend,) = device["snapshot"]["backends"]
    assert (backend["name"], backend["providers"]) == ("ort-cpu", ["CPUExecutionProvider"])
    assert (backend["form"], backend["opset"], backend["options"]) == ("", 0, [])


def test_forget(command, control):
    """--forget asks the controller to free the name, and says that results stay."""
    outcome = command("devices", "--forget", "nano-1")

    assert control.requests == [pb.ForgetDeviceRequest(name="nano-1")]
    assert outcome.out == "forgot nano-1; its results stay, and its name is free\n"


@pytest.mark.parametrize(
    ("seconds", "text"), [(-3, "0 s"), (59.9, "59 s"), (60, "1 min"), (7199, "1 h"), (3 * 86400, "3 d")]
)
def test_duration(seconds, text):
    """A duration is shown in its largest whole unit."""
    assert duration(seconds) == text


def test_trouble_is_said(command, control):
    """The list says why the controller takes no campaign, and why a device takes no run."""
    control.problem = "the database is full"
    control.devices = [nano(problem="the disk is full")]

    answer = command("devices")

    assert answer.err == "the controller takes no new campaign: the database is full\n"
    assert "nano-1 takes no new run: the disk is full\n" in answer.out


@pytest.mark.parametrize(
    ("offset_s", "sentence"),
    [
        (-7300.0, "nano-1's clock is 2 h behind the controller's, and so are the times of its runs"),
        (2.0, "nano-1's clock is 2 s ahead of the controller's, and so are the times of its runs"),
        (1.9, ""),
        (None, ""),
    ],
)
def test_a_wrong_clock_is_said(command, control, offset_s, sentence):
    """The list names a device whose clock is two seconds off, with the fix."""
    control.devices = [nano(clock_offset_s=offset_s)]

    out = command("devices").out

    assert f"{sentence}; set the wrong one: sudo timedatectl set-ntp true\n" in out if sentence else "clock" not in out
    assert json.loads(command("devices", "--json").out)[0]["clock_offset_s"] == offset_s


def test_a_broken_runtime_is_said(command, control):
    """The list says why an installed runtime does not work on a device."""
    sentence = "backend 'trt' does not work here: TensorRT 10.3 is installed, but no GPU answers"
    control.devices = [nano(broken_backends=[sentence])]

    assert f"nano-1: {sentence}\n" in command("devices").out
    assert json.loads(command("devices", "--json").out)[0]["broken_backends"] == [sentence]
