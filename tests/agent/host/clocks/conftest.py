"""The board that the tests of clocks work on."""

import os
import shutil
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


def need(program, package):
    """Skip without a program; in CI, which installs the package, fail."""
    if shutil.which(program) is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("needs {}: apt-get install {}".format(program, package))


@pytest.fixture
def c_compiler():
    """A small libnvidia-ml is compiled."""
    need("cc", "gcc")


@pytest.fixture
def visudo():
    """Sudo's own checker of rules."""
    need("visudo", "sudo")
