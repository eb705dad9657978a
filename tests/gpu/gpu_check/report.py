"""The report in Markdown, written atomically."""

import contextlib
import datetime
import os
import platform
import re
import tempfile
from collections import Counter
from typing import Sequence

from gpu_check.machine import Machine
from gpu_check.rows import Row


def markdown(machine: Machine, rows: Sequence[Row], folders: Sequence[str], wall_s: float) -> str:
    """Return the whole report."""
    facts = [
        "SM {}".format(machine.sm) if machine.sm else "",
        "driver {}".format(machine.driver) if machine.driver else "",
        "CUDA {}".format(machine.cuda) if machine.cuda else "",
        "Python {}".format(platform.python_version()),
        platform.machine(),
    ]
    lines = [
        "# {}, {}".format(_cell(machine.name), datetime.date.today().isoformat()),
        "",
        "{}. Written by `make gpu-check` in {:.0f} s: {}.".format(", ".join(filter(None, facts)), wall_s, count(rows)),
    ]
    if folders:
        short = ["/".join(folder.split("/")[-3:]) for folder in folders]
        lines += ["", "Libraries were also searched in {}.".format(", ".join(short))]
    lines += ["", "| check | outcome | seen |", "|---|---|---|"]
    lines += ["| {} |".format(" | ".join(_cell(cell) for cell in row)) for row in rows]
    return "\n".join(lines) + "\n"


def count(rows: Sequence[Row]) -> str:
    """Return e.g. "12 checks (10 ok, 2 absent)"."""
    outcomes = Counter(row.outcome for row in rows)
    return "{} checks ({})".format(len(rows), ", ".join("{} {}".format(n, name) for name, n in outcomes.items()))


def write(folder: str, machine: Machine, text: str) -> str:
    """Write the report and return its path.

    Raises OSError when it cannot be written, and leaves no file then.
    """
    slug = re.sub(r"[^a-z0-9]+", "-", machine.name.lower()).strip("-") or "gpu"
    path = os.path.join(folder, "{}-{}.md".format(datetime.date.today().isoformat(), slug))
    os.makedirs(folder, exist_ok=True)
    handle, partial = tempfile.mkstemp(prefix=".gpu-check-", dir=folder)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        raise
    return path


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
