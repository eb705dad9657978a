"""The script that collects a board's wheels, and its errors of one sentence."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fleet import ROOT

# A Python with a pip of another version, or with none.
PYTHON = """#!/bin/sh
case "$*" in *-m*pip*) {pip} ;; *) exec {python} "$@" ;; esac
"""


def collect(*arguments: object, **environment: object) -> tuple[int, str]:
    """Run the script, and return its exit code and standard error."""
    command = [str(ROOT / "deploy/agent/wheelhouse.sh"), *map(str, arguments)]
    changed = {"PYTHON": sys.executable, **{name: str(value) for name, value in environment.items()}}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, **changed})
    return done.returncode, done.stderr


@pytest.fixture
def python_with(tmp_path: Path) -> Callable[[str], Path]:
    """Make an interpreter whose `-m pip` is a line of shell."""

    def make(pip: str) -> Path:
        path = tmp_path / "python"
        path.write_text(PYTHON.format(pip=pip, python=sys.executable))
        path.chmod(0o755)
        return path

    return make


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "name a target: nano, xavier or nano-x86_64"),
        (["orin"], "'orin' is no target; name nano, xavier or nano-x86_64"),
        (["nano", "house", "xavier"], "'xavier' is one argument too many; pass a target and a folder"),
        (["nano", "--help"], "'--help' is no folder; pass a target and a folder, or --help alone"),
        (["nano", __file__], f"the folder '{__file__}' cannot be made; name one that you can write to"),
        (["nano", f"{__file__}/a"], f"the folder '{__file__}/a' cannot be made; name one that you can write to"),
    ],
)
def test_arguments(arguments: list[str], sentence: str) -> None:
    """A wrong target or folder is refused with one sentence that says what to do."""
    assert collect(*arguments) == (2, f"wheelhouse.sh: {sentence}\n")


def test_no_python(tmp_path: Path) -> None:
    """Without a Python the sentence says what to install, and no folder is made."""
    sentence = "'no-python' does not run; install python3 and python3-pip, or set PYTHON to a Python"

    assert collect("nano", tmp_path / "a", PYTHON="no-python") == (2, f"wheelhouse.sh: {sentence}\n")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("pip", "sentence"),
    [
        ("exit 1", "has no pip; install python3-pip, or set PYTHON to a Python that has it"),
        ("echo pip 18.1 from x", "is too old to download for another device; upgrade it to 20.3 or newer, or set"),
    ],
)
def test_pip(pip: str, sentence: str, python_with: Callable[[str], Path], tmp_path: Path) -> None:
    """A pip that is missing or too old is refused before a folder is made."""
    code, error = collect("xavier", tmp_path / "a", PYTHON=python_with(pip))

    assert (code, error.count("\n"), sentence in error) == (2, 1, True)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("before", [None, "six-1.0-py3-none-any.whl"])
def test_no_network(before: str | None, tmp_path: Path) -> None:
    """Without an index an existing folder stays as it was, and no new one is left."""
    if before:
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / before).touch()

    failure = collect("nano", tmp_path / "a", HTTPS_PROXY="http://127.0.0.1:9", PIP_RETRIES=1)

    sentence = "the package index cannot be reached; run this on a computer with a network"
    assert failure == (2, f"wheelhouse.sh: {sentence}\n")
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == (["a", f"a/{before}"] if before else [])


def test_an_index_without_the_wheels(tmp_path: Path) -> None:
    """Without the wheels in the index, the sentence names the missing package."""
    failure = collect("nano", tmp_path / "a", PIP_NO_INDEX=1, PIP_FIND_LINKS=tmp_path)

    sentence = "the package index has no pip==21.3.1 or cannot be reached; run this on a computer with a network"
    assert failure == (2, f"wheelhouse.sh: {sentence}\n")


def test_an_older_python(python36: str, tmp_path: Path) -> None:
    """Python 3.6 with its last pip can run the script up to its use of the index."""
    code, error = collect("nano", tmp_path / "a", PYTHON=python36, HTTPS_PROXY="http://127.0.0.1:9", PIP_RETRIES=1)

    assert (code, "cannot be reached" in error) == (2, True)
