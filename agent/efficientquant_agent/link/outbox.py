"""Results on disk until the controller has committed them."""

import contextlib
import os
import re
from typing import List

from efficientquant_agent.files import sync_directory, write_atomically

_SUFFIX = ".pb"


def can_keep(run_id: str) -> bool:
    """Whether a run id can be a file name: it comes over the wire and must not name a file anywhere else."""
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,199}", run_id) is not None


class Outbox:
    """A directory of finished results, one file per run, oldest first.

    A lost controller, a killed agent or a power cut loses nothing that put() has returned from.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._rejected = os.path.join(path, "rejected")
        os.makedirs(self._rejected, exist_ok=True)

    def put(self, run_id: str, payload: bytes) -> None:
        """Keep a serialized result; it is on the disk when this returns."""
        write_atomically(self._file(run_id), payload)

    def pending(self) -> List[str]:
        """Run ids not yet committed, oldest first."""
        entries = []
        for entry in os.scandir(self._path):
            if entry.name.endswith(_SUFFIX):
                with contextlib.suppress(FileNotFoundError):  # delivered meanwhile, by the other thread
                    entries.append((entry.stat().st_mtime, entry.name[: -len(_SUFFIX)]))
        return [run_id for _, run_id in sorted(entries)]

    def read(self, run_id: str) -> bytes:
        """Return the serialized result of a pending run."""
        with open(self._file(run_id), "rb") as stream:
            return stream.read()

    def remove(self, run_id: str) -> None:
        """Forget a result that the controller has committed."""
        os.unlink(self._file(run_id))

    def reject(self, run_id: str) -> str:
        """Move a result that the controller refused for good out of the way; return where it is kept."""
        kept = os.path.join(self._rejected, os.path.basename(self._file(run_id)))
        os.replace(self._file(run_id), kept)
        sync_directory(self._rejected)
        return kept

    def _file(self, run_id: str) -> str:
        assert can_keep(run_id), run_id
        return os.path.join(self._path, run_id + _SUFFIX)
