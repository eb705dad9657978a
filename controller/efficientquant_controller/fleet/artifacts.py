"""Files named by their SHA-256: the artifacts devices fetch and the checkpoints users upload."""

import asyncio
import hashlib
import os
import re
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from efficientquant_controller.errors import NotFoundError, UserError

_SHA256 = re.compile(r"[0-9a-f]{64}")


class ContentStore:
    """A folder of files named by their SHA-256; a name never points to half a file."""

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            self._incoming.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"the artifact folder {root} cannot be created: {error.strerror}; pass --artifacts DIR"
            ) from error
        for leftover in self._incoming.iterdir():  # a killed controller's half files
            leftover.unlink()

    @property
    def _incoming(self) -> Path:
        return self.root / "incoming"

    def path(self, sha256: str) -> Path:
        """Where a file lies; raises NotFoundError when it does not."""
        if not _SHA256.fullmatch(sha256):
            raise NotFoundError(f"'{sha256}' is not the name of an artifact: 64 hexadecimal digits are")
        path = self._place(sha256)
        if not path.is_file():
            raise NotFoundError(f"no artifact {sha256} is stored here; run the benchmark again to build it")
        return path

    def has(self, sha256: str) -> bool:
        """True when the file is there."""
        return self._place(sha256).is_file()

    def scratch(self, suffix: str = "") -> Path:
        """A fresh path to write a file at before `adopt` takes it."""
        handle, name = tempfile.mkstemp(dir=self._incoming, suffix=suffix)
        os.close(handle)
        return Path(name)

    def adopt(self, path: Path, sha256: str | None = None) -> tuple[str, int]:
        """Move a finished file in under its hash and make that durable; returns (SHA-256, bytes)."""
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
            size = os.fstat(file.fileno()).st_size
            os.fsync(file.fileno())
        if sha256 is not None and found != sha256:
            path.unlink()
            raise UserError(f"{path.name} has SHA-256 {found}, not {sha256}: it was damaged on the way; send it again")
        place = self._place(found)
        place.parent.mkdir(exist_ok=True)
        path.replace(place)
        folder = os.open(place.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return found, size

    async def receive(self, chunks: AsyncIterator[tuple[int, bytes]]) -> tuple[str, int]:
        """Store a file that arrives as (offset, bytes) in order; returns (SHA-256, bytes)."""
        path = self.scratch()
        try:
            with path.open("wb") as file:
                async for offset, data in chunks:
                    if offset != file.tell():
                        raise UserError(
                            f"a chunk came for byte {offset} where byte {file.tell()} was next; send it again"
                        )
                    file.write(data)
            return await asyncio.to_thread(self.adopt, path)
        finally:
            path.unlink(missing_ok=True)

    def _place(self, sha256: str) -> Path:
        return self.root / sha256[:2] / sha256
