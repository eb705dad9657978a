"""Lines that break between words, never before a unit."""

import re
import textwrap
from collections.abc import Iterator, Sequence

from rich.cells import cell_len

_NO_BREAK = "\N{NO-BREAK SPACE}"
_WITH_UNIT = re.compile(r"(?<=\d) (?=(?:%|ms|s|MiB|mJ|J|W|°C|MHz)(?!\w))")


def folded(text: str, width: int, indent: str = "") -> list[str]:
    """Return a text as lines, those after the first indented.

    A word that is longer than the width stays whole.
    """
    lines = textwrap.wrap(
        _WITH_UNIT.sub(_NO_BREAK, text),
        max(width, len(indent) + 1),
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace(_NO_BREAK, " ") for line in lines]


def joined(parts: Sequence[str], width: int, gap: str = "    ") -> list[str]:
    """Return parts side by side in lines that break between them."""
    lines: list[str] = []
    for part in _fitting(parts, width):
        if lines and cell_len(lines[-1] + gap + part) <= width:
            lines[-1] += gap + part
        else:
            lines.append(part)
    return lines


def _fitting(parts: Sequence[str], width: int) -> Iterator[str]:
    for part in parts:
        yield from folded(part, width, "  ")
