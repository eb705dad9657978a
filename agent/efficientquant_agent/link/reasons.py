"""Reasons that are logged once each, however often they come."""

from typing import Callable, Set

_MOST = 100


class Reasons:
    """A log that says each sentence once until the next reset()."""

    def __init__(self, log: Callable[[str], None]) -> None:
        self._log = log
        self._said: Set[str] = set()

    def say(self, sentence: str) -> None:
        """Log a sentence that is new."""
        if sentence in self._said:
            return
        if len(self._said) >= _MOST:
            self._said.clear()
        self._said.add(sentence)
        self._log(sentence)

    def reset(self) -> None:
        """Let every sentence be new again."""
        self._said.clear()
