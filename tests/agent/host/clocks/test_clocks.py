"""Clocks: set in order, verified, journalled before each change, and restored."""

import errno
import json
import os
import subprocess

import pytest
from efficientquant_agent import files
from efficientquant_agent.errors import ClockError
from efficientquant_agent.host.clock_helper import ToolError
from efficientquant_agent.host.clocks import (
    AppliedClocks,
    ClockControl,
    ClockRequest,
    journal_path,
    recover,
)
from nano_board import GPU, LOCK_5W, LOCK_GPU


def test_nothing_is_touched_unasked(board):
    """A run that asks for nothing changes nothing, and still knows what is in force."""
    before = board.condition()

    applied = board.control().apply(ClockRequest(), board.journal)

    assert applied == AppliedClocks("MAXN", "free", {})
    assert (board.calls(), board.condition()) == ([], before)


def test_restoring_on_a_full_disk(board, monkeypatch):
    """Clocks are restored on a full disk."""
    before = board.condition()
    board.control().apply(LOCK_5W, board.journal)

    def refuse(*_arguments, **_options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "write_whole", refuse)

    assert board.control().restore(board.journal) == ["restore", "set-power-mode 0"]
    assert (board.condition(), os.path.exists(board.journal)) == (before, False)


def test_order(board):
    """Power mode, store and lock come in this order, and restoring reverses it and all changes."""
    before = board.condition()
    control = board.control()

    applied = control.apply(LOCK_5W, board.journal)
    done = control.restore(board.journal)

    assert applied.conditions() == {"power_mode": "5W", "clocks": "locked"}
    assert applied.readings().known() == {
        "clock_gpu_target_hz": 640e6,
        "clock_emc_target_hz": 1600e6,
        "clock_cpu_target_hz": 918e6,
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
    """Each clock is compared with its target, and is None when it cannot be read."""
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
    subprocess.check_call([board.paths.jetson_clocks])

    applied = board.control().observe()

    assert (applied.clocks, applied.targets_hz["emc"]) == ("locked", 1600000000.0)


def test_memory_clock_that_cannot_be_read(board):
    """Where the memory's clock cannot be read, the lock is unverifiable, whoever made it."""
    board.remove("sys/kernel/debug/tegra_bwmgr/emc_min_rate")

    applied = board.control().apply(ClockRequest(lock=True), board.journal)

    assert applied.clocks == "unverifiable"
    assert board.control().observe().clocks == "unverifiable"


def test_no_clocks_at_all(board):
    """The clocks of a virtual machine, which shows none, are unverifiable."""
    paths = board.paths._replace(sys="/nowhere", nvpmodel="/nowhere", nvpmodel_status="/nowhere")

    assert ClockControl(paths=paths).observe() == AppliedClocks("", "unverifiable", {})


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        ("slow-memory", "clocks could not be locked: emc runs at 204 MHz instead of 1600 MHz"),
        ("needs-reboot", "power mode 1 takes a reboot: run `sudo nvpmodel -m 1` by hand, then try again"),
    ],
)
def test_failure_changes_nothing(spoil, sentence, board):
    """A clock or mode that cannot be reached gives one sentence, and the board is as it was."""
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
    """Where nothing can be locked, asking for a lock is "unsupported"."""
    board.remove("jetson_clocks")

    with pytest.raises(ClockError) as caught:
        board.control().apply(ClockRequest(lock=True), board.journal)

    assert caught.value.code == "unsupported"


def test_user_without_rights(board, monkeypatch):
    """Without root and without the helper nothing is tried, and the sentence says what to install."""
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    control = ClockControl(paths=board.paths, helper=["/nowhere/efficientquant-clocks"])

    with pytest.raises(ClockError, match="install the helper") as caught:
        control.apply(ClockRequest(lock=True), board.journal)

    assert (control.access(), caught.value.code, os.path.exists(board.journal)) == ("none", "no_access", False)


def test_user_with_the_helper(board, monkeypatch):
    """A user for whom the helper answers acts through it."""
    monkeypatch.setattr("os.geteuid", lambda: 1000)

    assert board.control().access() == "helper"


def test_journal_is_written_before_the_change(board):
    """A change that cannot be journalled is not made."""
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
    """A run that finds changed clocks restores them first, so it journals the board's own state."""
    before = board.condition()
    board.control().apply(LOCK_5W, board.journal)

    board.control().apply(ClockRequest(lock=True), board.journal)
    board.control().restore(board.journal)

    assert board.condition() == before


def test_restore_that_fails_is_not_forgotten(board):
    """A change that cannot be undone stays in the journal, and the sentence says what to do."""
    control = board.control()
    control.apply(LOCK_5W, board.journal)
    board.write("needs-reboot")

    sentences = recover(str(board.root / "state"), control)

    assert len(sentences) == 1
    assert "`efficientquant-clocks set-power-mode 0` is to be done by root (power mode 0 takes a reboot" in sentences[0]
    assert json.loads((board.root / "state/clocks.json").read_text()) == {"undo": [["set-power-mode", [0]]]}


