import hashlib

import efficientquant as eq
import numpy as np
import pytest
import torch
from efficientquant.errors import CalibrationError
from efficientquant.images import calibration
from efficientquant.images.calibration import CHUNK, collect_images, run_calibration
from efficientquant.models import InputSpec
from torch import nn

SPEC = InputSpec(shape=(3, 8, 8), interpolation="bilinear", mean=(0, 0, 0), std=(1, 1, 1), crop_pct=1.0)


class Recorder(nn.Module):
    """Remembers the batches that it is called with."""

    def __init__(self):
        super().__init__()
        self.batches = []

    def forward(self, images):
        """Keep the batch and return it."""
        self.batches.append(images)
        return images


@pytest.fixture
def images():
    return torch.randn(21, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_hash_and_chunks_do_not_depend_on_the_batching(images):
    """One tensor, any batches and an iterator are the same data: same hash, same forward passes."""
    ways = [images, list(images.split(5)), iter(images.split(9)), tuple(images.split(1))]
    expected = hashlib.sha256(images.numpy().tobytes()).hexdigest()
    for way in ways:
        collected = collect_images(way, SPEC)
        recorder = Recorder()
        run_calibration(recorder, collected, None)
        assert (collected.sha256, len(collected)) == (expected, 21)
        assert [len(batch) for batch in recorder.batches] == [CHUNK, CHUNK, 5]
        assert torch.equal(torch.cat(recorder.batches), images)


def test_an_iterator_can_be_run_again(images):
    """An iterator's images are kept, since a recipe may run its data several times."""
    collected = collect_images((batch for batch in images.split(4)), SPEC)
    first, second = Recorder(), Recorder()
    run_calibration(first, collected, None)
    run_calibration(second, collected, None)
    assert torch.equal(torch.cat(first.batches), torch.cat(second.batches))


class Doubling(nn.Module):
    """Works in place."""

    def forward(self, images):
        """Return twice the images."""
        return images.mul_(2)


def test_a_model_in_place_does_not_change_the_images(images):
    """The images that were given stay as they are."""
    before = images.clone()
    for data in (images, collect_images(list(images.split(5)), SPEC)):
        run_calibration(Doubling(), data, None)
    assert torch.equal(images, before)


def test_what_is_kept_has_a_bound(images, monkeypatch):
    """An iterator beyond the bound is refused with a remedy, a list of the same batches is accepted."""
    monkeypatch.setattr(calibration, "BUFFER_LIMIT_BYTES", 10_000)
    with pytest.raises(CalibrationError, match="pass fewer, a list of batches, or efficientquant"):
        collect_images(iter(images.split(4)), SPEC)
    assert len(collect_images(images.split(4), SPEC)) == 21


def test_of_a_folder_32_images_are_taken(tmp_path):
    """Image data that were not sampled give 32 images, spread over the classes, and a sample is taken whole."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=pixels, labels=np.arange(64) % 4)
    data = eq.open_images(tmp_path / "a.npz", SPEC)
    collected = collect_images(data, SPEC)
    assert len(collected) == 32
    assert collected.provenance == data.sample(32).provenance()
    assert len(collect_images(data.sample(40), SPEC)) == 40


def test_progress_ends_at_one(images):
    """Progress is the share of the images that have run."""
    seen = []
    run_calibration(Recorder(), collect_images(images, SPEC), lambda phase, share: seen.append((phase, share)))
    assert seen == [("calibrate", 8 / 21), ("calibrate", 16 / 21), ("calibrate", 1.0)]
