"""Copies of the sources that a test adds a file or a line to, for a fleet that runs the copies."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from fleet import ROOT

PACKAGES = ("agent/efficientquant_agent", "controller/efficientquant", "controller/efficientquant_controller")


class Copies:
    """The packages of agent, library and controller in a folder of the test's own.

    Paths are those of the repository, e.g. "agent/efficientquant_agent/backends/toy.py". `added` counts the lines and
    files that a test has added, by path.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.added: dict[str, int] = {}
        for package in PACKAGES:
            # With times and compiled files, so that nothing is compiled again.
            shutil.copytree(ROOT / package, folder / package)

    @property
    def environment(self) -> Mapping[str, str]:
        """What makes a process import the copies."""
        roots = [str(self._folder / name) for name in ("agent", "controller")]
        return {"PYTHONPATH": os.pathsep.join([*roots, *filter(None, [os.environ.get("PYTHONPATH")])])}

    def add_file(self, path: str, text: str) -> None:
        """Write a file that is not there yet."""
        place = self._folder / path
        assert not place.exists(), path
        place.write_text(text)
        self._count(path)

    def insert_after(self, path: str, marker: str, line: str) -> None:
        """Insert a line after the one line of a file that is `marker`, with the indentation that `line` has."""
        place = self._folder / path
        lines = place.read_text().splitlines()
        found = [number for number, each in enumerate(lines) if each.strip() == marker]
        assert len(found) == 1, f"{path} has {len(found)} lines that are {marker!r}"
        lines.insert(found[0] + 1, line)
        place.write_text("\n".join(lines) + "\n")
        self._count(path)

    def _count(self, path: str) -> None:
        assert path.startswith(PACKAGES), path
        self.added[path] = self.added.get(path, 0) + 1