def test_journal_of_an_earlier_release(board):
    """A journal with numbers as text is undone like a journal with numbers."""
    board.control().apply(ClockRequest(power_mode="5W"), board.journal)
    board.write("state/clocks.json", '{"undo": [["set-power-mode", ["0"]]]}')

    assert board.control().restore(board.journal) == ["set-power-mode 0"]
    assert (board.calls()[-1], os.path.exists(board.journal)) == ("nvpmodel -m 0", False)


@pytest.mark.parametrize("content", ["", "{}", '{"undo": 3}', "[]", '{"undo": [[1]]}'])
def test_damaged_journal(content, board):
    """A journal that cannot be read is named, and nothing is guessed."""
    board.write("state/clocks.json", content)

    sentences = recover(str(board.root / "state"), board.control())

    assert [sentence[:6] for sentence in sentences] == [str(board.root)[:6]]
    assert "cannot be read; run `efficientquant-clocks restore` as root" in sentences[0]
    assert board.calls() == []


def test_discrete_gpu(board):
    """An RTX 3080 is locked at the 1470 of its 2100 MHz that it can hold, and later reset."""
    control = board.control()

    applied = control.apply(LOCK_GPU, board.journal)
    locked = board.condition()["lock"]
    control.restore(board.journal)

    assert (applied.clocks, applied.readings().known()) == ("locked", {"clock_gpu_target_hz": 1470e6})
    assert (locked, board.condition()["lock"], board.calls()) == ([1470, 1470], None, [])


def test_lock_without_a_client_is_forgotten(board):
    """Without persistence mode a lock ends with the helper that set it, as this double of NVML shows."""
    subprocess.check_call(board.helper + ["nvml-lock", "1470,1470", GPU], stdout=subprocess.DEVNULL)
    forgotten = board.condition()["lock"]
    board.write("gpu.json", json.dumps({"current_hz": 0, "max_hz": 2100000000, "lock": None, "persistence": True}))
    subprocess.check_call(board.helper + ["nvml-lock", "1470,1470", GPU], stdout=subprocess.DEVNULL)

    assert (forgotten, board.condition()["lock"]) == (None, [1470, 1470])


def test_gpu_is_held_from_lock_to_reset(board):
    """The agent is a client of the GPU from before the lock until after its reset, and no longer."""
    control = board.control()
    clients = [board.gpu_clients()]

    control.apply(LOCK_GPU, board.journal)
    clients.append(board.gpu_clients())
    control.restore(board.journal)

    assert [*clients, board.gpu_clients()] == [[], [os.getpid()], []]


def test_gpu_is_let_go_after_a_failed_lock(board):
    """A lock that fails leaves no client behind."""
    state = {"current_hz": 1900000000, "max_hz": 2100000000, "lock": None, "ignores_locks": True}
    board.write("gpu.json", json.dumps(state))

    with pytest.raises(ClockError):
        board.control(settle_s=0.0).apply(LOCK_GPU, board.journal)

    assert board.gpu_clients() == []


def test_gpu_that_cannot_be_let_go(board, monkeypatch):
    """Clocks that were restored stay so, and lock again, where NVML cannot be closed."""

    def fail(_self):
        raise ToolError("nvmlShutdown: Unknown Error")

    monkeypatch.setattr("nano_board.FakeNvml.close", fail)
    control = board.control()

    for _ in range(2):
        control.apply(LOCK_GPU, board.journal)
        locked = board.condition()["lock"]
        done = control.restore(board.journal)
        assert (locked, len(done), board.condition()["lock"]) == ([1470, 1470], 1, None)


def test_gpu_that_cannot_be_held(board):
    """Without NVML in the agent's own process nothing is locked, and the sentence says why."""

    def missing():
        raise ToolError("NVML cannot be loaded: libnvidia-ml.so.1: no such file")

    control = ClockControl(paths=board.paths._replace(nvml=missing), helper=board.helper)

    with pytest.raises(ClockError, match="clocks could not be locked: NVML cannot be loaded") as caught:
        control.apply(LOCK_GPU, board.journal)

    assert (caught.value.code, os.path.exists(board.journal)) == ("unsupported", False)


def test_gpu_that_ignores_its_lock(board):
    """A GPU that runs above its lock counts as not locked."""
    state = {"current_hz": 1900000000, "max_hz": 2100000000, "lock": None, "ignores_locks": True}
    board.write("gpu.json", json.dumps(state))

    with pytest.raises(ClockError, match="gpu runs at 1900 MHz instead of 1470 MHz") as caught:
        board.control(settle_s=0.0).apply(LOCK_GPU, board.journal)

    assert (caught.value.code, os.path.exists(board.journal)) == ("not_reached", False)


def test_nothing_to_recover(board):
    """An agent that finds no journal says nothing and starts nothing."""
    assert recover(str(board.root / "state"), ClockControl(helper=["/nowhere"])) == []
    assert journal_path("/state") == "/state/clocks.json"
