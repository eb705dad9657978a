"""Agreement of the versions in the agent's setup.cfg, its tests and the wheelhouse."""

import configparser
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PYTHONS = ["3.6", "3.7", "3.8", "3.9", "3.10", "3.11", "3.12", "3.13", "3.14"]
WHEELHOUSE = (ROOT / "deploy/agent/wheelhouse.sh").read_text()


def requirements(package: str, python: str, *extras: str) -> dict[str, Requirement]:
    """Return the requirements in a package's setup.cfg for a Python, by name.

    Fails when a requirement stands there twice.
    """
    config = configparser.ConfigParser()
    config.read(ROOT / package / "setup.cfg")
    lines = config["options"]["install_requires"].split("\n")
    lines += [line for extra in extras for line in config["options.extras_require"][extra].split("\n")]
    listed = [Requirement(line) for line in lines if line]
    valid = [item for item in listed if item.marker is None or item.marker.evaluate({"python_version": python})]
    names = {item.name: item for item in valid}
    assert len(names) == len(valid), valid
    return names


@pytest.mark.parametrize("python", PYTHONS)
def test_grpcio_never_polls(python: str) -> None:
    """Agent and protos require grpcio 1.44.0 on Python 3.6 and 3.7, later 1.70, because versions between poll."""
    agent, protos = (requirements(package, python)["grpcio"].specifier for package in ("agent", "protos"))

    versions = ("1.44.0", "1.45.0", "1.46.0", "1.48.2", "1.66.2", "1.70.0", "1.85.3")
    accepted = [version for version in versions if version in agent]
    assert accepted == (["1.44.0"] if python in ("3.6", "3.7") else ["1.70.0", "1.85.3"])
    assert agent == protos


@pytest.mark.parametrize("python", PYTHONS)
def test_every_python_has_a_numpy_and_a_runtime(python: str) -> None:
    """The extra `ort` requires one numpy and one ONNX Runtime on each Python."""
    required = requirements("agent", python, "ort")

    assert ("1.19.5" in required["numpy"].specifier) == (python == "3.6")
    assert "1.10.0" in required["onnxruntime"].specifier


@pytest.mark.parametrize("python", ["3.6", "3.8"])
def test_the_tests_run_with_what_a_board_gets(python: str) -> None:
    """A device's environment here has versions that the agent accepts and that the wheelhouse holds."""
    text = (ROOT / f"tests/constraints-py{python}.txt").read_text()
    pins = dict(re.findall(r"^(?!pytest)([a-z]+)==(\S+)$", text, re.MULTILINE))
    required = requirements("agent", python, "ort")

    assert {"grpcio", "protobuf", "numpy", "onnxruntime"} <= pins.keys() & required.keys()
    for name, version in pins.items():
        assert version in required[name].specifier
        assert f"{name}=={version}" in WHEELHOUSE


def test_the_controller_takes_what_the_protos_take() -> None:
    """The extra `controller` requires the same grpcio as the protos."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    [grpcio] = [item for item in map(Requirement, extras["controller"]) if item.name == "grpcio"]

    assert grpcio.specifier == requirements("protos", "3.11")["grpcio"].specifier
