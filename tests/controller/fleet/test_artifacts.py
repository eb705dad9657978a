"""The folder of files named by their SHA-256."""

import asyncio
import hashlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from efficientquant_controller.errors import NotFoundError, UserError
from efficientquant_controller.fleet.artifacts import ContentStore

CONTENT = b"an artifact"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> ContentStore:
    return ContentStore(tmp_path / "artifacts")


async def chunks(*parts: tuple[int, bytes]) -> AsyncIterator[tuple[int, bytes]]:
    for part in parts:
        yield part


def test_a_file_is_found_by_its_hash(store: ContentStore) -> None:
    """An adopted file is stored under its SHA-256, and its scratch file is gone."""
    scratch = store.scratch()
    scratch.write_bytes(CONTENT)
    assert store.adopt(scratch) == (SHA256, len(CONTENT))
    assert store.path(SHA256).read_bytes() == CONTENT
    assert not scratch.exists()


def test_a_file_with_another_hash_is_not_kept(store: ContentStore) -> None:
    """A damaged file is refused and deleted."""
    scratch = store.scratch()
    scratch.write_bytes(b"something else")
    with pytest.raises(UserError, match="damaged"):
        store.adopt(scratch, SHA256)
    assert not store.has(SHA256)
    assert not scratch.exists()


def test_an_upload_is_stored_whole_or_not_at_all(store: ContentStore) -> None:
    """A gap between two chunks refuses the upload."""
    assert asyncio.run(store.receive(chunks((0, CONTENT[:3]), (3, CONTENT[3:])))) == (SHA256, len(CONTENT))
    with pytest.raises(UserError, match="byte 3 was next"):
        asyncio.run(store.receive(chunks((0, CONTENT[:3]), (4, CONTENT[4:]))))
    assert list((store.root / "incoming").iterdir()) == []


@pytest.mark.parametrize("name", ["", "..", "../../etc/passwd", SHA256[:-1], SHA256.upper()])
def test_a_name_that_is_no_hash_is_not_looked_for(store: ContentStore, name: str) -> None:
    """No request reaches a path outside the folder."""
    with pytest.raises(NotFoundError):
        store.path(name)


def test_half_files_of_a_killed_controller_are_removed(store: ContentStore) -> None:
    """A store deletes partial files when its controller cleans up, and not when it opens."""
    store.scratch().write_bytes(b"half")
    opened = ContentStore(store.root)
    assert len(list((store.root / "incoming").iterdir())) == 1
    opened.clean()
    assert list((store.root / "incoming").iterdir()) == []


def test_a_folder_that_was_removed_is_made_again(store: ContentStore) -> None:
    """A removed folder costs its files, and takes new ones."""
    shutil.rmtree(store.root)
    scratch = store.scratch()
    scratch.write_bytes(CONTENT)
    assert store.adopt(scratch) == (SHA256, len(CONTENT))
    assert store.path(SHA256).read_bytes() == CONTENT
