"""Clocks: set in order, verified, journalled before each change, and put back whatever dies when."""

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from efficientquant_agent.clocks import (
    HELPER,
    AppliedClocks,
    ClockControl,
    ClockError,
    ClockRequest,
    Journal,
    journal_path,
    recover,
)

GPU = "GPU-1b2c3d4e-0001-0002-0003-0123456789ab"
LOCK_5W = ClockRequest(power_mode="5W", lock=True)
LOCK_GPU = ClockRequest(lock=True, gpu_uuid=GPU, gpu_clock_hz=1440e6)


def test_nothing_is_touched_unasked(board):
    """A run that asks for nothing changes nothing, and still knows what is in force."""
    before = board.condition()

    applied = board.control().apply(ClockRequest(), board.journal)

    assert applied == AppliedClocks("MAXN", "free", {})
    assert (board.calls(), board.condition()) == ([], before)


def test_order(board):
    """Power mode first, then store, then lock; restoring goes the other way, and leaves the board as it was."""
    before = board.condition()
    control = board.control()

    applied = control.apply(LOCK_5W, board.journal)
    done = control.restore(board.journal)

    assert applied.conditions() == {
        "power_mode": "5W",
        "clocks": "locked",
        "clock_gpu_target_hz": "640000000",
        "clock_emc_target_hz": "1600000000",
        "clock_cpu_target_hz": "918000000",
    }
    assert done == ["restore", "set-power-mode 0"]
    assert board.calls() == [
        "nvpmodel -m 1",
        "jetson_clocks --store",
        "jetson_clocks",
        "jetson_clocks --restore",
        "nvpmodel -m 0",
    ]
    assert board.condition() == before


def test_comparison_with_targets(board):
    """Each clock is compared with its target; one that cannot be read is None."""
    control = board.control()
    applied = control.apply(ClockRequest(lock=True), board.journal)
    board.write("sys/class/devfreq/57000000.gpu/cur_freq", 460800000)
    board.remove("sys/kernel/debug/clk/override.emc/clk_rate")

    assert control.verify(applied.targets_hz) == {
        "gpu": (460800000, 921600000.0),
        "emc": (None, 1600000000.0),
        "cpu0": (1479000000, 1479000000.0),
        "cpu1": (1479000000, 1479000000.0),
    }


def test_observed_lock(board):
    """Clocks that a person has locked by hand are reported as locked, with their targets."""
    subprocess.check_call([board.places.jetson_clocks])

    applied = board.control().observe()

    assert (applied.clocks, applied.targets_hz["emc"]) == ("locked", 1600000000.0)


def test_memory_clock_that_cannot_be_read(board):
    """Where the memory's clock cannot be read, the lock is unverifiable, whoever made it."""
    board.remove("sys/kernel/debug/tegra_bwmgr/emc_min_rate")

    applied = board.control().apply(ClockRequest(lock=True), board.journal)

    assert applied.clocks == "unverifiable"
    assert board.control().observe().clocks == "unverifiable"


def test_no_clocks_at_all(board):
    """A virtual machine shows no clocks: nothing can be said about them."""
    places = board.places._replace(sys="/nowhere", nvpmodel="/nowhere", nvpmodel_status="/nowhere")

    assert ClockControl(places=places).observe() == AppliedClocks("", "unverifiable", {})


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        ("slow-memory", "clocks could not be locked: emc runs at 204 MHz instead of 1600 MHz"),
        ("needs-reboot", "power mode 1 takes a reboot: run `sudo nvpmodel -m 1` by hand, then try again"),
    ],
)
def test_failure_changes_nothing(spoil, sentence, board):
    """What cannot be reached is one sentence, and the board is as it was."""
    before = board.condition()
    board.write(spoil)

    with pytest.raises(ClockError) as caught:
        board.control(settle_s=0.0).apply(LOCK_5W, board.journal)

    assert str(caught.value) == sentence
    assert board.condition() == before


def test_unknown_power_mode(board):
    """A power mode that the board does not have is refused with those that it has."""
    with pytest.raises(ClockError, match=r"there is no power mode 30W \(there is: 0 MAXN, 1 5W\)") as caught:
        board.control().apply(ClockRequest(power_mode="30W"), board.journal)

    assert (caught.value.code, board.calls()) == ("unknown_power_mode", [])


