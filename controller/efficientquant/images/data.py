"""Images read lazily from disk, as a model takes them.

A source is a folder, an ImageFolder, an ImageNet directory or an .npz.
"""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from efficientquant.errors import DataError
from efficientquant.images.arrays import open_arrays
from efficientquant.images.sources import ImageSource, imagenet_labels, open_files
from efficientquant.models import InputSpec

Split = Literal["train", "val"]

BATCH = 32
# Decoding releases Python's lock. More threads than this only hold more decoded images.
READERS = 4
# How many files a report names before it only counts them.
NAMED = 5
_SPLIT_FOLDERS = {"train": ("train",), "val": ("val", "validation", "test")}


@dataclasses.dataclass(frozen=True)
class ImageData:
    """Ordered images of one source, prepared for a model when read.

    `labels` are class indices by position in the source, or None where the source has none. `classes` are the class
    names in label order, or None where they are not known. Files are read batch by batch. An .npz is held in memory as
    it is stored.
    """

    path: Path
    source: ImageSource
    indices: tuple[int, ...]
    labels: tuple[int, ...] | None
    classes: tuple[str, ...] | None
    split: Split | None = None
    seed: int | None = None

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def kind(self) -> str:
        """The kind of source: folder, image-folder, imagenet-folder or npz."""
        return self.source.kind

    def batches(self, batch: int = BATCH) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yield normalized images and their labels, at most `batch` at once.

        Images are (n, C, H, W) float32, labels (n,) int64 or None. The next batch is decoded while the current one is
        used. Raises DataError naming the file that cannot be read.
        """
        chunks = [self.indices[start : start + batch] for start in range(0, len(self), batch)]
        with ThreadPoolExecutor(READERS) as pool:
            ahead = [pool.submit(self.source.load, index) for index in chunks[0]] if chunks else []
            for number, chunk in enumerate(chunks):
                current = ahead
                following = chunks[number + 1] if number + 1 < len(chunks) else ()
                ahead = [pool.submit(self.source.load, index) for index in following]
                images = torch.stack([future.result() for future in current])
                yield images, self._labels_of(chunk)

    def sample(self, count: int, seed: int = 0) -> "ImageData":
        """Return at most `count` of the images, spread over the classes.

        The same seed and names give the same images.
        """
        order = {
            index: hashlib.sha256(f"{seed} {self.source.names[index]}".encode()).digest() for index in self.indices
        }
        ranked: list[tuple[int, bytes, int]] = []
        seen: dict[int, int] = {}
        for index in sorted(self.indices, key=order.__getitem__):
            label = self.labels[index] if self.labels is not None else 0
            seen[label] = seen.get(label, -1) + 1
            ranked.append((seen[label], order[index], index))
        indices = sorted(index for _, _, index in sorted(ranked)[:count])
        return dataclasses.replace(self, indices=tuple(indices), seed=seed)

    def for_classes(self, count: int) -> "ImageData":
        """Return the data with labels for a model with `count` outputs.

        Folders named by wnids get ImageNet-1k's indices when the model has 1000 outputs, even if some classes are
        missing. Raises DataError where labels and outputs do not fit.
        """
        if self.labels is None:
            raise DataError(
                self.path, f"{self.source.names[0]} has no label; sort images into one folder per class, or add val.txt"
            )
        if self.classes is not None and len(self.classes) != count:
            mapped = imagenet_labels(self.classes) if count == 1000 else None
            if mapped is None:
                raise DataError(self.path, f"has {len(self.classes)} classes, but the model has {count} outputs")
            return dataclasses.replace(self, labels=tuple(mapped[label] for label in self.labels), classes=None)
        for index in self.indices:
            if not 0 <= self.labels[index] < count:
                problem = f"{self.source.names[index]} has label {self.labels[index]}"
                raise DataError(self.path, f"{problem}, but the model has {count} outputs, 0 to {count - 1}")
        return self

    def notes(self) -> list[str]:
        """Return a sentence for each suspicious image read so far.

        One example is a file whose pixels are all equal. Images beyond the first five are only counted.
        """
        notes = [self.source.notes[index] for index in self.indices if index in self.source.notes]
        summary = [f"{len(notes) - NAMED} more images like these"] if len(notes) > NAMED else []
        return [f"data {self.path.name}: {note}" for note in notes[:NAMED] + summary]

    def provenance(self) -> dict[str, Any]:
        """Return a record that identifies the images, without machine paths.

        It has the kind, split, number and seed, and the SHA-256 of the ordered list (name, content, label). Reads every
        file that no batch has read yet.
        """
        listing = hashlib.sha256()
        for index in self.indices:
            label = "-" if self.labels is None else str(self.labels[index])
            listing.update(f"{self.source.names[index]}\t{self.source.digest(index)}\t{label}\n".encode())
        return {
            "kind": self.kind,
            "split": self.split,
            "images": len(self),
            "seed": self.seed,
            "sha256": listing.hexdigest(),
        }

    def labels_at(self, start: int, stop: int) -> Tensor | None:
        """Return the labels (stop - start,) int64 at these positions, if any."""
        return self._labels_of(self.indices[start:stop])

    def _labels_of(self, chunk: Sequence[int]) -> Tensor | None:
        return None if self.labels is None else torch.tensor([self.labels[index] for index in chunk])


def open_images(path: str | Path, spec: InputSpec, *, split: Split | None = None) -> ImageData:
    """Return the images at `path`, prepared as `spec` says.

    A folder may hold one of these:

    - images
    - one sub-folder per class, where class indices follow the sorted names
    - a `train` and a `val` folder, of which `split` picks one (val by default)
    - ImageNet's flat validation images with a `val.txt` of "NAME INDEX" lines or Kaggle's `LOC_val_solution.csv`

    Image files go through timm's evaluation transform.

    An .npz holds `images` and maybe `labels` (N,). Images are uint8 or uint16 (N, H, W, C) or (N, C, H, W) of any size,
    which are resized bilinearly, divided by 255 or 65535 and normalized, or floats (N, C, H, W) exactly as the model
    takes them.

    Raises DataError naming the file.
    """
    path = Path(path)
    try:
        return _open(path, spec, split)
    except OSError as error:
        place = error.filename or path
        raise DataError(Path(place), f"cannot be read ({error.strerror})") from error


def has_split(path: str | Path, split: Split) -> bool:
    """Tell whether a path is a data set's root with that split."""
    path = Path(path)
    return path.is_dir() and _is_root(path) and _split_folder(path, split) is not None


