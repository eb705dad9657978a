"""The tests of devices without a locale."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BOARDS = Path(__file__).parent.parent / "fixtures" / "boards"
MODEL = "NVIDIA Jetson Nano – Prüfgerät 机"
# The last two make Python 3.7 and later behave as 3.6 does in a C locale.
LOCALES = [
    {"LC_ALL": "C"},
    {"LC_ALL": "POSIX"},
    {"LANG": ""},
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "ascii:strict"},
    {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
]


@pytest.fixture
def board_root(tmp_path):
    """Return the root of a board whose name is not ASCII."""
    root = tmp_path / "Wurzel-ä"
    shutil.copytree(str(BOARDS / "nano-r32.7.4"), str(root))
    model = root / "proc/device-tree/model"
    model.parent.mkdir(parents=True, exist_ok=True)
    model.write_bytes(MODEL.encode() + b"\0")
    serial = root / "proc/device-tree/serial-number"
    serial.write_bytes("Nº-7".encode() + b"\0")
    return root


def run_agent(locale, *arguments):
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHONIO"))
    }
    return subprocess.run(
        [sys.executable, "-m", "efficientquant_agent", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(environment, **locale),
    )


@pytest.mark.parametrize("locale", LOCALES, ids=str)
def test_doctor(locale, board_root, tmp_path):
    """The doctor prints its table in every locale, whatever the board and its folders are called."""
    state = tmp_path / "Zustand-ß"

    done = run_agent(locale, "doctor", "--board-root", str(board_root), "--state-dir", str(state))

    assert (done.returncode, done.stderr) == (0, b"")
    assert b"NVIDIA Jetson Nano" in done.stdout
    assert b"state directory" in done.stdout


@pytest.mark.parametrize("locale", LOCALES, ids=str)
def test_doctor_as_json(locale, board_root, tmp_path):
    """The JSON has the board's own name in every locale."""
    done = run_agent(locale, "doctor", "--json", "--board-root", str(board_root), "--state-dir", str(tmp_path))

    facts = json.loads(done.stdout.decode("ascii"))["facts"]
    assert (facts["board"], facts["board_id"]) == (MODEL, "Nº-7")


@pytest.mark.parametrize("locale", LOCALES[::5], ids=str)
@pytest.mark.parametrize(
    "arguments", [["--name", "Gerät"], ["--controller", "büro:1"], ["--tegrastats", "/ü"], ["--ü"]]
)
def test_refusals(locale, arguments):
    """A refusal quotes the user's words on one line in every locale."""
    done = run_agent(locale, *arguments)

    assert done.returncode == 2
    assert (done.stderr.count(b"\n"), b"Traceback" in done.stderr) == (1, False)


@pytest.mark.parametrize("locale", LOCALES[::5], ids=str)
def test_a_whole_run(locale, controller, start_agent, board_root, tmp_path, tiny_model, monkeypatch):
    """An agent without a locale runs a model below folders with any name, and reports the board's name."""
    for name, value in locale.items():
        monkeypatch.setenv(name, value)
    agent = start_agent(controller.address, "--board-root", str(board_root), state_dir=tmp_path / "Zustand-ß")
    controller.assign("run-1", tiny_model)

    result = controller.reports.get(timeout=60.0)

    assert (result.failure_type, result.device.board, result.device.board_id) == ("", MODEL, "Nº-7")
    agent.wait_for_line("run run-1: succeeded")


@pytest.mark.parametrize("locale", LOCALES[::5], ids=str)
def test_every_help(locale):
    """--help and --version are printed in every locale."""
    for arguments in (["--help"], ["doctor", "--help"], ["--version"]):
        done = run_agent(locale, *arguments)

        assert (done.returncode, done.stderr) == (0, b"")
