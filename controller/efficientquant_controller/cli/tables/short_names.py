"""Short names of models and recipes, for tables that are too wide."""

import re
from collections.abc import Mapping, Sequence
from os.path import commonprefix

ELLIPSIS = "…"
_LEAST_LETTERS = 3
_LONGEST = 8
_WORD = re.compile(r"[A-Za-z0-9.]+")


def without_start(names: Sequence[str]) -> dict[str, str]:
    """Return names without the start that all of them share.

    `mobilevit_xxs` and `mobilevit_s` become `…xxs` and `…s`. Names that share less than three letters stay.
    """
    start = commonprefix(list(names)) if len(names) > 1 else ""  # noqa: RUF071 – of letters, not of folders
    if len(start) < _LEAST_LETTERS or start in names:
        return {name: name for name in names}
    return {name: ELLIPSIS + name[len(start) :] for name in names}


def shortened(names: Sequence[str]) -> dict[str, str]:
    """Return a distinct short form of each recipe.

    The first word is cut to the letters that tell it from other first words, at least three. A name that stays longer
    than eight letters gets a number: `efficientquant:weight_bits=4` becomes `eff~2`.
    """
    words = {name: _WORD.match(name) for name in names}
    firsts = sorted({match[0] for match in words.values() if match})
    cut = {first: _cut(first, firsts) for first in firsts}
    short: dict[str, str] = {}
    for name in dict.fromkeys(names):
        match = words[name]
        first = cut[match[0]] if match else name[:_LEAST_LETTERS]
        form = first + name[match.end() :] if match else name
        if len(form) > _LONGEST or form in short.values():
            form = _numbered(first, short)
        short[name] = form if len(form) < len(name) else name
    return short


def _cut(word: str, others: Sequence[str]) -> str:
    if len(word) <= _LEAST_LETTERS + 1:
        return word
    for length in range(_LEAST_LETTERS, len(word)):
        if not any(other != word and other.startswith(word[:length]) for other in others):
            return word[:length]
    return word


def _numbered(first: str, taken: Mapping[str, str]) -> str:
    number = 2
    while f"{first}~{number}" in taken.values():
        number += 1
    return f"{first}~{number}"
