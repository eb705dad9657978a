import dataclasses
import re

import numpy as np
import pytest
import torch
from efficientquant.errors import DataError
from efficientquant.images.data import has_split, open_images
from efficientquant.models import InputSpec
from PIL import Image
from timm.data.transforms_factory import create_transform

SPEC = InputSpec(shape=(3, 32, 32), interpolation="bicubic", mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), crop_pct=0.9)
WNIDS = ("n01440764", "n01443537", "n03995372")  # classes 0, 1 and 740 of ImageNet-1k


@pytest.fixture
def picture():
    """Return a function (path, seed) that writes a seeded picture of 50×40 pixels."""

    def write(path, seed=0):
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        return path

    return write


@pytest.fixture
def classes(picture, tmp_path):
    """Return an ImageFolder of two classes with three images each."""
    for name in ("cat", "dog"):
        for number in range(3):
            picture(tmp_path / "animals" / name / f"{number}.png", seed=number)
    return tmp_path / "animals"


def everything(data, batch=32):
    batches = list(data.batches(batch))
    labels = None if batches[0][1] is None else torch.cat([label for _, label in batches])
    return torch.cat([images for images, _ in batches]), labels


def test_files_go_through_timms_evaluation_transform(picture, tmp_path):
    """A file is resized, cropped and normalized exactly as timm evaluates the model."""
    path = picture(tmp_path / "one.png")
    ours, _ = everything(open_images(tmp_path, SPEC))
    timms = create_transform(
        input_size=(3, 32, 32), interpolation="bicubic", mean=SPEC.mean, std=SPEC.std, crop_pct=0.9
    )
    assert torch.equal(ours[0], timms(Image.open(path)))


def test_class_folders_are_labels_in_sorted_order(classes):
    """Each sub-folder is a class, as in torchvision's ImageFolder."""
    data = open_images(classes, SPEC)
    assert (data.kind, data.classes) == ("image-folder", ("cat", "dog"))
    assert everything(data, batch=4)[1].tolist() == [0, 0, 0, 1, 1, 1]


def test_a_flat_folder_has_no_labels(picture, tmp_path):
    """Images alone can be read, and asking for their labels raises an error that says how to give them."""
    picture(tmp_path / "one.png")
    data = open_images(tmp_path, SPEC)
    assert everything(data)[1] is None
    with pytest.raises(DataError, match=r"one\.png has no label; sort images into one folder per class"):
        data.for_classes(10)


def test_a_root_gives_the_split_that_is_asked_for(picture, tmp_path):
    """Below a root with train/ and val/, val is for evaluation and train for calibration."""
    picture(tmp_path / "train" / "cat" / "t.png")
    picture(tmp_path / "val" / "cat" / "v.png")
    assert open_images(tmp_path, SPEC).source.names == ["cat/v.png"]
    assert open_images(tmp_path, SPEC, split="train").source.names == ["cat/t.png"]
    assert has_split(tmp_path, "train")
    assert not has_split(tmp_path / "val", "train")


def test_a_root_without_the_split_says_what_it_has(picture, tmp_path):
    """The error for a missing split lists the splits that exist."""
    picture(tmp_path / "val" / "cat" / "v.png")
    with pytest.raises(DataError, match=r"has no train/ folder \(it has val\)"):
        open_images(tmp_path, SPEC, split="train")


def test_wnid_folders_get_imagenets_indices(picture, tmp_path):
    """Some of ImageNet's thousand folders suffice: their labels are the model's, not their positions."""
    for wnid in WNIDS:
        picture(tmp_path / wnid / "a.JPEG")
    data = open_images(tmp_path, SPEC).for_classes(1000)
    assert data.kind == "imagenet-folder"
    assert data.labels_at(0, 3).tolist() == [0, 1, 740]


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("val.txt", "ILSVRC2012_val_00000001.JPEG 65\nILSVRC2012_val_00000002.JPEG 740\n"),
        (
            "LOC_val_solution.csv",
            "ImageId,PredictionString\nILSVRC2012_val_00000002,n03995372 85 1 499 272\n"
            "ILSVRC2012_val_00000001,n01751748 44 143 338 274 n01751748 1 2 3 4\n",
        ),
    ],
)
def test_imagenets_flat_images_take_labels_from_a_file_next_to_them(picture, tmp_path, name, lines):
    """Flat ILSVRC2012_val images find val.txt, or Kaggle's solution, in the folder above."""
    for number in (1, 2):
        picture(tmp_path / "val" / f"ILSVRC2012_val_0000000{number}.JPEG")
    (tmp_path / name).write_text(lines)
    assert open_images(tmp_path / "val", SPEC).labels == (65, 740)


def test_the_devkits_numbers_are_refused(picture, tmp_path):
    """ILSVRC2012_IDs are refused, since they look like class indices but are in another order."""
    picture(tmp_path / "ILSVRC2012_val_00000001.JPEG")
    (tmp_path / "ILSVRC2012_validation_ground_truth.txt").write_text("490\n")
    with pytest.raises(DataError, match="its numbers are ILSVRC2012_IDs, which are not the model's class indices"):
        open_images(tmp_path, SPEC)


def test_an_npz_is_resized_bilinearly_and_normalized(tmp_path):
    """uint8 images of another size are resized with align_corners=False, divided by 255 and normalized."""
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=images, labels=np.array([2, 0, 1]))
    ours, labels = everything(open_images(tmp_path / "a.npz", SPEC))
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    resized = torch.nn.functional.interpolate(pixels, size=(32, 32), mode="bilinear", align_corners=False) / 255
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (SPEC.mean, SPEC.std))
    assert torch.allclose(ours, (resized - mean) / std, atol=1e-6)
    assert labels.tolist() == [2, 0, 1]


