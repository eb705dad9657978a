"""The root helper: fixed verbs, strict arguments, one JSON object, three exit codes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from efficientquant_agent.host import clock_helper
from nano_board import GPU


@pytest.fixture
def ask(board, capsys):
    """Return a function that serves one request in this process and returns (exit code, answer)."""

    def serve(*request, **paths):
        code = clock_helper.main(list(request), board.paths._replace(**paths))
        return code, json.loads(capsys.readouterr().out)

    return serve


def test_status(ask):
    """The status names the power mode, all modes, and each clock with its bounds in Hz."""
    code, answer = ask("status")

    cpu = {"current_hz": 102000000, "min_hz": 102000000, "max_hz": 1479000000}
    assert code == 0
    assert answer == {
        "ok": True,
        "power_mode": [0, "MAXN"],
        "power_modes": {"0": "MAXN", "1": "5W"},
        "jetson_clocks": True,
        "stored": False,
        "domains": {
            "gpu": {"current_hz": 76800000, "min_hz": 76800000, "max_hz": 921600000},
            "emc": {"current_hz": 204000000, "min_hz": 40800000, "max_hz": 1600000000},
            "cpu0": cpu,
            "cpu1": cpu,
        },
    }


def test_mode_from_the_status_file(ask, board):
    """Where nvpmodel refuses to answer, the mode comes from what it keeps for the next boot."""
    board.write("deny-query")
    board.write("status", "pmode:0001 fmode:quiet")

    assert ask("status")[1]["power_mode"] == [1, "5W"]


def test_mode_among_error_lines(board):
    """The mode that R35's nvpmodel prints counts, although it then complains about a file."""
    (board.root / "nvpmodel").write_text(
        "#!/bin/sh\necho 'NV Power Mode: MODE_15W_6CORE\n2\nNVPM ERROR: x : 13'; exit 3\n"
    )

    assert clock_helper.read_power_mode(board.paths) == (2, "MODE_15W_6CORE")


def test_memory_clock_from_tegra186_on(board):
    """From Tegra 186 on the memory's clock is in another place, and the power mode may cap it."""
    for name, value in (("rate", 2133000000), ("min_rate", 204000000), ("max_rate", 2133000000)):
        board.write("sys/kernel/debug/bpmp/debug/clk/emc/" + name, value)
    board.write("sys/kernel/nvpmodel_emc_cap/emc_iso_cap", 1333000000)

    emc = clock_helper.read_domains(board.paths.sys)["emc"]

    assert emc == {"current_hz": 2133000000, "min_hz": 204000000, "max_hz": 1333000000}


def test_any_machine(tmp_path, ask):
    """A machine without tools and clocks has no power mode and no clocks, which is not an error."""
    nowhere = str(tmp_path / "nowhere")
    paths = dict.fromkeys(("nvpmodel", "jetson_clocks", "sys", "nvpmodel_conf", "nvpmodel_status"), nowhere)

    code, answer = ask("status", **paths)

    assert (code, answer["power_mode"], answer["domains"], answer["jetson_clocks"]) == (0, None, {}, False)


