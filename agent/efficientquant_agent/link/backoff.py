"""Pauses between attempts that grow and never fall in step with other agents'."""

import random


class Backoff:
    """Jittered exponential pauses: each is half to all of `first_s` · 2ⁿ, at most `max_s`."""

    def __init__(self, first_s: float, max_s: float) -> None:
        self._first_s = first_s
        self._max_s = max_s
        self._attempts = 0

    def next_s(self) -> float:
        """Return how long to wait now, in seconds."""
        ceiling_s = min(self._max_s, self._first_s * 2 ** min(self._attempts, 32))
        self._attempts += 1
        return ceiling_s * random.uniform(0.5, 1.0)  # noqa: S311 — spreads load, keeps no secret

    def reset(self) -> None:
        """Begin again: something worked."""
        self._attempts = 0