def _open(path: Path, spec: InputSpec, split: Split | None) -> ImageData:
    if path.is_file():
        if path.suffix.lower() != ".npz":
            raise DataError(path, "is neither a folder of images nor an .npz file")
        source, labels = open_arrays(path, spec)
        return _whole(path, source, labels, None, None)
    if not path.is_dir():
        raise DataError(path, "there is no such file or folder")
    folder, split = _pick_split(path, split)
    files, labels, classes = open_files(folder, spec)
    return _whole(path, files, labels, classes, split)


def _whole(
    path: Path,
    source: ImageSource,
    labels: tuple[int, ...] | None,
    classes: tuple[str, ...] | None,
    split: Split | None,
) -> ImageData:
    return ImageData(path, source, tuple(range(len(source.names))), labels, classes, split)


def _pick_split(path: Path, split: Split | None) -> tuple[Path, Split | None]:
    if not _is_root(path):
        return path, None
    wanted = split or "val"
    folder = _split_folder(path, wanted)
    if folder is None:
        raise DataError(path, f"has no {wanted}/ folder (it has {', '.join(_folder_names(path))})")
    return folder, wanted


def _is_root(path: Path) -> bool:
    """Tell whether a folder is a data set's root.

    An ImageFolder is not a root, although it may have a class called train.
    """
    names = set(_folder_names(path))
    known = {name for names_of_split in _SPLIT_FOLDERS.values() for name in names_of_split}
    return bool(names) and (names <= known or {"train", "val"} <= names)


def _split_folder(path: Path, split: Split) -> Path | None:
    names = [name for name in _SPLIT_FOLDERS[split] if (path / name).is_dir()]
    return path / names[0] if names else None


def _folder_names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
