"""The room on the state directory's disk."""

import errno
import time
from typing import List, Optional

from efficientquant_agent.errors import RunFailedError
from efficientquant_agent.files import disk_bytes, free_bytes
from efficientquant_agent.link.artifacts import ArtifactCache
from efficientquant_agent.link.outbox import Outbox
from efficientquant_agent.records import Assignment

# For what a run writes besides the files that it fetches: its samples, an engine's report, logs.
MARGIN_BYTES = 8 * 1024**2
_MIB = 1024**2


class Room:
    """The judge of whether this device can take a run now.

    One thread asks admits(), and any thread may ask problem(). After a write that failed, admits() says no for
    `recheck_s` seconds.
    """

    def __init__(self, path: str, outbox: Outbox, artifacts: ArtifactCache, recheck_s: float) -> None:
        self._path = path
        self._outbox = outbox
        self._artifacts = artifacts
        self.recheck_s = recheck_s
        self._next: Optional[Assignment] = None
        self._refusal: Optional[OSError] = None
        self._refused_until_s = 0.0

    def admits(self, assignment: Optional[Assignment]) -> bool:
        """Tell whether a run can start, and make room for it.

        None asks for the results alone.
        """
        self._next = assignment
        if time.monotonic() < self._refused_until_s:
            return False
        if assignment is None:
            self._refusal = None  # the refused run was cancelled
            if self._outbox.is_safe:
                return True
        has_room = self._artifacts.make_room(self._needed_bytes(), self._kept_files())
        return self._outbox.settle() and has_room

    def refuse(self, error: OSError) -> None:
        """Note that the disk did not take the files of a run."""
        self._refusal = error
        self._refused_until_s = time.monotonic() + self.recheck_s

    def accept(self) -> None:
        """Note that the disk has taken the files of a run."""
        self._refusal = None
        self._next = None

    def problem(self) -> str:
        """Return why no run can start, empty when a run can."""
        is_safe = self._outbox.is_safe
        try:
            # Evictable first: what is removed between the two readings must not be missing in both.
            evictable_bytes = self._artifacts.evictable_bytes(self._kept_files())
            needed_bytes, free = self._needed_bytes(), free_bytes(self._path)
        except OSError as error:
            return "the state directory cannot be read: {}; see to {}".format(error.strerror or error, self._path)
        if is_safe and self._refusal is None and free + evictable_bytes >= needed_bytes:
            return ""
        fault = self._refusal if is_safe else self._outbox.fault
        if fault is not None and fault.errno != errno.ENOSPC:
            reason = (fault.strerror or str(fault)).lower()
            return "the state directory cannot be written: {}; see to {}".format(reason, self._path)
        return "the disk of the state directory is full (needs {} MiB, {} MiB free); make room in {}".format(
            -(-needed_bytes // _MIB), free // _MIB, self._path
        )

    def require_possible(self, assignment: Assignment) -> None:
        """Raise RunFailedError when the empty disk is too small for a run."""
        if self.is_impossible(assignment):
            raise RunFailedError(
                "agent_error",
                "the run needs {} MiB, and the disk of the state directory has {} MiB in all".format(
                    -(-_size_bytes(assignment) // _MIB), disk_bytes(self._path) // _MIB
                ),
            )

    def is_impossible(self, assignment: Assignment) -> bool:
        """Tell whether the empty disk is too small for a run."""
        return _size_bytes(assignment) > disk_bytes(self._path)

    def _needed_bytes(self) -> int:
        files = self._outbox.missing_bytes()
        assignment = self._next
        if assignment is not None:
            files += self._artifacts.missing_bytes(assignment.sha256, assignment.size_bytes)
            if assignment.reference_sha256:
                files += self._artifacts.missing_bytes(assignment.reference_sha256, assignment.reference_bytes)
        return files + MARGIN_BYTES

    def _kept_files(self) -> List[str]:
        assignment = self._next
        return [] if assignment is None else [assignment.sha256, assignment.reference_sha256]


def _size_bytes(assignment: Assignment) -> int:
    return assignment.size_bytes + assignment.reference_bytes + MARGIN_BYTES
