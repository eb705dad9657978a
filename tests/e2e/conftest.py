"""Fixtures that start the product's own commands."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fleet import ROOT, Fleet

# Wheels in a wheelhouse of an older version.
LEFT_BEHIND = (
    "grpcio-1.48.2-cp36-cp36m-manylinux_2_17_aarch64.whl",
    "numpy-1.19.4-cp36-cp36m-manylinux2014_aarch64.whl",
)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """Start a fleet with a controller and no agent."""
    fleet = Fleet(tmp_path)
    fleet.start_controller()
    yield fleet
    fleet.close()


def device_python(version: str) -> str:
    """Return the interpreter of a device's environment.

    Without it the test is skipped, and in CI it fails.
    """
    python = ROOT / f".venvs/py{version}/bin/python"
    if not python.exists():
        message = f"no Python {version} environment; install Python {version} and run 'make test'"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return str(python)


@pytest.fixture
def python36() -> str:
    """Return the interpreter with a Jetson Nano's libraries."""
    return device_python("3.6")


@pytest.fixture
def python38() -> str:
    """Return the interpreter with an AGX Xavier's libraries."""
    return device_python("3.8")


@pytest.fixture
def board_pythons(python36: str, python38: str) -> dict[str, str]:
    """Return each board's interpreter by its wheelhouse name."""
    return {"nano": python36, "xavier": python38}


@pytest.fixture(scope="session")
def wheelhouse(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that makes a target's wheelhouse once a session.

    Its folder holds wheels of an older version before.
    """
    made: dict[str, Path] = {}

    def make(target: str) -> Path:
        if target not in made:
            house = tmp_path_factory.mktemp("houses") / target
            house.mkdir()
            for name in LEFT_BEHIND:
                (house / name).touch()
            command = [str(ROOT / "deploy/agent/wheelhouse.sh"), target, str(house)]
            environment = {**os.environ, "PYTHON": sys.executable}
            done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, cwd="/")
            assert done.returncode == 0, done.stdout + done.stderr
            made[target] = house
        return made[target]

    return make
