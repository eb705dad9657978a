"""The plan cache: engines built here, each with its build report.

Plans are kept as long as there is room.
"""

import contextlib
import json
import os
import shutil
from typing import List, Mapping, NamedTuple, Optional, Tuple

from efficientquant_agent import protocol
from efficientquant_agent.digests import new_sha256
from efficientquant_agent.protocol import BuildReport

_PLAN, _REPORT, _PART = ".plan", ".json", ".part"
_BLOCK_BYTES = 1 << 20


class Plan(NamedTuple):
    """A kept engine."""

    path: str
    report: BuildReport


def plan_key(artifact_sha256: str, settings: Mapping[str, str]) -> str:
    """Return a plan's name, the SHA-256 of its artifact and settings.

    `settings` is what engines.build_settings() returns.
    """
    text = json.dumps([artifact_sha256, sorted(settings.items())])
    key: str = new_sha256(text.encode()).hexdigest()
    return key


class PlanCache:
    """A directory of plans, used by one process, the daemon."""

    def __init__(self, directory: str, limit_bytes: int) -> None:
        self._directory = directory
        self._limit_bytes = limit_bytes
        os.makedirs(directory, exist_ok=True)
        for name in os.listdir(directory):  # left by a killed agent
            if name.endswith(_PART):
                os.unlink(os.path.join(directory, name))

    def find(self, key: str) -> Optional[Plan]:
        """Return the plan of this key, None without an intact one.

        A damaged plan is removed.
        """
        path, report_path = self._paths(key)
        report = _read_report(report_path)
        if report is None or _sha256(path) != report.engine_sha256:
            self.forget(key)
            return None
        os.utime(report_path, None)  # used now, so it is removed last
        return Plan(path, report)

    def put(self, key: str, plan_path: str, report: BuildReport) -> Plan:
        """Move a plan into the cache, removing others to make room.

        The least recently used plans are removed first. The new plan stays even when it alone exceeds the limit, since
        it is about to be used.
        """
        path, report_path = self._paths(key)
        self.forget(key)
        shutil.move(plan_path, path + _PART)
        _sync(path + _PART)
        os.replace(path + _PART, path)
        protocol.write(report_path, report)  # last: a plan without its report does not count
        self._make_room(key)
        return Plan(path, report)

    def forget(self, key: str) -> None:
        """Remove a plan, for example because it does not load.

        A missing plan is no error.
        """
        for path in reversed(self._paths(key)):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def _paths(self, key: str) -> Tuple[str, str]:
        stem = os.path.join(self._directory, key)
        return stem + _PLAN, stem + _REPORT

    def _make_room(self, newest: str) -> None:
        sizes = {key: self._size_bytes(key) for key in self._by_last_use()}
        for key in sizes:
            if sum(sizes.values()) <= self._limit_bytes:
                return
            if key != newest:
                self.forget(key)
                sizes[key] = 0

    def _by_last_use(self) -> List[str]:
        """Return all keys, the least recently used first.

        A plan without a report counts as never used.
        """

        def last_use_s(key: str) -> float:
            try:
                return os.stat(self._paths(key)[1]).st_mtime
            except FileNotFoundError:
                return 0.0

        keys = {os.path.splitext(name)[0] for name in os.listdir(self._directory)}
        return sorted(keys, key=last_use_s)

    def _size_bytes(self, key: str) -> int:
        total = 0
        for path in self._paths(key):
            with contextlib.suppress(FileNotFoundError):
                total += os.stat(path).st_size
        return total


def _read_report(path: str) -> Optional[BuildReport]:
    """Return a kept report, None when this release cannot read it."""
    try:
        return protocol.read(path, protocol.decode_report)
    except protocol.ProtocolError:
        return None


def _sync(path: str) -> None:
    """Flush a file to the disk.

    Until then a power cut loses it, and its pages cannot leave the page cache.
    """
    with open(path, "rb") as stream:
        os.fsync(stream.fileno())


def _sha256(path: str) -> str:
    """Return a file's SHA-256, empty without a file."""
    digest = new_sha256()
    try:
        with open(path, "rb") as stream:
            for block in iter(lambda: stream.read(_BLOCK_BYTES), b""):
                digest.update(block)
    except FileNotFoundError:
        return ""
    sha256: str = digest.hexdigest()
    return sha256
