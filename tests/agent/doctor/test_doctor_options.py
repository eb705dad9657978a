"""The doctor's options: another root, another tegrastats, and what cannot work."""

import json
from pathlib import Path

import pytest
from efficientquant_agent import config
from efficientquant_agent.doctor import command
from efficientquant_agent.errors import UsageError
from efficientquant_agent.host.device import Runtimes
from efficientquant_agent.records import BackendInfo

BOARDS = Path(__file__).parent.parent.parent / "fixtures" / "boards"
ORT = BackendInfo("ort-cpu", "1.10.0", ["CPUExecutionProvider"])


@pytest.fixture
def asked(monkeypatch, capsys, tmp_path):
    """Return a function that asks the doctor for facts as JSON, without looking for runtimes."""
    monkeypatch.setattr(command, "runtimes", lambda: Runtimes({}, [ORT], []))

    def ask(*options):
        assert command.main(["--json", "--state-dir", str(tmp_path)] + [str(option) for option in options], {}) == 0
        return json.loads(capsys.readouterr().out)["facts"]

    return ask


def test_board_root(asked):
    """In a container the doctor looks at the board where the agent does."""
    facts = asked("--board-root", BOARDS / "nano-r32.7.4")

    assert (facts["board"], facts["l4t"]) == ("NVIDIA Jetson Nano Developer Kit", "R32.7.4")


def test_tegrastats(asked, monkeypatch, tmp_path):
    """The doctor finds the tegrastats that the agent would start: the one named, else the one on PATH."""
    replay = BOARDS / "tegrastats_replay"
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/tegrastats").symlink_to(replay)
    root = BOARDS / "nano-r32.7.4"

    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert asked("--board-root", root)["tools"]["tegrastats"] == str(tmp_path / "bin/tegrastats")
    assert asked("--board-root", root, "--tegrastats", replay)["tools"]["tegrastats"] == str(replay)
    monkeypatch.setenv("PATH", "/nowhere")
    assert asked("--board-root", root)["tools"]["tegrastats"] == ""


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--board-root", "/nowhere"], "--board-root /nowhere is not a directory; pass where the board's / is mounted"),
        (["--controller", "10.0.0.1:50051"], "is not on this machine and the wire is not encrypted yet"),
        (["--cache-bytes", "-1GiB"], "is negative"),
        (["--tegrastats", "/nowhere"], "--tegrastats /nowhere does not exist; pass the path of the executable"),
    ],
)
def test_options_that_cannot_work(options, sentence):
    """The doctor refuses what the agent would refuse, in the same words."""
    with pytest.raises(UsageError) as agents:
        config.load(options, {})
    with pytest.raises(UsageError) as doctors:
        command.main(options, {})

    assert str(doctors.value) == str(agents.value)
    assert sentence in str(doctors.value)
