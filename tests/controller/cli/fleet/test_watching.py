"""Watching with lost controllers and Ctrl-C."""
# ruff: noqa: D102 – the methods of a test's own helper

import io
import os
import pty
import signal
import subprocess
import sys

import pytest
from efficientquant_controller.cli.fleet import watching
from efficientquant_controller.cli.fleet.progress import LineDisplay
from efficientquant_protos.v1 import fleet_pb2 as pb
from rich.console import Console

DEVICE = pb.DeviceStatus(name="bench-1", state="idle", runs_total=8, runs_done=3)


def test_watch_latest_stays_with_its_campaign(command, control, messages):
    """After a lost connection, watching "latest" stays with the same campaign."""
    control.statuses.put(messages.status())
    control.statuses.put(ConnectionError())
    control.statuses.put(messages.status("succeeded"))

    outcome = command("watch")

    watched = [request.campaign_id for request in control.requests if isinstance(request, pb.WatchCampaignRequest)]
    assert (outcome.exit_code, watched) == (0, ["latest", "c1"])


def test_lost_controller_is_waited_for(command, control, messages):
    """The loss of a controller is reported once, and so is its return."""
    control.statuses.put(messages.status())
    for status in (ConnectionError(), ConnectionError(), messages.status("succeeded")):
        control.statuses.put(status)

    err = command("watch", "c1").err

    gone = f"the controller at {control.address} is gone (it closed the connection); the campaign outlives it"
    assert err.count(gone) == 1
    assert err.count(f"the controller at {control.address} is back") == 1


def test_waits_grow_and_are_bounded(monkeypatch):
    """The pauses between retries double up to a limit."""
    display = LineDisplay(Console(file=io.StringIO()), "HOST:1")
    watch = watching.Watch(None, "c1", display, None)  # type: ignore[arg-type]
    clock_s = [0.0]
    tries_s = []

    class Arrivals:
        def get(self, timeout):
            if len(tries_s) == 7:
                return watching._Interrupt()
            clock_s[0] += timeout
            raise watching.Empty

    watch._arrivals, watch._retrying = Arrivals(), True
    monkeypatch.setattr(watching.time, "monotonic", lambda: clock_s[0])
    monkeypatch.setattr(watch, "_start_reader", lambda: tries_s.append(clock_s[0]))

    watch._next_arrival()

    pauses_s = [later - earlier for earlier, later in zip([0.0, *tries_s], tries_s, strict=False)]
    assert pauses_s == pytest.approx([0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0], abs=2 * watching.SIGNAL_POLL_S)


class WatchProcess:
    """`efficientquant watch c1` as a process, with or without a terminal."""

    def __init__(self, terminal: bool) -> None:
        self.terminal, inner = pty.openpty() if terminal else (None, None)
        stream = inner if terminal else subprocess.PIPE
        self.process = subprocess.Popen(
            [sys.executable, "-m", "efficientquant_controller.cli", "watch", "c1"],
            stdin=stream if terminal else subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True,
        )  # fmt: skip
        if inner is not None:
            os.close(inner)
        self.output = b""
        self._source = self.terminal if terminal else self.process.stderr.fileno()

    def read_until(self, text: bytes) -> None:
        while text not in self.output:
            self.output += self._read() or pytest.fail(f"ended without {text!r}: {self.output!r}")

    def end(self) -> tuple[int, str]:
        while piece := self._read():
            self.output += piece
        return self.process.wait(), self.output.decode()

    def type(self, text: bytes) -> None:
        os.write(self.terminal, text)

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def _read(self) -> bytes:
        try:
            return os.read(self._source, 4096)
        except OSError:  # a terminal's error after its last process has exited
            return b""

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        if self.terminal is not None:
            os.close(self.terminal)


@pytest.fixture
def watch(control, messages):
    """Return a function that starts a watch and waits for its progress."""
    started = []

    def start(terminal: bool) -> WatchProcess:
        control.statuses.put(messages.status(devices=[DEVICE]))
        started.append(WatchProcess(terminal))
        started[-1].read_until(b"3/8 runs")
        return started[-1]

    yield start
    control.statuses.put(messages.status("cancelled"))
    for process in started:
        process.close()


def cancelled(control) -> bool:
    return pb.CancelCampaignRequest(campaign_id="c1") in control.requests


def test_interrupt_without_terminal_detaches(watch, control):
    """Ctrl-C without a terminal detaches and says how to come back and how to cancel."""
    process = watch(terminal=False)

    process.interrupt()

    code, shown = process.end()
    assert (code, cancelled(control)) == (130, False)
    assert "detached: campaign c1 goes on" in shown
    assert "efficientquant watch c1\n" in shown
    assert "efficientquant cancel c1\n" in shown


def test_interrupt_before_an_answer_claims_nothing(control):
    """Ctrl-C before the controller's first answer does not claim to detach."""
    process = WatchProcess(terminal=False)
    try:
        process.read_until(b"waiting for the controller")
        process.interrupt()
        code, shown = process.end()
    finally:
        control.statuses.put(ConnectionError())
        process.close()

    assert (code, "detached" in shown) == (130, False)


def test_interrupt_then_c_cancels(watch, control):
    """On a terminal Ctrl-C, then c, cancels the campaign and shows its results."""
    process = watch(terminal=True)
    process.interrupt()
    process.read_until(b"[c] cancel")

    process.type(b"c\n")

    code, shown = process.end()
    assert (code, cancelled(control)) == (1, True)
    assert "campaign c1 cancelled" in shown


@pytest.mark.parametrize("answer", [b"d\n", b"\n", b"\x04"])
def test_interrupt_then_anything_else_detaches(watch, control, answer):
    """On a terminal Ctrl-C, then d, Enter or end of input, detaches."""
    process = watch(terminal=True)
    process.interrupt()
    process.read_until(b"[c] cancel")

    process.type(answer)

    code, shown = process.end()
    assert (code, cancelled(control)) == (130, False)
    assert "detached" in shown


def test_second_interrupt_detaches_at_once(watch, control):
    """A second Ctrl-C at the question detaches without an answer."""
    process = watch(terminal=True)
    process.interrupt()
    process.read_until(b"[c] cancel")

    process.interrupt()

    code, shown = process.end()
    assert (code, cancelled(control)) == (130, False)
    assert "detached" in shown


def test_watching_costs_no_cpu(watch):
    """A waiting watch uses less than 5 % of a core."""
    process = watch(terminal=True)
    ticks = os.sysconf("SC_CLK_TCK")

    def cpu_s() -> float:
        with open(f"/proc/{process.process.pid}/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / ticks

    before = cpu_s()
    with pytest.raises(subprocess.TimeoutExpired):
        process.process.wait(timeout=1.0)

    assert cpu_s() - before <= 0.05
