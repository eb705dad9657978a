"""The comparison of versions by their leading numbers."""

import re
from typing import Tuple


def version_of(text: str) -> Tuple[int, ...]:
    """Return the leading numbers of a version.

    "8.2.1.8+cuda10" → (8, 2, 1, 8), "" → ().
    """
    match = re.match(r"\d+(?:\.\d+)*", text)
    return tuple(int(part) for part in match.group().split(".")) if match else ()
