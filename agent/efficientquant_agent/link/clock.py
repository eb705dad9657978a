"""The controller's clock, as far as opening a session shows it."""

import math
import time
from typing import Optional

from efficientquant_agent.records import RunResult

# An exchange whose travel leaves more doubt than this shows nothing. Offsets matter from two seconds on.
_MAX_ERROR_S = 1.0


class ControllerClock:
    """The controller's clock, counted on this device's monotonic clock.

    So an offset stays right when a time server or a person sets this device's clock. Every session measures it again.
    """

    def __init__(self) -> None:
        # The controller's time when this device's monotonic clock was 0. None until it is known.
        self._base_unix_s: Optional[float] = None

    def learn(self, sent_s: float, received_unix_s: float, answered_unix_s: float, back_s: float) -> None:
        """Learn from the four times of a hello and its answer.

        The formula is NTP's (RFC 5905, section 8). `sent_s` and `back_s` are this device's monotonic clock, the others
        are the controller's. The error is at most half the travel of both messages. Nothing is learned without the
        controller's times, or if they travelled long.
        """
        travel_s = (back_s - sent_s) - (answered_unix_s - received_unix_s)
        base_unix_s = (received_unix_s - sent_s + answered_unix_s - back_s) / 2
        is_known = received_unix_s > 0 and answered_unix_s > 0 and math.isfinite(base_unix_s)
        if is_known and abs(travel_s) / 2 <= _MAX_ERROR_S:
            self._base_unix_s = base_unix_s

    def offset_s(self, unix_s: float, monotonic_s: float) -> Optional[float]:
        """Return how far this device's clock was ahead at a moment.

        Negative is behind, None unknown.
        """
        return None if self._base_unix_s is None else unix_s - monotonic_s - self._base_unix_s

    def offset_now_s(self) -> Optional[float]:
        """Return how far this device's clock is ahead now."""
        return self.offset_s(time.time(), time.monotonic())

    def stamped(self, result: RunResult) -> RunResult:
        """Return a result with the offset when its run started.

        It stays as it is when nothing ran or the offset is unknown.
        """
        offset_s = self.offset_s(result.started_unix_s, result.started_monotonic_s)
        if offset_s is None or not result.started_unix_s:
            return result
        return result._replace(measured=dict(result.measured, clock_offset_s=offset_s))