def test_channels_first_and_floats(tmp_path):
    """uint8 (N, C, H, W) is read like (N, H, W, C), and floats are taken as they are."""
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    floats = np.random.default_rng(0).standard_normal((2, 3, 32, 32))
    for name, array in (("last", images), ("first", images.transpose(0, 3, 1, 2)), ("float", floats)):
        np.savez(tmp_path / f"{name}.npz", images=array)
    last, first, stored = (
        everything(open_images(tmp_path / f"{name}.npz", SPEC))[0] for name in ("last", "first", "float")
    )
    assert torch.equal(last, first)
    assert torch.equal(stored, torch.from_numpy(floats).float())


def test_a_sample_is_seeded_and_spread_over_classes(classes):
    """The same seed draws the same images, as many of each class, and another seed draws others."""
    data = open_images(classes, SPEC)
    sample = data.sample(4, seed=1)
    assert sample.indices == open_images(classes, SPEC).sample(4, seed=1).indices
    assert sorted(sample.labels[index] for index in sample.indices) == [0, 0, 1, 1]
    assert len({data.sample(4, seed=seed).indices for seed in range(8)}) > 1


def test_provenance_depends_on_content_and_not_on_the_place(classes, picture, tmp_path):
    """The hash of the list is that of names, contents and labels, wherever the folder lies."""
    before = open_images(classes, SPEC).provenance()
    moved = classes.rename(tmp_path / "elsewhere")
    assert open_images(moved, SPEC).provenance() == before
    picture(moved / "dog" / "2.png", seed=99)
    assert open_images(moved, SPEC).provenance()["sha256"] != before["sha256"]
    assert str(tmp_path) not in str(before)


def test_a_corrupt_image_is_named(classes):
    """A file that cannot be decoded raises an error with its path when its batch is read."""
    broken = classes / "dog" / "1.png"
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(DataError, match=re.escape(f"{broken}: cannot be decoded")):
        everything(open_images(classes, SPEC))
    broken.write_text("no image")
    with pytest.raises(DataError, match=re.escape(f"{broken}: is no image that can be decoded")):
        everything(open_images(classes, SPEC))


def test_a_class_mismatch_is_named(classes):
    """Two class folders do not fit a model of ten outputs."""
    with pytest.raises(DataError, match="has 2 classes, but the model has 10 outputs"):
        open_images(classes, SPEC).for_classes(10)


def test_folders_without_images_are_named(classes, picture, tmp_path):
    """No images at all, an empty class, and images next to class folders are three different errors."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: holds no images"):
        open_images(tmp_path / "empty", SPEC)
    (classes / "cow").mkdir()
    with pytest.raises(DataError, match="cow: holds no images; a class folder must hold some"):
        open_images(classes, SPEC)
    stray = picture(classes / "stray.png")
    with pytest.raises(DataError, match=re.escape(f"{stray}: is next to class folders")):
        open_images(classes, SPEC)


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"x": np.zeros(3)}, r"has no array 'images' \(it has x\)"),
        ({"images": np.zeros((2, 8, 8), np.uint8)}, r"'images' is uint8 \(2, 8, 8\); the model takes uint8"),
        ({"images": np.zeros((2, 3, 16, 16), np.float32)}, r"'images' is float32 \(2, 3, 16, 16\); the model takes"),
        ({"images": np.zeros((0, 8, 8, 3), np.uint8)}, "'images' holds no images"),
        ({"images": np.full((1, 3, 32, 32), np.nan)}, r"images\[0\] holds NaN or infinity"),
        ({"images": np.zeros((2, 8, 8, 3), np.uint8), "labels": np.zeros(3, int)}, r"'labels' is int64 \(3,\)"),
        ({"images": np.array([None, 1])}, "cannot be read as an .npz"),
    ],
)
def test_a_wrong_npz_is_named(tmp_path, arrays, sentence):
    """What is wrong in an .npz is one sentence naming file and array."""
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=sentence) as error:
        open_images(tmp_path / "a.npz", SPEC)
    assert str(tmp_path / "a.npz") in str(error.value)


def test_paths_that_are_no_data_are_named(tmp_path):
    """A path that does not exist, a text file and a broken archive are three different errors."""
    with pytest.raises(DataError, match="there is no such file or folder"):
        open_images(tmp_path / "nowhere", SPEC)
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(DataError, match=r"is neither a folder of images nor an \.npz file"):
        open_images(tmp_path / "a.txt", SPEC)
    (tmp_path / "b.npz").write_bytes(b"PK\x03\x04 broken")
    with pytest.raises(DataError, match=r"b\.npz: cannot be read as an \.npz"):
        open_images(tmp_path / "b.npz", SPEC)


def test_a_label_outside_the_model_is_named(tmp_path):
    """The error for a label that the model has no output for names its image."""
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 8, 8, 3), np.uint8), labels=np.array([3, 10]))
    with pytest.raises(DataError, match=r"images\[1\] has label 10, but the model has 10 outputs, 0 to 9"):
        open_images(tmp_path / "a.npz", SPEC).for_classes(10)


def test_one_channel_models_get_grey_images(picture, tmp_path):
    """Where the model takes one channel, files are read in grey."""
    picture(tmp_path / "one.png")
    grey = dataclasses.replace(SPEC, shape=(1, 32, 32), mean=(0.5,), std=(0.2,))
    assert everything(open_images(tmp_path, grey))[0].shape == (1, 1, 32, 32)
