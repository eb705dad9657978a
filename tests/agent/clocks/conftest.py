"""The board that the tests of clocks work on."""

import sys
from pathlib import Path

import pytest

# Where the processes that a test starts find it, too.
sys.path.insert(0, str(Path(__file__).parent))

from nano_board import Board


@pytest.fixture
def board(tmp_path):
    """A Nano at rest."""
    return Board(str(tmp_path)).build()
