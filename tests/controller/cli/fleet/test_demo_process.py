"""`efficientquant demo` as a process that leaves nothing running."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest


def running_with(text: str) -> list[str]:
    """Return the command lines of all processes that contain `text`."""
    command_lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace")
        except OSError:  # it has ended meanwhile
            continue
        if text in words:
            command_lines.append(words.replace("\0", " "))
    return command_lines


@pytest.fixture
def demo(tmp_path):
    """Start a demo and wait until its campaign is submitted."""
    process = subprocess.Popen(
        [sys.executable, "-m", "efficientquant_controller.cli", "demo", "--db", str(tmp_path / "results.db")],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        text=True,
    )
    said = []
    for line in process.stderr:
        said.append(line)
        if "waits for the artifacts" in line:
            break
    yield process
    process.kill()
    process.wait()
    process.stderr.close()
    assert "random weights instead" in "".join(said)


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_leaves_nothing_running(demo, tmp_path, number, exit_code):
    """Ctrl-C and SIGTERM end the demo with all its processes."""
    before = running_with(str(tmp_path))

    demo.send_signal(number)

    assert demo.wait(30) == exit_code
    assert len(before) >= 4  # the demo itself, the controller, two agents
    assert running_with(str(tmp_path)) == []
