"""The tests of files that are written completely or not at all."""

import os

import pytest
from efficientquant_agent.files import write_whole


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
