import pickle

import numpy as np
import pytest
import torch
from efficientquant.errors import DataError
from efficientquant.images.data import open_images
from efficientquant.models import InputSpec

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
NORMALIZED = InputSpec((3, 32, 32), "bicubic", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 1.0)
AS_PIXELS = InputSpec((3, 32, 32), "bicubic", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 1.0)


def load(path, spec):
    return torch.cat([images for images, _ in open_images(path, spec).batches()])


@pytest.mark.parametrize("kind", ["<u2", ">u2"])
@pytest.mark.parametrize("first", [False, True])
def test_16_bits_are_the_picture_with_8(tmp_path, kind, first):
    """uint16 pixels go to 65535, in either byte order and layout."""
    wide = (PIXELS.astype(np.uint16) * 257).astype(kind)
    np.savez(tmp_path / "wide.npz", images=wide.transpose(0, 3, 1, 2) if first else wide)
    np.savez(tmp_path / "narrow.npz", images=PIXELS)
    wide, narrow = (load(tmp_path / f"{name}.npz", NORMALIZED) for name in ("wide", "narrow"))
    assert torch.allclose(wide, narrow, atol=1e-6)


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        (PIXELS.transpose(0, 3, 1, 2).astype(np.float32), r"holds floats from 0 to 255, but the model takes \(pixel"),
        (PIXELS.transpose(0, 3, 1, 2) / 255.0, "holds floats from 0 to 1, but the model takes"),
        (PIXELS / 255.0, r"is float64 \(2, 32, 32, 3\); the model takes"),
        (PIXELS.astype(np.int64), "is int64"),
        (PIXELS > 100, "is bool"),
        ((PIXELS > 100).astype(np.uint8), "is uint8 and holds only 0 and 1, where white is 255"),
        (PIXELS.astype(np.uint16), "is uint16 up to 255, where white is 65535"),
    ],
)
def test_numbers_that_would_be_another_picture_are_refused(tmp_path, images, sentence):
    """Arrays that would be read as white, black or pale are refused with the array's range."""
    np.savez(tmp_path / "a.npz", images=images)
    with pytest.raises(DataError, match=rf"a\.npz: 'images' {sentence}"):
        open_images(tmp_path / "a.npz", NORMALIZED)


def test_a_model_that_takes_pixels_gets_them(tmp_path):
    """Floats from 0 to 1 are right for a model that is not normalized otherwise."""
    np.savez(tmp_path / "a.npz", images=PIXELS.transpose(0, 3, 1, 2) / 255.0)
    assert float(load(tmp_path / "a.npz", AS_PIXELS).max()) == 1.0


def test_an_array_of_equal_pixels_is_named(tmp_path):
    """An image without content is used, and a note names it."""
    images = PIXELS.copy()
    images[1] = 9
    np.savez(tmp_path / "a.npz", images=images)
    data = open_images(tmp_path / "a.npz", NORMALIZED)
    list(data.batches())
    assert data.notes() == ["data a.npz: images[1]: all pixels are equal"]


@pytest.mark.parametrize("name", ["pickle", "npy", "objects", "damaged"])
def test_a_file_that_is_no_npz_is_refused_without_advice_to_unpickle(tmp_path, name):
    """No sentence tells anybody to switch numpy's safety off."""
    path = tmp_path / "a.npz"
    if name == "pickle":
        path.write_bytes(pickle.dumps({"images": 1}))
    elif name == "npy":
        with path.open("wb") as file:
            np.save(file, PIXELS)
    elif name == "objects":
        np.savez(path, images=np.array([None]))
    else:
        np.savez_compressed(path, images=PIXELS)
        content = bytearray(path.read_bytes())
        content[300:360] = bytes(60)
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.npz: cannot be read as an \.npz") as caught:
        open_images(path, NORMALIZED)
    assert "pickle" not in str(caught.value)
