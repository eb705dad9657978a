"""Fixtures for captured boards and their copies."""

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for tegrastats_lines

BOARDS = Path(__file__).parent.parent.parent / "fixtures" / "boards"


@pytest.fixture
def boards():
    """Return the folder of captured trees.

    A board's files are in proc, sys and etc.
    """
    return BOARDS


@pytest.fixture
def board_copy(tmp_path):
    """Copy a board that the test may damage, and return its folder."""

    def copy(name):
        return Path(shutil.copytree(str(BOARDS / name), str(tmp_path / name)))

    return copy


@pytest.fixture
def sampled():
    """Read every sampler once, close it, and return the values by name."""

    def read(samplers):
        values = {sampler.name: sampler.sample() for sampler in samplers}
        assert len(values) == len(samplers)
        for sampler in samplers:
            sampler.close()
        return values

    return read
