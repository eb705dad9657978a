"""Agents that are killed or stopped between any two steps: the board is always restored."""

import os
import signal

import pytest
from efficientquant_agent.errors import ClockError
from efficientquant_agent.host.clock_journal import Journal
from efficientquant_agent.host.clocks import ClockRequest
from nano_board import LOCK_5W, LOCK_GPU

APPLY = """
from efficientquant_agent.host.clocks import ClockRequest
board.write("agent.pid", os.getpid())
board.control().apply({!r}, board.journal)
os.kill(os.getpid(), 9)
"""
RECOVER = """
from efficientquant_agent.host.clocks import recover
print(recover(os.path.dirname(board.journal), board.control()))
"""
# What the helper is asked: status, set-power-mode, lock, status, and twice status to verify; for a GPU: status,
# nvml-status, nvml-lock, nvml-status, status. Before a change its journal is written already. Before anything else
# the board is as after the previous step. "never" is a kill while the run lasts.
KILLS = [(LOCK_5W, "before", 2), (LOCK_5W, "before", 3), (LOCK_GPU, "before", 3)]
KILLS += [(LOCK_5W, "after", step) for step in (1, 2, 3, 4, 5, 6)]
KILLS += [(LOCK_GPU, "after", step) for step in (2, 3, 4, 5)]
KILLS += [(LOCK_5W, "never", 0), (LOCK_GPU, "never", 0)]


@pytest.mark.parametrize(
    ("request_", "moment", "step"), KILLS, ids=lambda value: getattr(value, "power_mode", str(value))
)
def test_killed_between_two_steps(request_, moment, step, board):
    """An agent killed between any two steps leaves a board that the next agent restores."""
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
    """When agent and helper are killed while a tool works, the next agent waits for the tool's end."""
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
    """When an agent is killed half-way through restoring, the next agent restores everything."""
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


# An agent where all but the session is real: one run that sets clocks, and restores them at once or when it ends.
AGENT = """
import threading, time, types
from efficientquant_agent.host import clocks, device
from efficientquant_agent.host.clocks import ClockRequest
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
agent.import_grpc, agent._own_versions, agent._STOP_TIMEOUT_S = dict, dict, 0.0
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
def test_stopped_while_a_tool_works(call, wait, board):
    """An agent that is stopped while it sets or restores clocks leaves them as they were."""
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
    """A closed control changes nothing and journals nothing."""
    before = board.condition()
    control = board.control()
    control.close()

    with pytest.raises(ClockError) as caught:
        control.apply(request_, board.journal)

    assert (caught.value.code, board.calls(), board.condition()) == ("closed", [], before)


def test_closed_still_restores(board):
    """A closed control restores what it had set, the power mode too."""
    before = board.condition()
    control = board.control()
    control.apply(LOCK_5W, board.journal)

    control.close()

    assert control.restore(board.journal) == ["restore", "set-power-mode 0"]
    assert board.condition() == before


def test_undone_change_is_dropped_by_what_it_is(board):
    """An undone change is removed from anywhere in the journal, and removing it again does no harm."""
    journal = Journal(board.journal)
    journal.add("set-power-mode", "0")
    journal.add("restore")

    journal.drop("set-power-mode", "0")
    journal.drop("set-power-mode", "0")

    assert journal.entries() == [("restore", [])]
    journal.drop("restore")
    journal.drop("restore")
    assert not os.path.exists(board.journal)
