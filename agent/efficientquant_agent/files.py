"""Files that are written completely or not at all."""

import contextlib
import errno
import os
from typing import Any, Iterator

# What a disk says that takes no more bytes: it is full, a quota or the process's limit is used up, or it is read-only.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def has_no_room(error: OSError) -> bool:
    """Tell whether a write failed because the disk takes no more bytes."""
    return error.errno in NO_ROOM


def free_bytes(path: str) -> int:
    """Return how many bytes the disk of `path` still takes.

    A directory that somebody removed would be on the disk of its parent.
    """
    status = _disk_of(path)
    return status.f_bavail * status.f_frsize


def disk_bytes(path: str) -> int:
    """Return the size of the disk of `path`."""
    status = _disk_of(path)
    return status.f_blocks * status.f_frsize


def _disk_of(path: str) -> os.statvfs_result:
    path = os.path.abspath(path)
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return os.statvfs(path)


def write_whole(path: str, content: Any, durable: bool = False) -> None:
    """Replace a file with `content` (bytes), completely or not at all.

    A durable write survives a power cut: the file then has either the old or the new content. Raises OSError when the
    disk refuses, and leaves no partial file.
    """
    with _whole(path, durable) as stream:
        stream.write(content)


@contextlib.contextmanager
def _whole(path: str, durable: bool) -> Iterator[Any]:
    """Give a stream whose content replaces the file at the end."""
    part = path + ".part"
    try:
        with open(part, "wb") as stream:
            yield stream
            if durable:
                stream.flush()
                os.fsync(stream.fileno())
        os.replace(part, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)
    if durable:
        sync_directory(os.path.dirname(path))


def write_json_durably(path: str, content: bytes) -> None:
    """Replace a JSON file durably, in place on a full disk.

    In place it takes no new block. Spaces then cover the end of a longer old content, which JSON allows. Raises OSError
    when the disk refuses both.
    """
    try:
        write_whole(path, content, durable=True)
    except OSError as error:
        if not has_no_room(error) or not os.path.exists(path):
            raise
        with open(path, "r+b", buffering=0) as stream:
            status = os.fstat(stream.fileno())
            if len(content) > max(status.st_size, status.st_blocks * 512):
                raise
            stream.write(content.ljust(status.st_size))
            os.fsync(stream.fileno())


def allocate(path: str, size_bytes: int) -> None:
    """Make a file that has all its blocks.

    Raises OSError without room for it, and leaves no partial file.
    """
    with _whole(path, durable=True) as stream:
        try:
            os.posix_fallocate(stream.fileno(), 0, size_bytes)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise
            stream.write(bytes(size_bytes))  # the file system cannot allocate


def sync_directory(path: str) -> None:
    """Make a rename inside a directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
