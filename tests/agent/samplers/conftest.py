"""Captured boards, whole or copied to be damaged."""

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the lines of tegrastats lie beside the tests

BOARDS = Path(__file__).parent.parent.parent / "fixtures" / "boards"


@pytest.fixture
def boards():
    """The folder of captured trees; a board's files lie in proc, sys and etc."""
    return BOARDS


@pytest.fixture
def board_copy(tmp_path):
    """Copy a board, for a test that takes something away from it; return its folder."""

    def copy(name):
        return Path(shutil.copytree(str(BOARDS / name), str(tmp_path / name)))

    return copy


@pytest.fixture
def sampled():
    """Read every sampler once and close it; return the values by name."""

    def read(samplers):
        found = {sampler.name: sampler.sample() for sampler in samplers}
        assert len(found) == len(samplers)
        for sampler in samplers:
            sampler.close()
        return found

    return read
