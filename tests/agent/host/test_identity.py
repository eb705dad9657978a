"""A device's identity, and the lock of its state directory."""

import errno
import json
import os
import shutil

import pytest
from efficientquant_agent import files
from efficientquant_agent.errors import StateDirectoryInUseError, UsageError

WAIT_S = 60.0


def test_identity_stays(open_state):
    """A device keeps its id across restarts, and every session has a higher epoch."""
    first = open_state()
    device_id, epoch = first.device_id("board-1", print), first.next_epoch()
    first.close()

    second = open_state()

    assert second.device_id("board-1", print) == device_id
    assert second.next_epoch() > epoch


def test_cloned_disk(open_state):
    """A disk that was moved or copied to another board registers as a new device, and says so."""
    state, said = open_state(), []
    device_id = state.device_id("board-1", said.append)

    assert state.device_id("board-2", said.append) != device_id
    assert said == ["this disk was on board board-1 before: registering as a new device"]


def test_cloned_disk_end_to_end(controller, start_agent, tmp_path):
    """An agent that starts on another board says hello with a new id."""
    start_agent(controller.address).wait_for_line("ready: connected")
    first = controller.hellos.get(timeout=WAIT_S)
    path = tmp_path / "clone"
    path.mkdir()
    identity = json.loads((tmp_path / "state" / "identity.json").read_text())
    (path / "identity.json").write_text(json.dumps(dict(identity, board_id="the board it came from")))

    start_agent(controller.address, state_dir=path).wait_for_line("ready: connected")

    second = controller.hellos.get(timeout=WAIT_S)
    assert second.device.board_id == first.device.board_id == identity["board_id"]
    assert second.device_id != first.device_id == identity["device_id"]


@pytest.mark.parametrize("content", ["", "{}", '{"device_id": 1, "board_id": 2, "session_epoch": "x"}'])
def test_damaged_identity(open_state, tmp_path, content):
    """A damaged identity file is named, with what to do, and no identity is invented."""
    (tmp_path / "identity.json").write_text(content)

    state = open_state()
    with pytest.raises(UsageError, match=r"identity\.json is damaged; remove it"):
        state.device_id("board-1", print)


def test_state_directory_in_use(open_state):
    """A state directory serves one agent at a time."""
    held = open_state()

    with pytest.raises(StateDirectoryInUseError):
        open_state()

    held.close()
    open_state()


def test_second_agent_on_one_state_directory(controller, start_agent):
    """A second agent on the same state directory names the first one's pid and ends with exit code 2."""
    first = start_agent(controller.address)
    first.wait_for_line("ready: connected")

    second = start_agent(controller.address)

    assert second.wait_for_end() == 2
    assert "in use by the agent with pid {};".format(first.pid) in second.seen[-1]
    assert len(second.seen) == 1


def test_identity_that_cannot_be_read(open_state, tmp_path):
    """An identity that is not a file is named in a sentence, without a traceback."""
    (tmp_path / "identity.json").mkdir()

    with pytest.raises(UsageError, match=r"cannot be used: .*/identity\.json: is a directory; pass --state-dir"):
        open_state().device_id("board-1", print)


def test_identity_in_any_locale(open_state, tmp_path):
    """The identity keeps a board's name that is not ASCII."""
    state = open_state()

    device_id = state.device_id("Nº-7 \u673a", print)

    assert state.device_id("Nº-7 \u673a", print) == device_id
    (tmp_path / "identity.json").read_bytes().decode("ascii")


@pytest.fixture
def full_disk(monkeypatch):
    """Give a function after which the disk takes no new file."""

    def refuse(*_arguments, **_options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return lambda: monkeypatch.setattr(files, "write_whole", refuse)


def test_epochs_on_a_full_disk(open_state, tmp_path, full_disk):
    """On a full disk the epoch grows in place, also across restarts."""
    state = open_state()
    device_id = state.device_id("board-1", print)
    full_disk()
    epochs = [state.next_epoch() for _ in range(120)]
    state.close()

    restarted = open_state()

    assert restarted.device_id("board-1", print) == device_id
    assert epochs == list(range(1, 121))
    assert restarted.next_epoch() == 121
    assert (tmp_path / "identity.json").stat().st_size == 256


def test_identity_of_an_earlier_release_on_a_full_disk(open_state, tmp_path, full_disk):
    """On a full disk an older identity file is rewritten in place."""
    identity = {"device_id": "d", "board_id": "board-1", "session_epoch": 9, "a_field_of_another_release": "x"}
    (tmp_path / "identity.json").write_text(json.dumps(identity, indent=9))
    full_disk()

    assert open_state().next_epoch() == 10
    assert json.loads((tmp_path / "identity.json").read_text())["session_epoch"] == 10


def test_epochs_on_a_disk_that_refuses_everything(open_state, monkeypatch):
    """On a disk that became read-only the epoch grows in memory."""
    state = open_state()
    state.device_id("board-1", print)

    def refuse(*_arguments, **_options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("efficientquant_agent.state.write_json_durably", refuse)

    assert [state.next_epoch() for _ in range(3)] == [1, 2, 3]


@pytest.mark.parametrize("damage", ["removed", "damaged", "without its directory"])
def test_identity_that_is_lost_while_the_agent_runs(open_state, tmp_path, damage):
    """A running agent writes its lost identity file again."""
    state = open_state()
    device_id = state.device_id("board-1", print)
    assert state.next_epoch() == 1
    if damage == "damaged":
        (tmp_path / "identity.json").write_text("{")
    elif damage == "removed":
        (tmp_path / "identity.json").unlink()
    else:
        shutil.rmtree(str(tmp_path))

    assert [state.next_epoch(), state.next_epoch()] == [2, 3]
    stored = json.loads((tmp_path / "identity.json").read_text())
    assert (stored["device_id"], stored["board_id"], stored["session_epoch"]) == (device_id, "board-1", 3)


def test_lock_without_room_for_the_pid(open_state, monkeypatch):
    """A full disk does not prevent the lock of the state directory."""
    monkeypatch.setattr(os, "getpid", lambda: FullPid())

    open_state()

    with pytest.raises(StateDirectoryInUseError):
        open_state()


class FullPid:
    """A pid that cannot be written."""

    def __str__(self):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_state_directory_that_cannot_be(open_state, tmp_path):
    """A state directory that cannot be created is a sentence with the reason."""
    (tmp_path / "file").write_text("")

    with pytest.raises(UsageError, match=r"cannot be used: .*; pass --state-dir"):
        open_state(tmp_path / "file" / "state")