def test_power_mode_alone(board):
    """A power mode can be asked for by number and without locking."""
    applied = board.control().apply(ClockRequest(power_mode="1"), board.journal)

    assert applied.conditions() == {"power_mode": "5W", "clocks": "free"}
    assert board.calls() == ["nvpmodel -m 1"]


def test_machine_without_clocks_to_lock(board):
    """Where nothing can be locked, asking for it is an error of its own."""
    board.remove("jetson_clocks")

    with pytest.raises(ClockError) as caught:
        board.control().apply(ClockRequest(lock=True), board.journal)

    assert caught.value.code == "unsupported"


def test_user_without_rights(board, monkeypatch):
    """Without root and without the helper nothing is tried, and the sentence says what to install."""
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    control = ClockControl(places=board.places, helper=["/nowhere/efficientquant-clocks"])

    with pytest.raises(ClockError, match="install the helper") as caught:
        control.apply(ClockRequest(lock=True), board.journal)

    assert (control.access(), caught.value.code, os.path.exists(board.journal)) == ("none", "no_access", False)


def test_user_with_the_helper(board, monkeypatch):
    """A user for whom the helper answers acts through it."""
    monkeypatch.setattr("os.geteuid", lambda: 1000)

    assert board.control().access() == "helper"


def test_journal_is_written_before_the_change(board):
    """A change that cannot be noted is not made."""
    (board.root / "state").rmdir()

    with pytest.raises(FileNotFoundError):
        board.control().apply(LOCK_5W, board.journal)

    assert board.calls() == []


def test_restore_twice(board):
    """Restoring what is restored does nothing."""
    control = board.control()
    control.apply(ClockRequest(lock=True), board.journal)
    control.restore(board.journal)
    calls = board.calls()

    assert control.restore(board.journal) == []
    assert board.calls() == calls


def test_second_run_keeps_the_first_state(board):
    """A run that finds the clocks still changed restores them first: what it notes is how the board really was."""
    before = board.condition()
    board.control().apply(LOCK_5W, board.journal)

    board.control().apply(ClockRequest(lock=True), board.journal)
    board.control().restore(board.journal)

    assert board.condition() == before


def test_restore_that_fails_is_not_forgotten(board):
    """What cannot be undone stays in the journal, and the sentence says what a person can do."""
    control = board.control()
    control.apply(LOCK_5W, board.journal)
    board.write("needs-reboot")

    sentences = recover(str(board.root / "state"), control)

    assert len(sentences) == 1
    assert "`efficientquant-clocks set-power-mode 0` is to be done by root (power mode 0 takes a reboot" in sentences[0]
    assert json.loads((board.root / "state/clocks.json").read_text()) == {"undo": [["set-power-mode", ["0"]]]}


@pytest.mark.parametrize("content", ["", "{}", '{"undo": 3}', "[]", '{"undo": [[1]]}'])
def test_damaged_journal(content, board):
    """A journal that cannot be read is named, and nothing is guessed."""
    board.write("state/clocks.json", content)

    sentences = recover(str(board.root / "state"), board.control())

    assert [sentence[:6] for sentence in sentences] == [str(board.root)[:6]]
    assert "cannot be read; run `efficientquant-clocks restore` as root" in sentences[0]
    assert board.calls() == []


def test_discrete_gpu(board):
    """A discrete GPU is locked at the clock asked for, and given back to its driver."""
    control = board.control()

    applied = control.apply(LOCK_GPU, board.journal)
    locked = board.condition()["lock"]
    control.restore(board.journal)

    assert (applied.clocks, applied.conditions()["clock_gpu_target_hz"]) == ("locked", "1440000000")
    assert (locked, board.condition()["lock"], board.calls()) == ([1440, 1440], None, [])


def test_sustainable_clock(board):
    """Without a clock in the request a GPU is locked at what it can hold: 1470 MHz of an RTX 3080's 2100."""
    applied = board.control().apply(ClockRequest(lock=True, gpu_uuid=GPU), board.journal)

    assert applied.targets_hz == {"gpu": 1470e6}


