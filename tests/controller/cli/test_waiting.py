"""The messages of a wait and its duration."""
# ruff: noqa: D102 – the methods of a test's own helper

import io
import signal
import subprocess
import sys
from threading import Event

import pytest
from efficientquant_controller.cli.connection import Connection
from efficientquant_controller.cli.durations import clock_time, duration
from efficientquant_controller.cli.waiting import Waiting, next_pause_s


class Listener(io.StringIO):
    """A stderr that sets an event when something is written."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.heard = Event()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal

    def write(self, text: str) -> int:
        written = super().write(text)
        self.heard.set()
        return written


def test_a_log_gets_a_line(monkeypatch):
    """Without a terminal, a wait prints a line with its reason."""
    listener = Listener(terminal=False)
    monkeypatch.setattr(sys, "stderr", listener)

    with Waiting("the sun", silent_s=0):
        listener.heard.wait()

    assert listener.getvalue() == "waiting for the sun (0 s)\n"


def test_a_terminal_gets_a_line_that_is_wiped(monkeypatch):
    """On a terminal, the line is overwritten and cleared at the end."""
    listener = Listener(terminal=True)
    monkeypatch.setattr(sys, "stderr", listener)

    with Waiting(lambda: "the sun", silent_s=0):
        listener.heard.wait()

    assert listener.getvalue() == "\r\x1b[2Kwaiting for the sun (0 s)\r\x1b[2K"


def test_a_short_wait_is_silent(capsys):
    """A wait of less than a second prints nothing, and stopping twice is harmless."""
    with Waiting("the sun") as waiting:
        waiting.stop()

    assert capsys.readouterr().err == ""


def test_a_reader_that_leaves_does_not_disturb_the_wait(monkeypatch):
    """A closed stderr ends the lines but not the work."""
    listener = Listener(terminal=False)
    listener.close()
    monkeypatch.setattr(sys, "stderr", listener)
    monkeypatch.setattr(listener, "isatty", lambda: False)

    with Waiting("the sun", silent_s=0) as waiting:
        waiting._thread.join()


@pytest.mark.parametrize(("elapsed_s", "pause_s"), [(1, 9), (10, 10), (20, 20), (300, 60)])
def test_lines_in_a_log_grow_rare(elapsed_s, pause_s):
    """The interval between lines grows with the wait, up to one minute."""
    assert next_pause_s(elapsed_s) == pause_s


@pytest.mark.parametrize(
    ("seconds", "rough", "exact"),
    [(0.4, "0 s", "0 s"), (59, "59 s", "59 s"), (65, "1 min", "1:05 min"), (3725, "1 h", "1:02:05 h")],
)
def test_durations_are_readable(seconds, rough, exact):
    """Durations are in readable units."""
    assert (duration(seconds), clock_time(seconds)) == (rough, exact)


def test_a_slow_controller_is_waited_for_aloud(command, control, monkeypatch):
    """Waiting for a campaign to be accepted is reported on stderr only."""
    listener = Listener(terminal=False)
    listener.heard = control.answering
    control.answering.clear()
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", listener)
        patched.setattr(Connection, "require_same_protocol", lambda _: None)  # waits likewise, and comes first
        outcome = command("bench", "m", "--detach")

    assert (outcome.exit_code, outcome.out) == (0, "c1\n")
    sentence = f"waiting for the controller at {control.address} to check models, recipes and devices"
    assert listener.getvalue().startswith(sentence)


VERBS = {
    "devices": [],
    "campaigns": ["--json"],
    "results": ["--csv"],
    "cancel": ["c1"],
    "bench": ["m"],
    "watch": ["c1"],
}


@pytest.mark.parametrize("verb", VERBS)
def test_every_wait_is_said_and_can_be_left(control, verb):
    """Every verb reports that it waits, and Ctrl-C exits with 130 without a traceback."""
    control.answering.clear()
    command = [sys.executable, "-m", "efficientquant_controller.cli", verb, *VERBS[verb]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        said = process.stderr.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()

    assert said.startswith("waiting for the controller")
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in err
