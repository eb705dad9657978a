"""Growing pauses between attempts, with jitter to spread the agents' load."""

import random


class Backoff:
    """Exponential pauses with jitter.

    Each pause is half to all of `first_s` · 2ⁿ, at most `max_s`.
    """

    def __init__(self, first_s: float, max_s: float) -> None:
        self._first_s = first_s
        self._max_s = max_s
        self._attempts = 0

    def next_s(self) -> float:
        """Return the next pause, in seconds."""
        ceiling_s: float = min(self._max_s, self._first_s * 2 ** min(self._attempts, 32))
        self._attempts += 1
        return ceiling_s * random.uniform(0.5, 1.0)  # noqa: S311 — spreads load, keeps no secret

    def reset(self) -> None:
        """Restart with the shortest pause, after a success."""
        self._attempts = 0
