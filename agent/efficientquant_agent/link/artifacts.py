"""The artifact cache: resumed downloads, SHA-256 checks and a size limit."""

import contextlib
import os
import queue
import re
import threading
import time
from typing import Any, BinaryIO, Callable, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

from efficientquant_agent.digests import new_sha256
from efficientquant_agent.errors import ControllerBusyError, ControllerUnreachableError, RunFailedError
from efficientquant_agent.files import free_bytes, sync_directory
from efficientquant_agent.link.backoff import Backoff
from efficientquant_agent.records import StageTiming

# How many attempts in a row may bring no new byte, when a controller answers each.
_ATTEMPTS = 6
_BLOCK_BYTES = 1024**2
_PARTIAL = ".partial"

# fetch(sha256, offset) yields the bytes from `offset` on.
Fetch = Callable[[str, int], Iterator[bytes]]


class LocalArtifact(NamedTuple):
    """A verified file and the cost of its transfer."""

    path: str
    transfer: StageTiming


class ArtifactCache:
    """A directory of files named by their SHA-256.

    Beyond `limit_bytes` the least recently used files are removed first.
    """

    def __init__(
        self,
        path: str,
        limit_bytes: int,
        fetch: Fetch,
        log: Callable[[str], None],
        backoff_max_s: float = 30.0,
    ) -> None:
        self._path = path
        self._limit_bytes = limit_bytes
        self._fetch = fetch
        self._log = log
        self._backoff_max_s = backoff_max_s

    def get(
        self, sha256: str, cancelled: threading.Event, progress: Callable[[int], None], also_keep: str = ""
    ) -> LocalArtifact:
        """Return a file whose bytes have just been verified.

        This file and `also_keep` stay in the cache, whatever the limit. `progress` gets the number of bytes that have
        arrived. Waits for a controller that is absent or busy. Raises RunFailedError: "artifact_unavailable" when the
        file cannot be fetched, "artifact_corrupt" when two downloads have another SHA-256, "cancelled".
        """
        if not re.fullmatch(r"[0-9a-f]{64}", sha256):
            raise RunFailedError("artifact_unavailable", "{!r} is not a SHA-256".format(sha256))
        started_s = time.perf_counter()
        os.makedirs(self._path, exist_ok=True)  # somebody may have removed it
        path = os.path.join(self._path, sha256)
        fetched_bytes = 0
        if not self._is_intact(path, sha256):
            fetched_bytes = self._download(sha256, path, cancelled, progress)
        os.utime(path)
        self._evict(keep=(sha256, also_keep))
        duration_s = time.perf_counter() - started_s
        return LocalArtifact(path, StageTiming("transfer", duration_s, size_bytes=fetched_bytes))

    def _is_intact(self, path: str, sha256: str) -> bool:
        if not os.path.exists(path):
            return False
        if _hash_file(path).hexdigest() == sha256:
            return True
        self._log("cached artifact {} is damaged on this disk: fetching it again".format(sha256[:12]))
        os.unlink(path)
        return False

    def _download(self, sha256: str, path: str, cancelled: threading.Event, progress: Callable[[int], None]) -> int:
        """Fetch the whole file and return the number of bytes transferred.

        Raises RunFailedError, see get().
        """
        partial = path + _PARTIAL
        moved = 0
        for _ in range(2):
            moved += self._complete(sha256, partial, cancelled, progress)
            if os.path.exists(partial):
                os.replace(partial, path)
                sync_directory(self._path)
                return moved
            self._log("artifact {} arrived damaged".format(sha256[:12]))
        raise RunFailedError("artifact_corrupt", "artifact {} arrived twice with other bytes".format(sha256))

    def _complete(self, sha256: str, partial: str, cancelled: threading.Event, progress: Callable[[int], None]) -> int:
        """Complete a partial file and return the number of bytes transferred.

        The file is removed when its SHA-256 is not `sha256`.
        """
        digest = _hash_file(partial) if os.path.exists(partial) else new_sha256()
        with open(partial, "ab") as stream:
            already = stream.tell()
            self._append_across_disconnects(sha256, stream, digest, cancelled, progress)
            stream.flush()
            os.fsync(stream.fileno())
            moved = stream.tell() - already
        if digest.hexdigest() != sha256:
            os.unlink(partial)
        return moved

    def _append_across_disconnects(
        self, sha256: str, stream: BinaryIO, digest: Any, cancelled: threading.Event, progress: Callable[[int], None]
    ) -> None:
        backoff = Backoff(0.2, self._backoff_max_s)
        failures = 0
        said: Set[str] = set()
        while True:
            offset = stream.tell()
            try:
                self._append(sha256, stream, digest, cancelled, progress)
                return
            except ControllerUnreachableError as error:
                _require_wanted(cancelled)  # the call may have been interrupted
                if stream.tell() > offset:
                    failures = 0
                    backoff.reset()
                if error.answered and not isinstance(error, ControllerBusyError):
                    failures += 1
                if error.reason not in said:
                    said.add(error.reason)
                    self._log("fetch of {} broke off at byte {}: {}".format(sha256[:12], stream.tell(), error.reason))
                if failures == _ATTEMPTS:
                    raise RunFailedError("artifact_unavailable", error.reason) from error
                cancelled.wait(backoff.next_s())

    def _append(
        self, sha256: str, stream: BinaryIO, digest: Any, cancelled: threading.Event, progress: Callable[[int], None]
    ) -> None:
        """Append the bytes that the controller sends.

        They start at the end of `stream`. A second thread hashes them. Raises RunFailedError when the run is cancelled.
        """
        with _Hashing(digest) as hashing:
            _require_wanted(cancelled)
            chunks = self._fetch(sha256, stream.tell())
            # Checked after the call exists: from then on, a cancellation interrupts the call.
            _require_wanted(cancelled)
            for data in chunks:
                _require_wanted(cancelled)
                hashing.update(data)
                stream.write(data)
                progress(stream.tell())

    def missing_bytes(self, sha256: str, size_bytes: int) -> int:
        """Return how many bytes of a file are still to be fetched."""
        path = os.path.join(self._path, sha256)
        if os.path.exists(path):
            return 0
        with contextlib.suppress(FileNotFoundError):
            return max(0, size_bytes - os.path.getsize(path + _PARTIAL))
        return size_bytes

    def evictable_bytes(self, keep: Sequence[str]) -> int:
        """Return how many bytes can be freed without the files in `keep`."""
        return sum(size for size, _ in self._evictable(keep))

    def make_room(self, needed_bytes: int, keep: Sequence[str]) -> bool:
        """Make sure that the disk has free bytes, by removing other files.

        Return False, without removing any, when that is not enough.
        """
        if free_bytes(self._path) + self.evictable_bytes(keep) < needed_bytes:
            return False
        for _, path in self._evictable(keep):
            if free_bytes(self._path) >= needed_bytes:
                break
            with contextlib.suppress(OSError):  # gone meanwhile, or the disk became read-only
                os.unlink(path)
        return free_bytes(self._path) >= needed_bytes

    def _evictable(self, keep: Sequence[str]) -> List[Tuple[int, str]]:
        """Return (size, path) of each evictable file, the oldest use first."""
        entries = []
        for entry in os.scandir(self._path) if os.path.isdir(self._path) else ():
            if entry.name.split(".")[0] not in keep:
                with contextlib.suppress(FileNotFoundError):
                    entries.append((entry.stat().st_mtime, entry.stat().st_size, entry.path))
        return [(size, path) for _, size, path in sorted(entries)]

    def _evict(self, keep: Sequence[str]) -> None:
        total_bytes = sum(entry.stat().st_size for entry in os.scandir(self._path))
        for size, path in self._evictable(keep):
            if total_bytes <= self._limit_bytes:
                return
            os.unlink(path)
            total_bytes -= size


def _require_wanted(cancelled: threading.Event) -> None:
    if cancelled.is_set():
        raise RunFailedError("cancelled", "cancelled while the artifact was being fetched")


class _Hashing:
    """A second thread that feeds a digest.

    hashlib releases the GIL, so hashing overlaps with receiving.
    """

    def __init__(self, digest: Any) -> None:
        self._digest = digest
        self._blocks: "queue.Queue[Optional[bytes]]" = queue.Queue(maxsize=8)
        self._thread = threading.Thread(target=self._run, name="hash", daemon=True)

    def __enter__(self) -> "_Hashing":
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._blocks.put(None)
        self._thread.join()

    def update(self, data: bytes) -> None:
        """Hash `data` after all earlier data.

        Blocks when hashing falls behind.
        """
        self._blocks.put(data)

    def _run(self) -> None:
        for block in iter(self._blocks.get, None):
            self._digest.update(block)


def _hash_file(path: str) -> Any:
    digest = new_sha256()
    with open(path, "rb", buffering=0) as stream:
        for block in iter(lambda: stream.read(_BLOCK_BYTES), b""):
            digest.update(block)
    return digest
