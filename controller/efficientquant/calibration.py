"""Calibration data: checking them, hashing them, and running them through a model."""

import hashlib
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

from efficientquant.errors import CalibrationError
from efficientquant.models import InputSpec

# (phase, fraction from 0 to 1)
Progress = Callable[[str, float], None]
CalibrationData = Tensor | Iterable[Tensor]

# Images per forward pass: large enough to amortize dispatch, small enough for 3 GiB with the largest model.
CHUNK = 8


def collect_images(data: CalibrationData, spec: InputSpec) -> Tensor:
    """Return all calibration images as one float tensor (N, C, H, W); raise CalibrationError naming what is wrong."""
    batches = [data] if isinstance(data, Tensor) else list(data)
    if not batches or sum(len(batch) for batch in batches) == 0:
        raise CalibrationError("the calibration data hold no images; pass at least one batch (N, C, H, W)")
    for index, batch in enumerate(batches):
        if tuple(batch.shape[1:]) != spec.shape:
            wanted = f"(N, {', '.join(map(str, spec.shape))})"
            raise CalibrationError(
                f"calibration batch {index} has shape {tuple(batch.shape)}; the model takes {wanted}"
            )
        if not batch.is_floating_point() or not bool(torch.isfinite(batch).all()):
            raise CalibrationError(
                f"calibration batch {index} is not made of finite floats; normalize the images first"
            )
    return torch.cat([batch.float() for batch in batches])


def hash_images(images: Tensor) -> str:
    """Return the SHA-256 of the images' float32 bytes, in order: part of a recipe's provenance."""
    return hashlib.sha256(images.contiguous().numpy().tobytes()).hexdigest()


def run_calibration(module: nn.Module, images: Tensor, progress: Progress | None) -> None:
    """Run the images (N, C, H, W) through a module whose observers watch, reporting phase "calibrate"."""
    done = 0
    with torch.no_grad():
        for chunk in _chunks(images):
            module(chunk)
            done += len(chunk)
            if progress is not None:
                progress("calibrate", done / len(images))


def _chunks(images: Tensor) -> Iterator[Tensor]:
    yield from torch.split(images, CHUNK)
