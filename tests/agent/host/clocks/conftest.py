"""The fixtures of the tests of clocks."""

import os
import shutil
import sys
from pathlib import Path

import pytest

# For nano_board, which stands in this folder.
sys.path.insert(0, str(Path(__file__).parent))

from nano_board import Board


@pytest.fixture
def board(tmp_path):
    """Return a Nano at rest."""
    return Board(str(tmp_path)).build()


def need(program, package):
    """Skip a test without a program.

    Fail in CI, which installs the package.
    """
    if shutil.which(program) is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("needs {}: apt-get install {}".format(program, package))


@pytest.fixture
def c_compiler():
    """Require a compiler for a small libnvidia-ml."""
    need("cc", "gcc")


@pytest.fixture
def visudo():
    """Require sudo's own checker of rules."""
    need("visudo", "sudo")