@pytest.mark.parametrize(
    "request_",
    [
        [],
        [""],
        ["reboot"],
        ["status", "now"],
        ["lock", "/etc/passwd"],
        ["restore", "../../etc/passwd"],
        ["set-power-mode"],
        ["set-power-mode", ""],
        ["set-power-mode", "-1"],
        ["set-power-mode", "1\n"],
        ["set-power-mode", "1; reboot"],
        ["set-power-mode", "١"],
        ["set-power-mode", "100"],
        ["set-power-mode", "1", "2"],
        ["nvml-lock", "1500,1400", GPU],
        ["nvml-lock", "1500", GPU],
        ["nvml-lock", "1500,1500"],
        ["nvml-lock", "1500,1500", GPU + "0"],
        ["nvml-reset", "0"],
        ["nvml-status", "GPU-*"],
        ["--help"],
    ],
)
def test_garbage_is_refused(request_, ask, board):
    """Anything but a verb with its exact arguments is refused with exit code 2 and changes nothing."""
    before = board.condition()

    code, answer = ask(*request_)

    assert (code, answer["ok"], board.calls(), board.condition()) == (2, False, [], before)


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        (["statu"], "'statu' is no verb; did you mean status? there is status, set-power-mode, lock"),
        (["--status"], "'--status' is no verb; did you mean status?"),
        ([], "'' is no verb; there is status"),
        (["set-power-mode", "MAXN"], "set-power-mode takes N, a mode's number from 0 to 99, not 'MAXN'"),
        (["lock", "now"], "lock takes no arguments, not 'now'"),
    ],
)
def test_what_was_meant(request_, sentence, board, capsys):
    """A refusal says what was asked and what exists, as JSON and as one line for a person."""
    assert clock_helper.main(request_, board.paths) == 2

    printed = capsys.readouterr()
    assert json.loads(printed.out)["error"].startswith(sentence)
    assert printed.err.startswith("efficientquant-clocks: " + sentence)
    assert printed.err.count("\n") == 1


def test_root_only(ask, board, monkeypatch):
    """A user who is not root can read everything and change nothing."""
    monkeypatch.setattr("os.geteuid", lambda: 1000)

    assert ask("status", needs_root=True)[0] == 0
    for request in (["lock"], ["restore"], ["set-power-mode", "1"], ["nvml-reset", GPU]):
        code, answer = ask(*request, needs_root=True)
        assert (code, answer["error"]) == (2, "{} needs root; run it through sudo".format(request[0]))
    assert board.calls() == []


@pytest.mark.parametrize("spoil", ["mode", "link"])
def test_state_directory_of_others(spoil, ask, board):
    """A state directory that others can write to is refused, since root writes its content to /sys."""
    (board.root / "other").mkdir()
    if spoil == "link":
        (board.root / "root-state").symlink_to(board.root / "other")
    else:
        (board.root / "root-state").mkdir()
        (board.root / "root-state").chmod(0o777)

    code, answer = ask("lock")

    assert (code, board.calls()) == (2, [])
    assert "only its owner can write" in answer["error"]


def test_lock_and_restore(ask, board):
    """Lock stores before it locks, once, and restore brings the stored state back, once."""
    before = board.condition()

    assert [ask("lock")[0], ask("lock")[0]] == [0, 0]
    assert board.read("sys/kernel/debug/clk/override.emc/clk_rate") == 1600000000
    assert ask("restore")[1] == {"ok": True, "restored": True, "complaints": []}
    assert ask("restore")[1] == {"ok": True, "restored": False}

    assert board.calls() == ["jetson_clocks --store", "jetson_clocks", "jetson_clocks", "jetson_clocks --restore"]
    assert board.condition() == before


def test_half_a_store_is_not_used(ask, board):
    """A store that a killed helper left unfinished is dropped."""
    (board.root / "root-state").mkdir(mode=0o700)
    board.write("root-state/stored.conf.new", "/nonsense:1")

    assert ask("lock")[0] == 0

    assert "nonsense" not in (board.root / "root-state/stored.conf").read_text()


def test_power_mode(ask, board):
    """A power mode is not set again, since nvpmodel may then demand a reboot."""
    assert ask("set-power-mode", "1")[1] == {"ok": True, "changed": True}
    assert ask("set-power-mode", "1")[1] == {"ok": True, "changed": False}

    assert (board.read("mode"), board.calls()) == (1, ["nvpmodel -m 1"])


def test_power_mode_that_does_not_exist(ask, board):
    """A power mode that nvpmodel.conf lacks is named, with those that it has."""
    code, answer = ask("set-power-mode", "7")

    assert (code, board.calls()) == (1, [])
    assert answer["error"] == "there is no power mode 7 (there is: 0 MAXN, 1 5W)"


