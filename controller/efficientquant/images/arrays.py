"""Images stored in the arrays of an .npz file.

Arrays whose values would be read as a wrong picture are refused.
"""

import hashlib
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from efficientquant.errors import DataError
from efficientquant.models import InputSpec

_WHITE = {"uint8": 255, "uint16": 65535}
# Normalized images may overshoot the range of pixels, but not by more than this factor.
_OVERSHOOT = 10


class ImageArrays:
    """The images of an .npz file, prepared for one model.

    They are uint8 or uint16 (N, H, W, C) of any size, or floats (N, C, H, W) as the model takes them. The pixels of
    uint16 are 0…65535.
    """

    kind = "npz"

    def __init__(self, images: np.ndarray, spec: InputSpec) -> None:
        self.names = [f"images[{index}]" for index in range(len(images))]
        self.notes: dict[int, str] = {}
        self._images = images
        self._size = spec.shape[1:]
        self._mean = torch.tensor(spec.mean).reshape(-1, 1, 1)
        self._std = torch.tensor(spec.std).reshape(-1, 1, 1)

    def load(self, index: int) -> Tensor:
        """Resize bilinearly, scale to 0…1 and normalize one image.

        Floats stay as they are.
        """
        stored = self._images[index]
        channels = (1, 2) if np.issubdtype(stored.dtype, np.floating) else (0, 1)
        if (stored.min(axis=channels) == stored.max(axis=channels)).all():
            self.notes[index] = f"{self.names[index]}: all pixels are equal"
        if np.issubdtype(stored.dtype, np.floating):
            return torch.from_numpy(stored).float()
        pixels = torch.from_numpy(stored.astype(np.float32)).permute(2, 0, 1)[None]
        if tuple(pixels.shape[2:]) != self._size:
            pixels = functional.interpolate(pixels, size=self._size, mode="bilinear", align_corners=False)
        image: Tensor = (pixels[0] / _WHITE[stored.dtype.name] - self._mean) / self._std
        return image

    def digest(self, index: int) -> str:
        """Return the SHA-256 of the image's shape, type and bytes."""
        image = np.ascontiguousarray(self._images[index])
        return hashlib.sha256(f"{image.dtype.str} {image.shape} ".encode() + image.tobytes()).hexdigest()


def open_arrays(path: Path, spec: InputSpec) -> tuple[ImageArrays, tuple[int, ...] | None]:
    """Return the images of an .npz and its labels, if any.

    Raises DataError, which says what is wrong.
    """
    arrays = _read_arrays(path)
    if "images" not in arrays:
        raise DataError(path, f"has no array 'images' (it has {', '.join(arrays) or 'none'})")
    images = _check_images(path, arrays["images"], spec)
    labels = arrays.get("labels")
    return ImageArrays(images, spec), None if labels is None else _check_labels(path, labels, len(images))


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the images and labels of the file.

    Other arrays are listed but not read. Raises DataError for a file that is no .npz or is damaged.
    """
    try:
        if not zipfile.is_zipfile(path):
            raise DataError(path, "cannot be read as an .npz: it is no zip archive; write it with numpy.savez")
        with np.load(path, allow_pickle=False) as stored:
            wanted = {"images", "labels"}
            return {name: stored[name] if name in wanted else np.empty(0) for name in stored}
    except (OSError, ValueError, EOFError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        # numpy's own message advises unpickling, which would run code from the file.
        problem = "it holds Python objects; store numbers" if "pickle" in str(error).lower() else error
        raise DataError(path, f"cannot be read as an .npz ({problem})") from error


def _check_images(path: Path, images: np.ndarray, spec: InputSpec) -> np.ndarray:
    channels, height, width = spec.shape
    wanted = f"uint8 or uint16 (N, H, W, {channels}) or float (N, {channels}, {height}, {width})"
    mismatch = f"'images' is {images.dtype} {images.shape}; the model takes {wanted}"
    if images.ndim != 4:
        raise DataError(path, mismatch)
    if 0 in images.shape:
        raise DataError(path, f"'images' holds no images: its shape is {images.shape}")
    if images.dtype.name in _WHITE and channels in (images.shape[3], images.shape[1]):
        _check_levels(path, images)
        native = images.astype(images.dtype.newbyteorder("="), copy=False)
        return native if native.shape[3] == channels else native.transpose(0, 2, 3, 1)
    if not np.issubdtype(images.dtype, np.floating) or images.shape[1:] != spec.shape:
        raise DataError(path, mismatch)
    broken = next((index for index, image in enumerate(images) if not np.isfinite(image).all()), None)
    if broken is not None:
        raise DataError(path, f"images[{broken}] holds NaN or infinity")
    _check_range(path, images, spec)
    return images.astype(np.float32)


def _check_levels(path: Path, images: np.ndarray) -> None:
    """Raise DataError for integers that would be read as almost black."""
    largest = int(images.max())
    if images.dtype.name == "uint8" and largest == 1:
        raise DataError(path, "'images' is uint8 and holds only 0 and 1, where white is 255; multiply by 255")
    if images.dtype.name == "uint16" and 0 < largest <= 255:
        raise DataError(path, f"'images' is uint16 up to {largest}, where white is 65535; store it as uint8")


def _check_range(path: Path, images: np.ndarray, spec: InputSpec) -> None:
    """Raise DataError for floats that are pixels instead of normalized images."""
    black = [-mean / std for mean, std in zip(spec.mean, spec.std, strict=True)]
    white = [(1 - mean) / std for mean, std in zip(spec.mean, spec.std, strict=True)]
    lowest, highest = min(black), max(white)
    smallest, largest = float(images.min()), float(images.max())
    advice = (
        f"the model takes (pixel - mean) / std, from {lowest:.3g} to {highest:.3g}; normalize them, or store uint8 "
        "pixels (N, H, W, C)"
    )
    beyond = max(-smallest, largest) > _OVERSHOOT * max(-lowest, highest)
    # Where the model's black is below zero, normalized images have numbers below zero too.
    as_pixels = smallest >= 0 and 0 < largest <= 1 and max(black) < -0.1
    if beyond or as_pixels:
        raise DataError(path, f"'images' holds floats from {smallest:.4g} to {largest:.4g}, but {advice}")


def _check_labels(path: Path, labels: np.ndarray, images: int) -> tuple[int, ...]:
    if labels.shape != (images,) or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(path, f"'labels' is {labels.dtype} {labels.shape}; {images} images take integers ({images},)")
    values: list[Any] = labels.tolist()
    return tuple(values)
