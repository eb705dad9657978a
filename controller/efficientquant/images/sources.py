"""Image files, prepared by timm's evaluation transform, and their labels."""

import csv
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from PIL import Image
from timm.data.imagenet_info import ImageNetInfo
from timm.data.transforms_factory import create_transform
from torch import Tensor

from efficientquant.errors import DataError
from efficientquant.files.given_paths import IMAGE_SUFFIXES
from efficientquant.images.pictures import is_uniform, read_picture
from efficientquant.models import InputSpec

Labels = tuple[int, ...] | None
Classes = tuple[str, ...] | None

_VAL_TXT = "val.txt"
_KAGGLE_CSV = "LOC_val_solution.csv"
_DEVKIT_TXT = "ILSVRC2012_validation_ground_truth.txt"
# Kaggle's archive keeps its labels four folders above the images in ILSVRC/Data/CLS-LOC/val.
_LABELS_ABOVE = 4
# macOS puts one into every archive it packs.
_NO_CLASS = "__MACOSX"
# The short side is brought to the model's size, so a strip of pixels would become a huge picture.
_MAX_RESIZED_PIXELS = 1 << 27


class ImageSource(Protocol):
    """Numbered and named images, decoded one by one."""

    @property
    def kind(self) -> str:
        """The kind of source, in a word."""

    @property
    def names(self) -> Sequence[str]:
        """The name of each image, without any machine's path."""

    @property
    def notes(self) -> Mapping[int, str]:
        """A sentence for each loaded image that looks wrong, by index."""

    def load(self, index: int) -> Tensor:
        """Return an image (C, H, W) as the model takes it.

        Called from threads. Raises DataError naming the file.
        """

    def digest(self, index: int) -> str:
        """Return the SHA-256 of the image as stored."""


class ImageFiles:
    """Image files below a folder, prepared by timm's evaluation transform."""

    def __init__(self, folder: Path, names: Sequence[str], kind: str, spec: InputSpec) -> None:
        self.kind = kind
        self.names = names
        self.notes: dict[int, str] = {}
        self._folder = folder
        self._spec = spec
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
        picture, notes = read_picture(path, self._read(index), self._mode)
        self._require_size(path, picture)
        if is_uniform(picture):
            notes.append(f"{path.name}: all pixels are equal")
        if notes:
            self.notes[index] = "; ".join(notes)
        return self._transform(picture)

    def digest(self, index: int) -> str:
        """Return the SHA-256 of the file's bytes.

        Reads the file unless it was read before.
        """
        if index not in self._digests:
            self._read(index)
        return self._digests[index]

    def _require_size(self, path: Path, picture: Image.Image) -> None:
        _, height, width = self._spec.shape
        factor = max(height / picture.height, width / picture.width) / self._spec.crop_pct
        if picture.width * picture.height * factor**2 > _MAX_RESIZED_PIXELS:
            raise DataError(path, f"is {picture.width} × {picture.height} pixels: too narrow to be resized and cropped")

    def _read(self, index: int) -> bytes:
        path = self._folder / self.names[index]
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataError(path, f"cannot be read ({error.strerror})") from error
        self._digests[index] = hashlib.sha256(content).hexdigest()
        return content


def open_files(folder: Path, spec: InputSpec) -> tuple[ImageSource, Labels, Classes]:
    """Return the images of a folder, their labels and class names.

    The folder is flat or has one sub-folder per class. Labels and class names are None where the folder gives none.
    Raises DataError for a folder without images, or with images next to class folders.
    """
    if spec.shape[0] not in (1, 3):
        raise DataError(folder, f"the model takes {spec.shape[0]} channels, image files have 1 or 3; give an .npz")
    flat_files = sorted(entry.name for entry in folder.iterdir() if _is_image(entry))
    class_files = _class_folders(folder)
    if flat_files and class_files:
        raise DataError(folder / flat_files[0], "is next to class folders; move it into one, or out of the way")
    if flat_files:
        labels = _find_labels(folder, flat_files)
        return ImageFiles(folder, flat_files, "folder", spec), labels, None
    if not any(class_files.values()):
        raise DataError(folder, f"holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    for name, files in class_files.items():
        if not files:  # it would shift the index of every later class
            raise DataError(folder / name, "holds no images; a class folder must hold some, or be removed")
    names = [file for files in class_files.values() for file in files]
    labels = tuple(label for label, files in enumerate(class_files.values()) for _ in files)
    kind = "imagenet-folder" if imagenet_labels(tuple(class_files)) is not None else "image-folder"
    return ImageFiles(folder, names, kind, spec), labels, tuple(class_files)


def imagenet_labels(classes: Sequence[str]) -> list[int] | None:
    """Return ImageNet-1k's index of each wnid.

    Returns None where a name is not one of its thousand.
    """
    indices = _imagenet_indices()
    return [indices[name] for name in classes] if all(name in indices for name in classes) else None


@functools.cache
def _imagenet_indices() -> dict[str, int]:
    return {wnid: index for index, wnid in enumerate(ImageNetInfo().label_names())}  # type: ignore[no-untyped-call]


def _class_folders(folder: Path) -> dict[str, list[str]]:
    """Return the image files (relative) of each sub-folder, sorted.

    The order is that of torchvision's ImageFolder. Raises DataError for a link to a folder that holds it.
    """
    classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not _is_hidden(entry.name))
    for name in classes:
        if folder.resolve().is_relative_to((folder / name).resolve()):
            raise DataError(folder / name, "is a link to a folder that holds it; remove the link")
    return {name: _files_below(folder, folder / name) for name in classes}


def _files_below(root: Path, folder: Path) -> list[str]:
    files = (file for file in folder.rglob("*") if _is_image(file))
    return sorted(
        file.relative_to(root).as_posix()
        for file in files
        if not any(_is_hidden(name) for name in file.relative_to(folder).parts)
    )


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == _NO_CLASS


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()


def _find_labels(folder: Path, names: list[str]) -> Labels:
    """Return the labels from a file in or above the folder.

    Returns None without such a file. Raises DataError where a file does not give the model's class indices.
    """
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
    """Return the class index by the image's stem.

    A line looks like "ILSVRC2012_val_00000001.JPEG 65".
    """
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
    """Return the class index by the image's stem.

    A line looks like "ILSVRC2012_val_00048981,n03995372 85 1 499 272".
    """
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
