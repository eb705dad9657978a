"""Files named by their SHA-256: artifacts and uploaded checkpoints or images."""

import asyncio
import errno
import hashlib
import os
import re
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from efficientquant_controller.errors import NotFoundError, StoreError, UserError

_SHA256 = re.compile(r"[0-9a-f]{64}")


class ContentStore:
    """A folder of files named by their SHA-256.

    A file gets its name only when it is complete. Raises UserError when the folder cannot be created. Whoever owns the
    folder calls `clean` before the first file.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            self._incoming.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"the artifact folder {root} cannot be created: {error.strerror}; pass --artifacts DIR"
            ) from error

    def clean(self) -> None:
        """Remove the partial files of a killed controller."""
        for leftover in self._incoming.iterdir():
            leftover.unlink()

    @property
    def _incoming(self) -> Path:
        return self.root / "incoming"

    def path(self, sha256: str) -> Path:
        """Return the path of a stored file.

        Raises NotFoundError when the name is not a SHA-256 or the file is not stored.
        """
        if not _SHA256.fullmatch(sha256):
            raise NotFoundError(f"'{sha256}' is not the name of an artifact, which has 64 hexadecimal digits")
        path = self._place(sha256)
        if not path.is_file():
            raise NotFoundError(f"no artifact {sha256} is stored here; run the benchmark again to build it")
        return path

    def has(self, sha256: str) -> bool:
        """Tell whether the file is stored."""
        return self._place(sha256).is_file()

    def scratch(self, suffix: str = "") -> Path:
        """Return a new path for a file that `adopt` will store."""
        with self._writing():
            handle, name = tempfile.mkstemp(dir=self._incoming, suffix=suffix)
            os.close(handle)
        return Path(name)

    def adopt(self, path: Path, sha256: str | None = None) -> tuple[str, int]:
        """Store a finished file under its hash and return (SHA-256, bytes).

        The file is on disk when this returns. One whose hash is not `sha256` is deleted, which raises UserError. Raises
        StoreError when the disk refuses.
        """
        with self._writing():
            return self._adopt(path, sha256)

    def _adopt(self, path: Path, sha256: str | None) -> tuple[str, int]:
        with path.open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
            size = os.fstat(file.fileno()).st_size
            os.fsync(file.fileno())
        if sha256 is not None and actual != sha256:
            path.unlink()
            raise UserError(f"{path.name} has SHA-256 {actual}, not {sha256}: it was damaged on the way; send it again")
        place = self._place(actual)
        place.parent.mkdir(exist_ok=True)
        path.replace(place)
        folder = os.open(place.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return actual, size

    async def receive(self, chunks: AsyncIterator[tuple[int, bytes]]) -> tuple[str, int]:
        """Store a file that arrives in chunks and return (SHA-256, bytes).

        Each chunk is (offset, bytes). Raises UserError when a chunk is missing or out of order, and StoreError when the
        disk refuses.
        """
        path = self.scratch()
        try:
            with self._writing(), path.open("wb") as file:
                async for offset, data in chunks:
                    if offset != file.tell():
                        raise UserError(
                            f"a chunk came for byte {offset} where byte {file.tell()} was next; send it again"
                        )
                    file.write(data)
            return await asyncio.to_thread(self.adopt, path)
        finally:
            path.unlink(missing_ok=True)

    @contextmanager
    def reading(self, sha256: str) -> Iterator[BinaryIO]:
        """Open a stored file.

        Raises NotFoundError when it is not stored, and StoreError when it cannot be read.
        """
        path = self.path(sha256)
        try:
            with path.open("rb") as file:
                yield file
        except OSError as error:
            raise StoreError(f"the artifact {path} cannot be read: {error.strerror or error}") from error

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            self._incoming.mkdir(parents=True, exist_ok=True)  # somebody may have removed it
            yield
        except OSError as error:
            raise StoreError(
                f"the artifact folder {self.root} cannot be written: {error.strerror or error}; make room there, or "
                "check its permissions"
            ) from error

    def _place(self, sha256: str) -> Path:
        return self.root / sha256[:2] / sha256


def is_full(error: BaseException | None) -> bool:
    """Tell whether an error says that a disk is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
