"""What a benchmark answers."""

from typing import NamedTuple


class Goal(NamedTuple):
    """One performance goal: whether it was met, and the sentence with the figures."""

    met: bool
    sentence: str