def test_gpu_that_ignores_its_lock(board):
    """A GPU above its lock is not locked."""
    state = {"current_hz": 1900000000, "max_hz": 2100000000, "lock": None, "ignores_locks": True}
    board.write("gpu.json", json.dumps(state))

    with pytest.raises(ClockError, match="gpu runs at 1900 MHz instead of 1440 MHz") as caught:
        board.control(settle_s=0.0).apply(LOCK_GPU, board.journal)

    assert (caught.value.code, os.path.exists(board.journal)) == ("not_reached", False)


APPLY = """
from efficientquant_agent.clocks import ClockRequest
board.write("agent.pid", os.getpid())
board.control().apply({!r}, board.journal)
os.kill(os.getpid(), 9)
"""
RECOVER = """
from efficientquant_agent.clocks import recover
print(recover(os.path.dirname(board.journal), board.control()))
"""
# What the helper is asked: status, set-power-mode, lock, status, and twice status to verify; for a GPU: status,
# nvml-status, nvml-lock, nvml-status, status. Before a change its journal is written already; before anything else
# the board is as after the step before. "never" is a kill while the run lasts.
KILLS = [(LOCK_5W, "before", 2), (LOCK_5W, "before", 3), (LOCK_GPU, "before", 3)]
KILLS += [(LOCK_5W, "after", step) for step in (1, 2, 3, 4, 5, 6)]
KILLS += [(LOCK_GPU, "after", step) for step in (2, 3, 4, 5)]
KILLS += [(LOCK_5W, "never", 0), (LOCK_GPU, "never", 0)]


@pytest.mark.parametrize(
    ("request_", "moment", "step"), KILLS, ids=lambda value: getattr(value, "power_mode", str(value))
)
def test_killed_between_two_steps(request_, moment, step, board):
    """An agent killed between any two steps leaves a board that the next agent puts back as it was."""
    before = board.condition()
    board.write("kill-at", "{} {}".format(moment, step))
    agent = board.start(APPLY.format(request_))
    assert agent.wait() == -signal.SIGKILL
    agent.stdout.close()

    successor = board.start(RECOVER)
    printed, _ = successor.communicate()

    assert successor.returncode == 0
    assert printed.startswith(("[]", "['an earlier agent left clocks changed; they are restored ("))
    assert board.condition() == before


@pytest.mark.parametrize("call", ["nvpmodel -m 1", "jetson_clocks --store", "jetson_clocks"])
def test_killed_while_a_tool_works(call, board):
    """Where agent and helper are killed half-way through a tool's work, the next agent waits for the tool's end."""
    before = board.condition()
    board.write("kill", call)
    agent = board.start(APPLY.format(LOCK_5W))
    assert agent.wait() == -signal.SIGKILL
    agent.stdout.close()

    successor = board.start(RECOVER)
    with (board.root / "gate").open("w") as gate:
        gate.write("go on\n")
    printed, _ = successor.communicate()

    assert "they are restored" in printed
    assert board.condition() == before


def test_killed_while_it_restores(board):
    """An agent killed half-way through restoring is followed by one that restores everything."""
    before = board.condition()
    board.control().apply(LOCK_5W, board.journal)
    board.write("kill", "jetson_clocks --restore")
    agent = board.start("board.write('agent.pid', os.getpid())\n" + RECOVER)
    assert agent.wait() == -signal.SIGKILL
    agent.stdout.close()

    successor = board.start(RECOVER)
    with (board.root / "gate").open("w") as gate:
        gate.write("go on\n")
    successor.communicate()

    assert board.condition() == before


