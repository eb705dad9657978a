"""Fixtures that start the product's own commands."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from fleet import ROOT, Fleet


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """A fleet with a running controller and no agent."""
    fleet = Fleet(tmp_path)
    fleet.start_controller()
    yield fleet
    fleet.close()


def device_python(version: str) -> str:
    """The interpreter of a device's environment; in CI a missing one is a failure."""
    python = ROOT / f".venvs/py{version}/bin/python"
    if not python.exists():
        message = f"no Python {version} environment; install Python {version} and run 'make test'"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return str(python)


@pytest.fixture
def python36() -> str:
    """A Jetson Nano's interpreter and libraries."""
    return device_python("3.6")


@pytest.fixture
def python38() -> str:
    """An AGX Xavier's interpreter and libraries."""
    return device_python("3.8")
