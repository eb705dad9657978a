"""Fixtures that start the product's own commands."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fleet import ROOT, Fleet

# In a wheelhouse from before.
LEFT_BEHIND = (
    "grpcio-1.48.2-cp36-cp36m-manylinux_2_17_aarch64.whl",
    "numpy-1.19.4-cp36-cp36m-manylinux2014_aarch64.whl",
)


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


@pytest.fixture
def board_pythons(python36: str, python38: str) -> dict[str, str]:
    """The interpreter of each board, by the wheelhouse's name for it."""
    return {"nano": python36, "xavier": python38}


@pytest.fixture(scope="session")
def wheelhouse(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the wheelhouse of a target, made once a session over what an older version left in its folder."""
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
