"""Results on disk until the controller has committed them."""

import os
import re
from typing import List

from efficientquant_agent.state import sync_directory, write_atomically

_SUFFIX = ".pb"


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
        entries = [entry for entry in os.scandir(self._path) if entry.name.endswith(_SUFFIX)]
        entries.sort(key=lambda entry: (entry.stat().st_mtime, entry.name))
        return [entry.name[: -len(_SUFFIX)] for entry in entries]

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
        # An id comes over the wire: it must not name a file anywhere else.
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}", run_id):
            raise ValueError("run id {!r} cannot be a file name".format(run_id))
        return os.path.join(self._path, run_id + _SUFFIX)
