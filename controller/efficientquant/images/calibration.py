"""Calibration images: checks, hashes and forward passes with bounded memory."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from efficientquant.errors import CalibrationError
from efficientquant.images.data import ImageData
from efficientquant.models import InputSpec, synthetic_images

# (phase, fraction from 0 to 1)
Progress = Callable[[str, float], None]
CalibrationData = Tensor | Iterable[Tensor] | ImageData

# Images per forward pass: large enough to amortize dispatch, small enough for 3 GiB with the largest model.
CHUNK = 8
DEFAULT_IMAGES = 32
# The limit for images of an iterator. They are kept in memory, since a recipe may run its data several times.
BUFFER_LIMIT_BYTES = 1 << 30


class CalibrationImages:
    """Checked images that a recipe can run as often as it needs.

    `sha256` is that of their float32 bytes, in order. `provenance` says where they came from, if they came from files.
    `notes` name images that look wrong.
    """

    def __init__(
        self,
        batches: Iterable[Tensor],
        count: int,
        sha256: str,
        provenance: dict[str, Any] | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        self.sha256 = sha256
        self.notes = notes
        self.provenance = provenance
        self._batches = batches
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Tensor]:
        return self.chunks()

    def chunks(self) -> Iterator[Tensor]:
        """Yield the images in chunks of (CHUNK, C, H, W).

        The last chunk may be smaller. The chunks do not depend on how the data were batched.
        """
        kept: Tensor | None = None
        for batch in self._batches:
            images = batch.float() if kept is None else torch.cat([kept, batch.float()])
            whole = len(images) - len(images) % CHUNK
            if whole:
                yield from torch.split(images[:whole], CHUNK)
            kept = images[whole:]
        if kept is not None and len(kept) > 0:
            yield kept

    def part(self, places: Tensor) -> "CalibrationImages":
        """Return the images at some places, in their order.

        Hash, provenance and notes stay those of all images.
        """
        return CalibrationImages(_Part(self, places), len(places), self.sha256, self.provenance, self.notes)


class _Part:
    """Some of the images, selected again in each pass."""

    def __init__(self, whole: CalibrationImages, places: Tensor) -> None:
        self._whole = whole
        self._places = places

    def __iter__(self) -> Iterator[Tensor]:
        start = 0
        for chunk in self._whole.chunks():
            inside = (self._places >= start) & (self._places < start + len(chunk))
            if bool(inside.any()):
                yield chunk[self._places[inside] - start]
            start += len(chunk)


class _Read:
    """The images of an ImageData, read again for each pass."""

    def __init__(self, data: ImageData) -> None:
        self._data = data

    def __iter__(self) -> Iterator[Tensor]:
        return (images for images, _ in self._data.batches(CHUNK))


def collect_images(data: CalibrationData, spec: InputSpec, count: int = DEFAULT_IMAGES) -> CalibrationImages:
    """Check and hash calibration data in one pass.

    An ImageData that was not sampled yet is sampled to `count` images, spread over its classes. An iterator is kept in
    memory, up to 1 GiB. Anything else is iterated again for each pass. Raises CalibrationError or DataError, which say
    what is wrong.
    """
    if isinstance(data, ImageData):
        sample = data.sample(count) if data.seed is None else data
        batches: Iterable[Tensor] = _Read(sample)
        return CalibrationImages(batches, *_inspect(batches, spec), sample.provenance(), sample.notes())
    batches = [data] if isinstance(data, Tensor) else data
    if isinstance(batches, Iterator):
        batches = _keep(batches)
    return CalibrationImages(batches, *_inspect(batches, spec))


def load_images(
    data: CalibrationData | None, spec: InputSpec, count: int = DEFAULT_IMAGES
) -> tuple[CalibrationImages, dict[str, Any], list[str]]:
    """Return checked images, their provenance and notes.

    Without data, there are `count` synthetic images. Raises CalibrationError and DataError.
    """
    notes: list[str] = []
    if data is None:
        notes.append(f"calibrated on {count} synthetic images, since no data were given")
    images = collect_images(synthetic_images(spec, count) if data is None else data, spec, count)
    source = "synthetic" if data is None else "given"
    provenance = {"source": source, "images": len(images), "sha256": images.sha256}
    if images.provenance is not None:
        provenance["data"] = images.provenance
    return images, provenance, [*notes, *images.notes]


def run_calibration(module: nn.Module, images: Tensor | CalibrationImages, progress: Progress | None) -> None:
    """Run images (N, C, H, W) through a module with observers.

    Reports the phase "calibrate" to `progress`.
    """
    done = 0
    with torch.no_grad():
        for chunk in torch.split(images, CHUNK) if isinstance(images, Tensor) else images.chunks():
            module(chunk.clone())  # its first operator may work in place
            done += len(chunk)
            if progress is not None:
                progress("calibrate", done / len(images))


def _keep(batches: Iterator[Tensor]) -> list[Tensor]:
    kept: list[Tensor] = []
    size_bytes = 0
    for batch in batches:
        size_bytes += batch.numel() * batch.element_size()
        if size_bytes > BUFFER_LIMIT_BYTES:
            raise CalibrationError(
                f"an iterator's images are kept in memory, and these exceed {BUFFER_LIMIT_BYTES >> 30} GiB; pass "
                "fewer, a list of batches, or efficientquant.open_images(…)"
            )
        kept.append(batch)
    return kept


def _inspect(batches: Iterable[Tensor], spec: InputSpec) -> tuple[int, str]:
    """Return the number of images and their hash.

    Looks at one batch at a time. Raises CalibrationError for batches that the model does not take.
    """
    count, digest = 0, hashlib.sha256()
    for index, batch in enumerate(batches):
        _require_fit(index, batch, spec)
        count += len(batch)
        digest.update(_bytes_of(batch))
    if count == 0:
        raise CalibrationError("the calibration data hold no images; pass at least one batch (N, C, H, W)")
    return count, digest.hexdigest()


def _require_fit(index: int, batch: Tensor, spec: InputSpec) -> None:
    if tuple(batch.shape[1:]) != spec.shape:
        wanted = f"(N, {', '.join(map(str, spec.shape))})"
        raise CalibrationError(f"calibration batch {index} has shape {tuple(batch.shape)}; the model takes {wanted}")
    if not batch.is_floating_point() or not bool(torch.isfinite(batch).all()):
        raise CalibrationError(f"calibration batch {index} is not made of finite floats; normalize the images first")


def _bytes_of(images: Tensor) -> bytes:
    return images.float().contiguous().numpy().tobytes()
