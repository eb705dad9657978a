"""The tests of files that are written completely or not at all."""

import errno
import os

import pytest
from efficientquant_agent import files
from efficientquant_agent.files import allocate, write_json_durably, write_whole


@pytest.mark.parametrize("durable", [False, True])
def test_a_file_is_replaced(tmp_path, durable):
    """The new content replaces the old, and no other file is left."""
    path = tmp_path / "file"
    path.write_bytes(b"old")

    write_whole(str(path), b"new", durable=durable)

    assert path.read_bytes() == b"new"
    assert os.listdir(str(tmp_path)) == ["file"]


def test_a_failed_write_changes_nothing(tmp_path, monkeypatch):
    """When the disk refuses, the old content stays and no partial file is left."""
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def refuse(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="No space left"):
        write_whole(str(path), b"new", durable=True)

    assert path.read_bytes() == b"old"
    assert os.listdir(str(tmp_path)) == ["file"]


def test_a_durable_write_is_on_the_disk(tmp_path, monkeypatch):
    """The content is synchronized before the rename, and the directory after it."""
    path, synchronized = tmp_path / "file", []
    monkeypatch.setattr(os, "fsync", lambda _descriptor: synchronized.append(path.exists()))

    write_whole(str(path), b"new", durable=True)

    assert synchronized == [False, True]


@pytest.fixture
def full_disk(monkeypatch):
    """Make every write of a whole file fail."""

    def refuse(*_arguments, **_options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "write_whole", refuse)


@pytest.mark.usefixtures("full_disk")
def test_json_on_a_full_disk(tmp_path):
    """On a full disk a JSON file is replaced in place."""
    path = tmp_path / "file"
    path.write_bytes(b'{"a": "long content"}')

    write_json_durably(str(path), b'{"a": 1}')

    assert path.read_bytes() == b'{"a": 1}'.ljust(21)


@pytest.mark.usefixtures("full_disk")
@pytest.mark.parametrize("old", [None, b"{}"])
def test_json_that_needs_new_blocks(tmp_path, old):
    """A file that needs new blocks stays unchanged on a full disk."""
    path = tmp_path / "file"
    if old is not None:
        path.write_bytes(old)

    with pytest.raises(OSError, match="No space left"):
        write_json_durably(str(path), b"x" * 100000)

    assert (path.read_bytes() if path.exists() else None) == old


@pytest.mark.parametrize("number", [None, errno.EOPNOTSUPP])
def test_allocated_file_has_its_blocks(tmp_path, monkeypatch, number):
    """An allocated file has all its blocks."""
    if number is not None:

        def refuse(_descriptor, _offset, _size):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "posix_fallocate", refuse)

    allocate(str(tmp_path / "file"), 100000)

    status = (tmp_path / "file").stat()
    assert (status.st_size, status.st_blocks * 512 >= 100000) == (100000, True)


def test_allocation_that_fails(tmp_path, monkeypatch):
    """A file that the disk has no room for leaves nothing."""

    def refuse(_descriptor, _offset, _size):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", refuse)

    with pytest.raises(OSError, match="No space left"):
        allocate(str(tmp_path / "file"), 100000)

    assert os.listdir(str(tmp_path)) == []
