"""Where images come from: files behind timm's evaluation transform, or the arrays of an .npz."""

import csv
import functools
import hashlib
import io
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from timm.data.imagenet_info import ImageNetInfo
from timm.data.transforms_factory import create_transform
from torch import Tensor
from torch.nn import functional

from efficientquant.errors import DataError
from efficientquant.models import InputSpec

Labels = tuple[int, ...] | None
Classes = tuple[str, ...] | None

_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
_VAL_TXT = "val.txt"
_KAGGLE_CSV = "LOC_val_solution.csv"
_DEVKIT_TXT = "ILSVRC2012_validation_ground_truth.txt"
# Kaggle's archive keeps its labels four folders above the images in ILSVRC/Data/CLS-LOC/val.
_LABELS_ABOVE = 4


class ImageSource(Protocol):
    """Numbered images; all of them are named, none is held decoded."""

    @property
    def kind(self) -> str:
        """What it is, in a word."""

    @property
    def names(self) -> Sequence[str]:
        """The name of each image, without any machine's path."""

    def load(self, index: int) -> Tensor:
        """Return an image (C, H, W) as the model takes it; raise DataError naming the file. Called from threads."""

    def digest(self, index: int) -> str:
        """Return the SHA-256 of the image as stored."""


class ImageFiles:
    """Image files below a folder, each prepared by timm's evaluation transform for the model."""

    def __init__(self, folder: Path, names: Sequence[str], kind: str, spec: InputSpec) -> None:
        self.kind = kind
        self.names = names
        self._folder = folder
        self._mode = "L" if spec.shape[0] == 1 else "RGB"
        self._digests: dict[int, str] = {}
        self._transform: Callable[[Image.Image], Tensor] = create_transform(
            input_size=spec.shape,
            interpolation=spec.interpolation,
            mean=spec.mean,
            std=spec.std,
            crop_pct=spec.crop_pct,
            crop_mode=spec.crop_mode,
        )

    def load(self, index: int) -> Tensor:
        """Read, decode, resize, crop and normalize one file."""
        path = self._folder / self.names[index]
        content = self._read(index)
        try:
            with Image.open(io.BytesIO(content)) as image:
                return self._transform(image.convert(self._mode))
        except UnidentifiedImageError:
            raise DataError(path, "is no image that can be decoded") from None
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise DataError(path, f"cannot be decoded ({error})") from error

    def digest(self, index: int) -> str:
        """Return the SHA-256 of the file's bytes, reading it unless it was read before."""
        if index not in self._digests:
            self._read(index)
        return self._digests[index]

    def _read(self, index: int) -> bytes:
        path = self._folder / self.names[index]
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataError(path, f"cannot be read ({error.strerror})") from error
        self._digests[index] = hashlib.sha256(content).hexdigest()
        return content


class ImageArrays:
    """The images of an .npz: uint8 (N, H, W, C) of any size, or floats (N, C, H, W) as the model takes them."""

    kind = "npz"

    def __init__(self, images: np.ndarray, spec: InputSpec) -> None:
        self.names = [f"images[{index}]" for index in range(len(images))]
        self._images = images
        self._size = spec.shape[1:]
        self._mean = torch.tensor(spec.mean).reshape(-1, 1, 1)
        self._std = torch.tensor(spec.std).reshape(-1, 1, 1)

    def load(self, index: int) -> Tensor:
        """Resize bilinearly, scale to 0…1 and normalize one image; floats stay as they are."""
        stored = torch.from_numpy(self._images[index])
        if stored.is_floating_point():
            return stored.float()
        pixels = stored.permute(2, 0, 1)[None].float()
        if tuple(pixels.shape[2:]) != self._size:
            pixels = functional.interpolate(pixels, size=self._size, mode="bilinear", align_corners=False)
        image: Tensor = (pixels[0] / 255.0 - self._mean) / self._std
        return image

    def digest(self, index: int) -> str:
        """Return the SHA-256 of the image's shape, type and bytes."""
        image = np.ascontiguousarray(self._images[index])
        return hashlib.sha256(f"{image.dtype.str} {image.shape} ".encode() + image.tobytes()).hexdigest()


def open_files(folder: Path, spec: InputSpec) -> tuple[ImageSource, Labels, Classes]:
    """Return the images of a folder, flat or one sub-folder per class, with their labels and class names if any."""
    here = sorted(entry.name for entry in folder.iterdir() if _is_image(entry))
    below = _class_folders(folder)
    if here and below:
        raise DataError(folder / here[0], "lies beside class folders; move it into one, or out of the way")
    if here:
        labels = _labels_beside(folder, here)
        return ImageFiles(folder, here, "folder", spec), labels, None
    if not any(below.values()):
        raise DataError(folder, f"holds no images ({', '.join(sorted(_SUFFIXES))})")
    for name, files in below.items():
        if not files:  # it would shift the index of every class behind it
            raise DataError(folder / name, "holds no images; a class folder must hold some, or be removed")
    names = [file for files in below.values() for file in files]
    labels = tuple(label for label, files in enumerate(below.values()) for _ in files)
    kind = "imagenet-folder" if imagenet_labels(tuple(below)) is not None else "image-folder"
    return ImageFiles(folder, names, kind, spec), labels, tuple(below)


