"""The rule that lets the agent's user run the root helper, and nothing else."""

import subprocess
from pathlib import Path

import pytest
from efficientquant_agent.host.clocks import (
    HELPER,
)

SUDOERS = Path(__file__).parents[4] / "deploy/agent/sudoers"


def test_sudoers_names_the_helper():
    """The rule for sudo allows exactly the helper that the agent calls, without a password."""
    rules = [line for line in SUDOERS.read_text().splitlines() if line and not line.startswith("#")]

    assert rules == ["efficientquant ALL=(root) NOPASSWD: " + HELPER[-1]]


@pytest.mark.usefixtures("visudo")
def test_sudoers_is_accepted():
    """Sudo's own checker accepts the file."""
    assert subprocess.call(["visudo", "-cf", str(SUDOERS)], stdout=subprocess.DEVNULL) == 0
