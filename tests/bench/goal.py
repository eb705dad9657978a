"""What a benchmark answers."""

from typing import NamedTuple


class Goal(NamedTuple):
    """One performance goal: whether it was met (None: nothing to meet, only figures), and the sentence."""

    met: bool | None
    sentence: str
