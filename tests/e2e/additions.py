"""Copies of the sources, to which a test adds files and lines.

A fleet runs the copies.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from fleet import ROOT

PACKAGES = ("agent/efficientquant_agent", "controller/efficientquant", "controller/efficientquant_controller")


class Copies:
    """The packages of agent, library and controller in a test's folder.

    Paths are those of the repository, e.g. "agent/efficientquant_agent/backends/toy.py". `added` counts by path the
    lines and files that a test has added.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.added: dict[str, int] = {}
        for package in PACKAGES:
            # With modification times and compiled files, so that nothing is compiled again.
            shutil.copytree(ROOT / package, folder / package)

    @property
    def environment(self) -> Mapping[str, str]:
        """The variables that make a process import the copies."""
        roots = [str(self._folder / name) for name in ("agent", "controller")]
        return {"PYTHONPATH": os.pathsep.join([*roots, *filter(None, [os.environ.get("PYTHONPATH")])])}

    def add_file(self, path: str, text: str) -> None:
        """Write a new file.

        Fails when it exists.
        """
        place = self._folder / path
        assert not place.exists(), path
        place.write_text(text)
        self._count(path)

    def insert_after(self, path: str, marker: str, line: str) -> None:
        """Insert a line, with its indentation, after the only line `marker`.

        Fails when the file has several such lines or none.
        """
        place = self._folder / path
        lines = place.read_text().splitlines()
        matches = [number for number, text in enumerate(lines) if text.strip() == marker]
        assert len(matches) == 1, f"{path} has {len(matches)} lines that are {marker!r}"
        lines.insert(matches[0] + 1, line)
        place.write_text("\n".join(lines) + "\n")
        self._count(path)

    def _count(self, path: str) -> None:
        assert path.startswith(PACKAGES), path
        self.added[path] = self.added.get(path, 0) + 1
