"""The state directory with this device's identity, locked by one agent."""

import contextlib
import fcntl
import json
import os
import uuid
from typing import Any, Callable, Dict

from efficientquant_agent.errors import StateDirectoryInUseError, UsageError
from efficientquant_agent.files import write_json_durably

# A file of this size keeps room for more digits, because a full disk gives it no new block.
_IDENTITY_BYTES = 256
# It bounds what an agent can skip that never gets a session.
_LARGEST_EPOCH_STEP = 2**20


def unusable(path: str, error: OSError) -> UsageError:
    """Return the UsageError for a state directory that cannot be used.

    `error` may name a file inside.
    """
    where = "" if error.filename in (None, path) else "{}: ".format(error.filename)
    reason = (error.strerror or str(error)).lower()
    return UsageError(
        "state directory {} cannot be used: {}{}; pass --state-dir with another, or give this user that one".format(
            path, where, reason
        )
    )


class StateDirectory:
    """The state directory, locked while this object lives.

    Raises UsageError when the directory cannot be used and StateDirectoryInUseError when another agent has it.
    """

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        try:
            os.makedirs(self.path, mode=0o700, exist_ok=True)
            descriptor = os.open(os.path.join(self.path, "lock"), os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise unusable(self.path, error) from error
        self._lock = open(descriptor, "r+b", buffering=0)  # noqa: SIM115 — held for the process's life
        self._take_lock()
        self._identity_path = os.path.join(self.path, "identity.json")
        # What this process knows, for a disk that does not keep it.
        self._identity: Dict[str, Any] = {}
        self._epoch_step = 1

    def _take_lock(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = self._lock.read().decode("ascii", "replace").strip()
            self._lock.close()
            raise StateDirectoryInUseError(self.path, holder) from error
        # In place, because a full disk may give no block back. The pid is only for messages.
        with contextlib.suppress(OSError):
            pid = str(os.getpid()).encode()
            self._lock.truncate(self._lock.write(pid.ljust(16)))

    def close(self) -> None:
        """Release the lock for another agent."""
        self._lock.close()

    def subdirectory(self, name: str) -> str:
        """Return the path of a directory inside, creating it."""
        path = os.path.join(self.path, name)
        os.makedirs(path, exist_ok=True)
        return path

    def device_id(self, board_id: str, log: Callable[[str], None]) -> str:
        """Return this device's id.

        A new id is drawn when the disk is now on another board, such as a cloned SD card.
        """
        identity = self._read()
        if identity and identity["board_id"] != board_id:
            log("this disk was on board {} before: registering as a new device".format(identity["board_id"]))
            identity = {}
        if not identity:
            identity = {"device_id": str(uuid.uuid4()), "board_id": board_id, "session_epoch": 0}
            try:
                self._write(identity)
            except OSError as error:
                raise unusable(self.path, error) from error
        self._identity = identity
        return str(identity["device_id"])

    def next_epoch(self) -> int:
        """Return a session epoch higher than all before it, also across restarts.

        On a disk that refuses every write it grows in memory only. A file that was removed or damaged meanwhile is
        written again.
        """
        stored: Dict[str, Any] = {}
        with contextlib.suppress(UsageError):
            stored = self._read()
        epoch = max(int(known.get("session_epoch", 0)) for known in (self._identity, stored)) + self._epoch_step
        self._identity = dict(self._identity, session_epoch=epoch)
        with contextlib.suppress(OSError):
            os.makedirs(self.path, mode=0o700, exist_ok=True)
            self._write(self._identity)
        return epoch

    def grow_epochs(self) -> None:
        """Double the step between epochs, after an epoch that was not new."""
        self._epoch_step = min(2 * self._epoch_step, _LARGEST_EPOCH_STEP)

    def accept_epoch(self) -> None:
        """Return to epochs one by one."""
        self._epoch_step = 1

    def _read(self) -> Dict[str, Any]:
        try:
            with open(self._identity_path, encoding="utf-8") as stream:
                identity: Dict[str, Any] = json.load(stream)
            str(identity["device_id"]), str(identity["board_id"]), int(identity["session_epoch"])
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise unusable(self.path, error) from error
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(
                "{} is damaged; remove it and this device registers as a new one".format(self._identity_path)
            ) from error
        return identity

    def _write(self, identity: Dict[str, Any]) -> None:
        content = json.dumps(identity, sort_keys=True).encode().ljust(_IDENTITY_BYTES)
        write_json_durably(self._identity_path, content)
