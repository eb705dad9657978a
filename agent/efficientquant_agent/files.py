"""Files that are written completely or not at all."""

import contextlib
import os
from typing import Any


def write_whole(path: str, content: Any, durable: bool = False) -> None:
    """Replace a file with `content` (bytes), completely or not at all.

    A durable write survives a power cut: the file then has either the old or the new content. Raises OSError when the
    disk refuses, and leaves no partial file.
    """
    part = path + ".part"
    try:
        with open(part, "wb") as stream:
            stream.write(content)
            if durable:
                stream.flush()
                os.fsync(stream.fileno())
        os.replace(part, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)
    if durable:
        sync_directory(os.path.dirname(path))


def sync_directory(path: str) -> None:
    """Make a rename inside a directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
