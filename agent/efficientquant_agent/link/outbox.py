"""Results on disk until the controller has committed them."""

import contextlib
import errno
import os
import re
import threading
from typing import Dict, List, Optional, Set

from efficientquant_agent.errors import DamagedResultError
from efficientquant_agent.files import allocate, free_bytes, sync_directory, write_whole
from efficientquant_agent.link.stored import StoredResult, describe, pack, unpack, verify

RESERVE_BYTES = 4 * 1024**2
_SUFFIX = ".pb"
_PART = ".part"


def can_keep(run_id: str) -> bool:
    """Tell whether a run id is safe as a file name.

    It comes over the wire and must not name a file anywhere else.
    """
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,199}", run_id) is not None


class Outbox:
    """A directory of finished results, one file per run.

    A lost controller, a killed agent or a power cut loses no result whose put() has returned while `is_safe`. When the
    disk is full, a result goes into a file of `reserve_bytes` that was allocated before, and a larger one stays in
    memory.
    """

    def __init__(self, path: str, reserve_bytes: int = RESERVE_BYTES) -> None:
        self._path = path
        self._reserve = os.path.join(path, "reserve")
        self._reserve_bytes = reserve_bytes
        self._has_reserve = False
        # The last reason why the disk did not take a result or the reserve.
        self.fault: Optional[OSError] = None
        # Results that are not on the disk yet, and runs whose file could not be removed.
        self._held: Dict[str, StoredResult] = {}
        self._gone: Set[str] = set()
        # Runs whose damaged file is still to be moved away.
        self._unmoved: Set[str] = set()
        # One thread changes the files at a time.
        self._turn = threading.Lock()
        for entry in self._entries():  # left by a killed agent
            if entry.name.endswith(_PART):
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)
        self.settle()

    @property
    def is_safe(self) -> bool:
        """Whether every result is on the disk and the reserve exists."""
        return not self._held and self._has_reserve

    @property
    def in_memory(self) -> List[str]:
        """The ids of the runs whose results are not on the disk."""
        return list(self._held)

    def missing_bytes(self) -> int:
        """Return how much room it takes to be safe."""
        reserve_bytes = 0 if self._has_reserve else self._reserve_bytes
        return reserve_bytes + sum(result.size_bytes for result in list(self._held.values()))

    def put(self, run_id: str, payload: bytes, attempt: int = 0, lease_id: str = "") -> None:
        """Keep a serialized result, on the disk if that takes it."""
        result = describe(payload, attempt, lease_id)
        self._held[run_id] = result  # before the file, so that pending() always names the run
        self._gone.discard(run_id)
        with self._turn:
            self._store(run_id, result)

    def settle(self) -> bool:
        """Store what is in memory only, make the reserve, and return `is_safe`."""
        with self._turn:
            for run_id, result in list(self._held.items()):
                self._store(run_id, result)
            try:
                for path in (self._path, self._folder("rejected"), self._folder("damaged")):
                    os.makedirs(path, exist_ok=True)  # while there is room: a directory takes a block
                if not self._is_reserve():
                    allocate(self._reserve, self._reserve_bytes)
                self._has_reserve = True
            except OSError as error:
                self._has_reserve = False
                self.fault = error
        return self.is_safe

    def pending(self) -> List[str]:
        """Return the ids of the runs not yet committed, oldest first."""
        held = list(self._held)
        entries = []
        for entry in self._entries():
            run_id = entry.name[: -len(_SUFFIX)]
            if entry.name.endswith(_SUFFIX) and can_keep(run_id) and run_id not in self._gone:
                with contextlib.suppress(FileNotFoundError):  # delivered meanwhile, by the other thread
                    entries.append((entry.stat().st_mtime, run_id))
        stored = [run_id for _, run_id in sorted(entries)]
        return stored + [run_id for run_id in held if run_id not in stored]

    def _entries(self) -> "List[os.DirEntry[str]]":
        """Return the files, none when the directory cannot be read now."""
        try:
            return list(os.scandir(self._path))
        except OSError:
            return []

    def read(self, run_id: str) -> StoredResult:
        """Return the result of a pending run, verified.

        Raises DamagedResultError when it is not what was stored, and OSError when it cannot be read now.
        """
        result = self._held.get(run_id)
        if result is not None:
            verify(result)
            return result
        try:
            with open(self._file(run_id), "rb") as stream:
                return unpack(run_id, stream)
        except OSError as error:
            if error.errno == errno.EIO:
                raise DamagedResultError("the disk cannot read it") from error
            raise

    def remove(self, run_id: str) -> None:
        """Remove a result that the controller has committed."""
        with self._turn:
            self._held.pop(run_id, None)
            try:
                if run_id in self._unmoved:  # the damaged file has the name
                    self._gone.add(run_id)
                else:
                    os.unlink(self._file(run_id))
            except FileNotFoundError:
                pass
            except OSError as error:
                self._give_up(run_id, error)

    def reject(self, run_id: str) -> str:
        """Set aside a result that the controller refused for good.

        Return the path where it is kept, empty while the disk has no room for it. It is then still pending.
        """
        kept = os.path.join(self._folder("rejected"), run_id + _SUFFIX)
        with self._turn:
            held = self._held.get(run_id)
            try:
                if held is None:
                    self._move(self._file(run_id), kept)
                else:
                    os.makedirs(os.path.dirname(kept), exist_ok=True)
                    write_whole(kept, pack(run_id, held), durable=True)
                    del self._held[run_id]
            except OSError as error:
                if held is not None:
                    self.fault = error
                    return ""
                self._give_up(run_id, error)
                return self._file(run_id)
        return kept

    def replace_damaged(self, run_id: str, payload: bytes, attempt: int, lease_id: str) -> StoredResult:
        """Move a damaged result to damaged_path(), and keep another in its place."""
        result = describe(payload, attempt, lease_id)
        self._held[run_id] = result
        with self._turn:
            self._unmoved.add(run_id)
            self._store(run_id, result)
        return result

    def damaged_path(self, run_id: str) -> str:
        """Return where a damaged result is kept."""
        return os.path.join(self._folder("damaged"), run_id + _SUFFIX)

    @staticmethod
    def _move(path: str, kept: str) -> None:
        os.makedirs(os.path.dirname(kept), exist_ok=True)
        os.replace(path, kept)
        sync_directory(os.path.dirname(kept))

    def _give_up(self, run_id: str, error: OSError) -> None:
        """Ignore a file that cannot be removed, until the agent starts again."""
        self.fault = error
        self._gone.add(run_id)

    def _store(self, run_id: str, result: StoredResult) -> None:
        if self._held.get(run_id) is not result:
            return  # delivered meanwhile, by the other thread
        content = pack(run_id, result)
        if not self._set_damage_aside(run_id):
            return
        try:
            os.makedirs(self._path, exist_ok=True)  # somebody may have removed it
            if free_bytes(self._path) < len(content):  # a large write that fails again and again would wear the disk
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            write_whole(self._file(run_id), content, durable=True)
        except OSError as error:
            self.fault = error
            if not self._store_in_reserve(run_id, content):
                return
        del self._held[run_id]

    def _set_damage_aside(self, run_id: str) -> bool:
        """Move a run's damaged file away before its name is used again."""
        if run_id in self._unmoved:
            try:
                self._move(self._file(run_id), self.damaged_path(run_id))
            except FileNotFoundError:  # it was in memory alone
                pass
            except OSError as error:
                self.fault = error
                return False
            self._unmoved.discard(run_id)
        return True

    def _is_reserve(self) -> bool:
        """Tell whether the reserve is a file of its size."""
        return os.path.isfile(self._reserve) and os.path.getsize(self._reserve) >= self._reserve_bytes

    def _folder(self, name: str) -> str:
        return os.path.join(self._path, name)

    def _store_in_reserve(self, run_id: str, content: bytes) -> bool:
        """Write a result over the reserve, which then gets the result's name.

        Return False when it does not fit, or there is no reserve.
        """
        try:
            if len(content) > os.path.getsize(self._reserve):
                return False
            with open(self._reserve, "r+b") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(self._reserve, self._file(run_id))
            self._has_reserve = False
            sync_directory(self._path)
        except OSError as error:
            self.fault = error
            return False
        return True

    def _file(self, run_id: str) -> str:
        assert can_keep(run_id), run_id
        return os.path.join(self._path, run_id + _SUFFIX)
