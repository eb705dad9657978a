"""The result of a benchmark."""

from typing import NamedTuple


class Goal(NamedTuple):
    """One performance goal and its sentence.

    `met` is None for figures without a goal.
    """

    met: bool | None
    sentence: str
