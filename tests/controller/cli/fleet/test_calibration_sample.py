"""Packing images for the upload."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from efficientquant.errors import DataError
from efficientquant_controller.cli.fleet.calibration_sample import pack_images
from PIL import Image


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a data set's root with 40 training images in two classes and a validation image."""
    for index in range(40):
        folder = tmp_path / "photos" / "train" / ("cat" if index % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), index, np.uint8)).save(folder / f"{index}.png")
    (tmp_path / "photos/val/cat").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "photos/val/cat/v.png")
    return tmp_path / "photos"


def test_a_folder_becomes_a_sample_of_its_training_images(photos: Path, tmp_path: Path) -> None:
    """32 training images are packed unchanged, the same number of each class."""
    packed = pack_images(photos, tmp_path, 32)

    with zipfile.ZipFile(packed) as archive:
        names = archive.namelist()
        contents = {name: archive.read(name) for name in names}
    assert (packed.name, len(names)) == ("photos.zip", 32)
    assert sum(name.startswith("cat/") for name in names) == 16
    assert all((photos / "train" / name).read_bytes() == content for name, content in contents.items())


def test_equal_samples_are_equal_files(photos: Path, tmp_path: Path) -> None:
    """Packing the same images twice gives the same bytes, so that an existing artifact is reused."""
    (tmp_path / "again").mkdir()
    assert pack_images(photos, tmp_path, 32).read_bytes() == pack_images(photos, tmp_path / "again", 32).read_bytes()


def test_arrays_are_sent_as_they_are(tmp_path: Path) -> None:
    """An .npz is uploaded itself."""
    path = tmp_path / "images.npz"
    np.savez(path, images=np.zeros((2, 8, 8, 3), np.uint8))
    assert pack_images(path, tmp_path / "nowhere", 32) == path


def test_an_image_that_cannot_be_read_is_named_before_the_upload(photos: Path, tmp_path: Path) -> None:
    """A damaged image is an error before the upload, and no archive is left."""
    for path in (photos / "train").rglob("*.png"):
        path.write_bytes(path.read_bytes()[:45])
    with pytest.raises(DataError, match=r"photos/train/(cat|dog)/\d+\.png: cannot be decoded"):
        pack_images(photos, tmp_path, 32)
    assert not (tmp_path / "photos.zip").exists()


def test_images_of_equal_pixels_are_named(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Images of equal pixels are uploaded, and messages name them."""
    pack_images(photos, tmp_path, 32)
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith("note: data photos: ") for line in lines)
    assert lines[0].endswith(".png: all pixels are equal")
    assert lines[-1] == "note: data photos: 27 more images like these"


@pytest.mark.parametrize("name", ["nowhere", "photos/val", "notes.txt"])
def test_what_holds_no_training_images_is_refused(photos: Path, tmp_path: Path, name: str) -> None:
    """A missing folder, a folder without images and another kind of file are each refused."""
    (photos / "val/cat/v.png").unlink()
    (tmp_path / "notes.txt").write_text("notes")
    with pytest.raises(DataError, match=name):
        pack_images(tmp_path / name, tmp_path, 32)
