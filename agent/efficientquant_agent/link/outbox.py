"""Results on disk until the controller has committed them."""

import contextlib
import os
import re
from typing import List

from efficientquant_agent.files import sync_directory, write_whole

_SUFFIX = ".pb"


def can_keep(run_id: str) -> bool:
    """Tell whether a run id is safe as a file name.

    It comes over the wire and must not name a file anywhere else.
    """
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,199}", run_id) is not None


class Outbox:
    """A directory of finished results, one file per run.

    A lost controller, a killed agent or a power cut loses no result whose put() has returned.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._rejected = os.path.join(path, "rejected")
        os.makedirs(self._rejected, exist_ok=True)

    def put(self, run_id: str, payload: bytes) -> None:
        """Write a serialized result to the disk before returning."""
        write_whole(self._file(run_id), payload, durable=True)

    def pending(self) -> List[str]:
        """Return the ids of the runs not yet committed, oldest first."""
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
        """Remove a result that the controller has committed."""
        os.unlink(self._file(run_id))

    def reject(self, run_id: str) -> str:
        """Set aside a result that the controller refused for good.

        Return the path where it is kept.
        """
        kept = os.path.join(self._rejected, os.path.basename(self._file(run_id)))
        os.replace(self._file(run_id), kept)
        sync_directory(self._rejected)
        return kept

    def _file(self, run_id: str) -> str:
        assert can_keep(run_id), run_id
        return os.path.join(self._path, run_id + _SUFFIX)
