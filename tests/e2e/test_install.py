"""The agent installs on a device that has no network, the way agent/README.md says."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fleet import ROOT

PINNED = [
    *("pip==21.3.1", "grpcio==1.48.2", "six", "protobuf==3.19.6"),
    *("onnxruntime==1.10.0", "flatbuffers", "numpy==1.19.4"),
]

# A wheel built in the tree would leave a build/ folder there, and take what an older one left.
_BUILT = shutil.ignore_patterns("build", "*.egg-info", "__pycache__")


def run(*command: object) -> str:
    done = subprocess.run([str(one) for one in command], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def wheelhouse(tmp_path: Path) -> Path:
    """What the README puts together on a computer with a network; for x86-64 here."""
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    house = tmp_path / "wheelhouse"
    sources = [shutil.copytree(ROOT / one, tmp_path / one, ignore=_BUILT) for one in ("protos", "agent")]
    run(*pip, "wheel", "--quiet", "--no-deps", "-w", house, *sources)
    wanted = ("--only-binary", ":all:", "--python-version", "36", "--implementation", "cp", "--abi", "cp36m")
    platforms = ("--platform", "manylinux2014_x86_64", "--platform", "manylinux_2_17_x86_64", "--platform", "any")
    older = ("--platform", "manylinux2010_x86_64", "--abi", "none")
    run(*pip, "download", "--quiet", "--no-deps", "-d", house, *wanted, *platforms, *older, *PINNED)
    return house


def test_the_agent_installs_offline_on_python_36(wheelhouse: Path, python36: str, tmp_path: Path) -> None:
    """From the wheelhouse alone: the command is there, with ONNX Runtime, under its own name and version."""
    venv = tmp_path / "venv"
    run(Path(python36).resolve(), "-m", "venv", venv)
    offline = ("--disable-pip-version-check", "install", "--quiet", "--no-index", "--find-links", wheelhouse)
    run(venv / "bin/pip", *offline, "pip==21.3.1")

    run(venv / "bin/pip", *offline, "efficientquant-agent[ort]")

    assert run(venv / "bin/efficientquant-agent", "--version").strip() == "efficientquant-agent 0.1.0"
    installed = run(venv / "bin/pip", "--disable-pip-version-check", "list", "--format=freeze")
    assert "efficientquant-agent==0.1.0" in installed
    assert "UNKNOWN" not in installed
    assert run(venv / "bin/python", "-c", "import onnxruntime; print(onnxruntime.__version__)").strip() == "1.10.0"
