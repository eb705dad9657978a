"""Checks of given paths."""

import numpy as np
import pytest
from efficientquant.errors import CheckpointError, DataError
from efficientquant.files.given_paths import checkpoint_of, require_images, require_weights


def test_images(tmp_path):
    """A folder with an image at any depth and an .npz pass, and other paths are refused by name."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "labels.csv").touch()
    (tmp_path / "train" / "cat").mkdir(parents=True)
    (tmp_path / "train" / "cat" / "1.JPEG").touch()
    (tmp_path / "text.npz").write_text("no arrays")
    (tmp_path / "a.zip").touch()
    np.savez(tmp_path / "good.npz", images=np.zeros((1, 8, 8, 3), np.uint8))

    for path in (None, tmp_path, tmp_path / "good.npz"):
        require_images(path)
    for name, problem in (
        ("nowhere", "there is no such file or folder"),
        ("n" * 300, "there is no such file or folder"),
        ("empty", "is an empty folder"),
        ("notes", r"holds no images \(\.avif, "),
        ("a.zip", "is neither a folder of images nor an .npz file"),
        ("text.npz", "is not an .npz file, whatever its name says"),
    ):
        with pytest.raises(DataError, match=problem):
            require_images(tmp_path / name)


def test_weights(tmp_path):
    """Existing files and named weights pass, and a folder gives the checkpoint with the model's name."""
    (tmp_path / "resnet18.pth").write_bytes(b"weights")
    (tmp_path / "empty.pth").touch()

    for weights in ("pretrained", "random", str(tmp_path / "resnet18.pth")):
        require_weights(weights)
    assert checkpoint_of(str(tmp_path), "resnet18") == tmp_path / "resnet18.pth"
    for weights, problem in (
        ("", "no name is given; give a file, or pass pretrained or random"),
        (str(tmp_path / "empty.pth"), "is empty"),
        ("/dev/null", "is not a regular file"),
    ):
        with pytest.raises(CheckpointError, match=problem):
            require_weights(weights)
    with pytest.raises(CheckpointError, match=r"is a folder; give a file"):
        require_weights(str(tmp_path))
    with pytest.raises(CheckpointError, match="there is no such file; give one, or pass pretrained or random"):
        require_weights(str(tmp_path / "nowhere.pth"))
