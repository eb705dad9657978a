"""The demo's processes: their start, their watch and their end."""

import os
import select
import textwrap

import pytest
from efficientquant_controller.cli.fleet.demo_fleet import DemoFleet, DemoProcess, report_death
from efficientquant_controller.errors import UserError


@pytest.fixture
def launch(tmp_path, monkeypatch):
    """Return a function that starts Python text as a process of the demo."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    started = []

    def start(text: str) -> DemoProcess:
        (tmp_path / "scripted.py").write_text(textwrap.dedent(text))
        started.append(DemoProcess("bench-1", "scripted", ["--name", "bench-1"], tmp_path))
        return started[-1]

    yield start
    for process in started:
        process.stop()


def test_ready_line(launch):
    """The ready line is read among others, and the text after it is returned."""
    process = launch(
        "import sys; print('hello'); print('ready: listening on 127.0.0.1:5', flush=True); sys.stdin.read()"
    )

    assert process.wait_ready() == "listening on 127.0.0.1:5"


def test_process_that_does_not_start(launch, tmp_path):
    """A process that ends before it is ready is an error with its last line and log."""
    process = launch("import sys; sys.exit('error: the port is taken')")

    with pytest.raises(UserError) as caught:
        process.wait_ready()

    assert str(caught.value) == f"bench-1 did not start: error: the port is taken (log: {tmp_path / 'bench-1.log'})"


CHILD_THAT_STAYS = """
    import signal, subprocess, sys
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    print("ready:", child.pid, flush=True)
    signal.pause()
"""


def test_stop_ends_the_whole_group(launch, monkeypatch):
    """Stopping ends a process that ignores SIGTERM, and its children."""
    monkeypatch.setattr("efficientquant_controller.cli.fleet.demo_fleet.STOP_TIMEOUT_S", 0.1)
    process = launch(CHILD_THAT_STAYS)
    child = int(process.wait_ready())
    death = os.pidfd_open(child)

    process.stop()

    try:
        assert select_one(death)
    finally:
        os.close(death)


def select_one(descriptor: int) -> bool:
    return bool(select.select([descriptor], [], [], 10)[0])


def test_unexpected_end_ends_the_watch(launch, tmp_path):
    """A process that ends unexpectedly ends the watch, with its exit code and log."""
    process = launch("import sys; sys.exit(3)")
    errors: list[Exception] = []

    report_death(process, errors.append)

    assert [str(error) for error in errors] == [
        f"bench-1 ended unexpectedly (exit code 3); its log: {tmp_path / 'bench-1.log'}"
    ]


def test_wanted_end_is_no_error(launch):
    """A process that was stopped is no error."""
    process = launch("import signal; print('ready: x', flush=True); signal.pause()")
    process.wait_ready()
    process.stop()
    errors: list[Exception] = []

    report_death(process, errors.append)

    assert errors == []


def test_stopped_twice(launch):
    """Stopping twice is harmless."""
    process = launch("pass")
    process.stop()

    process.stop()

    assert process.wait() == 0 or process.wait() < 0


def test_folder_that_cannot_be_made(tmp_path):
    """A folder that cannot be made is one sentence, and no process starts."""
    (tmp_path / "file").write_text("")

    with (
        pytest.raises(UserError, match="cannot be made"),
        DemoFleet(tmp_path / "file" / "x", tmp_path / "r.db", ["a"]) as fleet,
    ):
        fleet.start()


def test_agent_missing(tmp_path, monkeypatch):
    """Without the agent's package the demo says what to install, and makes no folder."""
    monkeypatch.setattr("efficientquant_controller.cli.fleet.demo_fleet.find_spec", lambda _: None)

    with (
        pytest.raises(UserError, match=r"install 'efficientquant-agent\[ort\]'"),
        DemoFleet(tmp_path / "x", tmp_path / "r.db", ["a"]) as fleet,
    ):
        fleet.start()

    assert not (tmp_path / "x").exists()
