"""Installation of the agent without a network, as in agent/README.md."""

import subprocess
from collections.abc import Callable
from pathlib import Path


def run(*command: object) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_agent_installs_offline_on_python_36(
    wheelhouse: Callable[[str], Path], python36: str, tmp_path: Path
) -> None:
    """The wheelhouse alone gives the agent's command and ONNX Runtime, with the right names and versions."""
    house = wheelhouse("nano-x86_64")
    venv = tmp_path / "venv"
    run(Path(python36).resolve(), "-m", "venv", venv)
    offline = ("--disable-pip-version-check", "install", "--quiet", "--no-index", "--find-links", house)
    run(venv / "bin/pip", *offline, "--upgrade", "pip")

    run(venv / "bin/pip", *offline, "efficientquant-agent[ort]")

    assert run(venv / "bin/efficientquant-agent", "--version").strip() == "efficientquant-agent 0.1.0"
    installed = run(venv / "bin/pip", "--disable-pip-version-check", "list", "--format=freeze")
    assert "efficientquant-agent==0.1.0" in installed
    assert "UNKNOWN" not in installed
    assert run(venv / "bin/python", "-c", "import onnxruntime; print(onnxruntime.__version__)").strip() == "1.10.0"