def test_power_mode_behind_a_reboot(ask, board):
    """A reboot that nvpmodel asks for is not confirmed, and the error says what to do."""
    board.write("needs-reboot")

    code, answer = ask("set-power-mode", "1")

    assert (code, board.read("mode")) == (1, 0)
    assert answer["error"] == "power mode 1 takes a reboot: run `sudo nvpmodel -m 1` by hand, then try again"


def test_power_mode_that_is_not_taken(ask, board, monkeypatch):
    """A power mode counts as set only when nvpmodel reports it."""
    monkeypatch.setattr(clock_helper, "_MODE_TIMEOUT_S", 0.0)
    monkeypatch.setattr(clock_helper, "_MODE_POLL_S", 0.0)
    board.write("stuck-mode")

    code, answer = ask("set-power-mode", "1")

    assert (code, answer["error"]) == (1, "nvpmodel was asked for mode 1 and stays in 0")


def test_missing_and_failing_tools(ask, board):
    """A tool that is missing or fails is exit code 1 with its name."""
    (board.root / "jetson_clocks").write_text("#!/bin/sh\necho 'Error: Unknown GPU Type!'; exit 1\n")
    assert ask("lock")[0] == 1
    code, answer = ask("lock")
    assert (code, "failed with code 1: Error: Unknown GPU Type!" in answer["error"]) == (1, True)

    board.remove("jetson_clocks")
    code, answer = ask("lock")
    assert (code, answer["error"]) == (1, "{} is not installed".format(board.paths.jetson_clocks))


def test_caller_that_died(board):
    """A helper whose caller has exited changes nothing, but still restores."""
    reader, writer = os.pipe()
    os.close(writer)

    codes = [
        subprocess.call(board.helper + request, stdin=reader, stdout=subprocess.DEVNULL)
        for request in (["lock"], ["set-power-mode", "1"], ["restore"])
    ]

    os.close(reader)
    assert (codes, board.calls()) == ([2, 2, 0], [])


def test_it_runs_alone():
    """The helper runs isolated, without the agent's package or anything but the standard library."""
    done = subprocess.run([sys.executable, "-I", clock_helper.__file__, "reboot"], stdout=subprocess.PIPE)

    assert (done.returncode, json.loads(done.stdout.decode())["ok"]) == (2, False)


@pytest.mark.usefixtures("c_compiler")
def test_nvml_through_ctypes(tmp_path):
    """NVML is called with the arguments of nvml.h, and its errors become sentences."""
    source = Path(__file__).with_name("nvml_stub.c")
    library = str(tmp_path / "libnvidia-ml.so.1")
    subprocess.check_call(["cc", "-shared", "-fPIC", "-Wall", "-Werror", "-o", library, str(source)])
    nvml = clock_helper.Nvml(library)

    assert nvml.clocks_hz(GPU) == {"current_hz": 210000000, "max_hz": 2100000000}
    nvml.lock(GPU, 1410, 1470)
    assert nvml.clocks_hz(GPU)["current_hz"] == 1470000000
    nvml.reset(GPU)
    assert nvml.clocks_hz(GPU)["current_hz"] == 210000000
    with pytest.raises(clock_helper.ToolError, match="nvmlDeviceSetGpuLockedClocks: Insufficient Permissions"):
        nvml.lock(GPU, 1, 1)
    nvml.lock(GPU, 1470, 1470)
    clock_helper.Nvml(library).close()  # another user of the library in this process
    assert nvml.clocks_hz(GPU)["current_hz"] == 1470000000
    nvml.close()
    assert clock_helper.Nvml(library).clocks_hz(GPU)["current_hz"] == 210000000


def test_machine_without_nvml(ask, tmp_path):
    """Without NVIDIA's driver the answer is a sentence, not a traceback."""
    code, answer = ask("nvml-status", GPU, nvml=lambda: clock_helper.Nvml(str(tmp_path / "libnvidia-ml.so.1")))

    assert (code, answer["error"][:22]) == (1, "NVML cannot be loaded:")