def imagenet_labels(classes: Sequence[str]) -> list[int] | None:
    """Return ImageNet-1k's index of each wnid, or None where a name is not one of its thousand."""
    indices = _imagenet_indices()
    return [indices[name] for name in classes] if all(name in indices for name in classes) else None


@functools.cache
def _imagenet_indices() -> dict[str, int]:
    return {wnid: index for index, wnid in enumerate(ImageNetInfo().label_names())}  # type: ignore[no-untyped-call]


def _class_folders(folder: Path) -> dict[str, list[str]]:
    """Return the image files (relative) of each sub-folder, in sorted order, as torchvision's ImageFolder has them."""
    classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    return {
        name: sorted(file.relative_to(folder).as_posix() for file in (folder / name).rglob("*") if _is_image(file))
        for name in classes
    }


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in _SUFFIXES and not path.name.startswith(".") and path.is_file()


def _labels_beside(folder: Path, names: list[str]) -> Labels:
    """Return the labels that a file in or above the folder gives to the images, or None without such a file."""
    for place in (folder, folder.parent):
        if (place / _VAL_TXT).is_file():
            return _look_up(_read_val_txt(place / _VAL_TXT), names, folder, place / _VAL_TXT)
    if not names[0].startswith("ILSVRC2012_val_"):
        return None
    above = [folder, *folder.parents[:_LABELS_ABOVE]]
    for place in above:
        if (place / _KAGGLE_CSV).is_file():
            return _look_up(_read_kaggle(place / _KAGGLE_CSV), names, folder, place / _KAGGLE_CSV)
    for place in above[:2]:
        if (place / _DEVKIT_TXT).is_file():
            raise DataError(
                place / _DEVKIT_TXT,
                "its numbers are ILSVRC2012_IDs, which are not the model's class indices; put val.txt ('NAME INDEX' "
                f"lines) or {_KAGGLE_CSV} there, or sort the images into wnid folders",
            )
    return None


def _look_up(known: dict[str, int], names: list[str], folder: Path, listing: Path) -> tuple[int, ...]:
    missing = next((name for name in names if Path(name).stem not in known), None)
    if missing is not None:
        raise DataError(folder / missing, f"has no line in {listing.name}")
    return tuple(known[Path(name).stem] for name in names)


def _read_val_txt(path: Path) -> dict[str, int]:
    """Return the class index by the image's stem, of lines such as "ILSVRC2012_val_00000001.JPEG 65"."""
    labels = {}
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1):
        parts = line.split()
        if not parts:
            continue
        if len(parts) != 2 or not parts[1].isdecimal():
            raise DataError(path, f"line {number} is not of the form 'NAME INDEX'")
        labels[Path(parts[0]).stem] = int(parts[1])
    return labels


def _read_kaggle(path: Path) -> dict[str, int]:
    """Return the class index by the image's stem, of lines such as "ILSVRC2012_val_00048981,n03995372 85 1 499 272"."""
    indices = _imagenet_indices()
    labels = {}
    with path.open(newline="", errors="replace") as file:
        for number, row in enumerate(csv.reader(file), start=1):
            wnid = row[1].split(" ")[0] if len(row) == 2 else ""
            if wnid in indices:
                labels[row[0]] = indices[wnid]
            elif number > 1:
                raise DataError(path, f"line {number} names no wnid of ImageNet-1k")
    return labels


def open_arrays(path: Path, spec: InputSpec) -> tuple[ImageSource, Labels]:
    """Return the images of an .npz and its labels, if it has any; raise DataError saying what is wrong in it."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            names = list(stored)
            if "images" not in names:
                raise DataError(path, f"has no array 'images' (it has {', '.join(names) or 'none'})")
            images = stored["images"]
            labels = stored["labels"] if "labels" in names else None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(path, f"cannot be read as an .npz ({error})") from error
    images = _check_images(path, images, spec)
    return ImageArrays(images, spec), None if labels is None else _check_labels(path, labels, len(images))


def _check_images(path: Path, images: np.ndarray, spec: InputSpec) -> np.ndarray:
    channels, height, width = spec.shape
    wanted = f"uint8 (N, H, W, {channels}) or float (N, {channels}, {height}, {width})"
    found = f"'images' is {images.dtype} {images.shape}; the model takes {wanted}"
    if images.ndim != 4:
        raise DataError(path, found)
    if len(images) == 0:
        raise DataError(path, "'images' holds no images")
    if images.dtype == np.uint8 and channels in (images.shape[3], images.shape[1]):
        return images if images.shape[3] == channels else images.transpose(0, 2, 3, 1)
    if not np.issubdtype(images.dtype, np.floating) or images.shape[1:] != spec.shape:
        raise DataError(path, found)
    broken = next((index for index, image in enumerate(images) if not np.isfinite(image).all()), None)
    if broken is not None:
        raise DataError(path, f"images[{broken}] holds NaN or infinity")
    return images.astype(np.float32)


def _check_labels(path: Path, labels: np.ndarray, images: int) -> tuple[int, ...]:
    if labels.shape != (images,) or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(path, f"'labels' is {labels.dtype} {labels.shape}; {images} images take integers ({images},)")
    values: list[Any] = labels.tolist()
    return tuple(values)