# An agent with everything real but the session: one run that sets clocks, and puts them back at once or when it ends.
AGENT = """
import threading, time, types
from efficientquant_agent import clocks, device
from efficientquant_agent.clocks import ClockRequest
stopping = threading.Event()

class Daemon:
    def __init__(self, *_):
        pass

    def serve(self):
        try:
            control.apply({request!r}, board.journal)
            {wait}
        except clocks.ClockError as error:
            if error.code != "closed":
                print(repr(error), flush=True)
        try:
            control.restore(board.journal)
        except (clocks.ClockError, OSError) as error:
            print(repr(error), flush=True)
        return 0

    def stop(self):
        stopping.set()

def recovering(*arguments, really=clocks.recover):
    if stopping.is_set():
        print("recovering", flush=True)
    return really(*arguments)

sys.modules["efficientquant_agent.daemon"] = types.SimpleNamespace(Daemon=Daemon)
control = board.control()
clocks.ClockControl, clocks.recover = lambda _=None: control, recovering
device.runtimes = lambda: device.Runtimes({{}}, [], [])
from efficientquant_agent import __main__ as agent, config
agent._own_versions, agent._STOP_TIMEOUT_S = dict, 0.0
agent._serve(config.load(["--name", "nano-1", "--state-dir", os.path.dirname(board.journal)], {{}}))
"""


@pytest.mark.parametrize(
    ("call", "wait"),
    [
        ("nvpmodel -m 1", "pass"),
        ("nvpmodel -m 1", "stopping.wait()"),
        ("jetson_clocks --store", "stopping.wait()"),
        ("jetson_clocks", "pass"),
        ("jetson_clocks --restore", "pass"),
        ("nvpmodel -m 0", "pass"),
    ],
)
def test_told_to_end_while_a_tool_works(call, wait, board):
    """An agent that is told to end half-way through setting or restoring clocks ends with them as they were."""
    before = board.condition()
    board.write("hold", call)
    agent = board.start(AGENT.format(request=LOCK_5W, wait=wait))
    assert (board.root / "held").read_text() == "held\n"

    agent.send_signal(signal.SIGTERM)
    assert agent.stdout.readline() == "recovering\n"
    (board.root / "gate").write_text("go on\n")
    printed, _ = agent.communicate()

    assert (printed, agent.returncode) == ("", 0)
    assert board.condition() == before


@pytest.mark.parametrize("request_", [LOCK_5W, ClockRequest(lock=True), LOCK_GPU])
def test_closed(request_, board):
    """A control that is closed changes nothing, and notes nothing to undo."""
    before = board.condition()
    control = board.control()
    control.close()

    with pytest.raises(ClockError) as caught:
        control.apply(request_, board.journal)

    assert (caught.value.code, board.calls(), board.condition()) == ("closed", [], before)


def test_closed_still_restores(board):
    """A control that is closed puts back what it had set, the power mode too."""
    before = board.condition()
    control = board.control()
    control.apply(LOCK_5W, board.journal)

    control.close()

    assert control.restore(board.journal) == ["restore", "set-power-mode 0"]
    assert board.condition() == before


def test_undone_change_is_dropped_by_what_it_is(board):
    """What is undone leaves the journal whatever came after it; twice, or without a journal, does no harm."""
    journal = Journal(board.journal)
    journal.add("set-power-mode", "0")
    journal.add("restore")

    journal.drop("set-power-mode", "0")
    journal.drop("set-power-mode", "0")

    assert journal.entries() == [("restore", [])]
    journal.drop("restore")
    journal.drop("restore")
    assert not os.path.exists(board.journal)


def test_nothing_to_recover(board):
    """An agent that finds no journal says nothing and starts nothing."""
    assert recover(str(board.root / "state"), ClockControl(helper=["/nowhere"])) == []
    assert journal_path("/state") == "/state/clocks.json"


SUDOERS = Path(__file__).parents[3] / "deploy/agent/sudoers"


def test_sudoers_names_the_helper():
    """The rule for sudo allows exactly the helper that the agent calls, without a password, and nothing else."""
    rules = [line for line in SUDOERS.read_text().splitlines() if line and not line.startswith("#")]

    assert rules == ["efficientquant ALL=(root) NOPASSWD: " + HELPER[-1]]


@pytest.mark.skipif(shutil.which("visudo") is None, reason="sudo is not installed here, so nothing can check its rules")
def test_sudoers_is_accepted():
    """Sudo's own checker accepts the file."""
    assert subprocess.call(["visudo", "-cf", str(SUDOERS)], stdout=subprocess.DEVNULL) == 0
