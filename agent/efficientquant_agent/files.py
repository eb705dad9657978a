"""Files that are written completely or not at all."""

import contextlib
import os
from typing import Any


def write_whole(path: str, content: Any) -> None:
    """Write a file completely or not at all.

    Unlike write_atomically(), it does not survive a power cut.
    """
    part = path + ".part"
    try:
        with open(part, "wb") as stream:
            stream.write(content)
        os.replace(part, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)


def write_atomically(path: str, data: bytes) -> None:
    """Replace a file atomically and durably.

    After a power cut the file has either the old or the new content.
    """
    partial = path + ".new"
    with open(partial, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(partial, path)
    sync_directory(os.path.dirname(path))


def sync_directory(path: str) -> None:
    """Make a rename inside a directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
