"""The install lines of the documents."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

import documents

ROOT = Path(__file__).parent.parent.parent.parent
PAGES = ("docs/boards.md", "agent/README.md")
INSTALLS = re.compile(r"\bpip3?\b.*\bdownload\b|\b(?:pip3?|apt|apt-get|snap)\b.*\binstall\b|wheelhouse\.sh")
# The boards of each wheelhouse folder in a line. agent/README.md prints its lines for both boards.
BOARDS = {"wheelhouse-nano": ("nano",), "wheelhouse-xavier": ("xavier",), "wheelhouse": ("nano", "xavier")}
SYSTEM_PACKAGES = {"python3-venv", "python3-pip", "nvidia-jetpack"}


class InstallLine(NamedTuple):
    """One install line of a page.

    `place` is where it runs: "nano", "xavier", "pc", "computer", "system" or "unknown". `arguments` are those of pip.
    """

    page: str
    line: str
    place: str
    house: str = ""
    arguments: tuple[str, ...] = ()


def install_lines(page: str) -> list[InstallLine]:
    """Return the install lines of a page's blocks and sentences.

    A line for two boards comes twice.
    """
    sentences = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)
    lines = [line.text for line in documents.command_lines(page)] + re.findall(r"`([^`]+)`", sentences)
    return [install for line in lines if INSTALLS.search(line) for install in read_line(page, line)]


def read_line(page: str, line: str) -> list[InstallLine]:
    """Return the installs of a line, each with its place."""
    commands = [words for words in _commands(line) if INSTALLS.search(" ".join(words))]
    return [install for words in commands for install in _read_command(page, line, words)]


def _commands(line: str) -> list[list[str]]:
    commands: list[list[str]] = [[]]
    for word in shlex.split(line, comments=True):
        if word in ("&&", ";"):
            commands.append([])
        elif word != "sudo" or commands[-1]:
            commands[-1].append(word)
    return commands


def _read_command(page: str, line: str, words: list[str]) -> list[InstallLine]:
    program, rest = words[0], words[1:]
    if program == "deploy/agent/wheelhouse.sh" and len(rest) == 2:
        return [InstallLine(page, line, "computer", rest[1], (rest[0],))]
    if program == "apt" and rest[0] == "install" and set(rest[1:]) <= SYSTEM_PACKAGES:
        return [InstallLine(page, line, "system")]
    if program.endswith("/bin/pip") and rest[:3] == ["install", "--no-index", "--find-links"] and rest[3] in BOARDS:
        return [InstallLine(page, line, board, rest[3], tuple(rest[4:])) for board in BOARDS[rest[3]]]
    if program.endswith("/bin/pip") and rest[0] == "install" and all(word.startswith("./") for word in rest[1:]):
        return [InstallLine(page, line, "pc", "", tuple(rest[1:]))]
    return [InstallLine(page, line, "unknown")]
