"""The lines on stderr about what a command waits for.

A terminal shows one line that counts the seconds. A log gets a line at intervals.
"""

import sys
import time
from collections.abc import Callable
from threading import Event, Thread
from types import TracebackType
from typing import Self

from efficientquant_controller.cli.durations import clock_time

# A shorter wait is not reported.
SILENT_S = 1.0
TERMINAL_INTERVAL_S = 1.0
LONGEST_INTERVAL_S = 60.0
_CLEAR_LINE = "\r\x1b[2K"


class Waiting:
    """A context manager that reports on stderr what it waits for.

    Nothing is reported in the first `silent_s` seconds. `what` completes "waiting for …". A function as `what` is
    called for each line.
    """

    def __init__(self, what: str | Callable[[], str], silent_s: float = SILENT_S) -> None:
        self._what = what if callable(what) else lambda: what
        self._silent_s = silent_s
        self._ended = Event()
        self._thread = Thread(target=self._report, name="waiting", daemon=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the clock and the reporting thread."""
        self._started_s = time.monotonic()
        self._thread.start()

    def stop(self) -> None:
        """Stop reporting and clear the counting line.

        May be called more than once.
        """
        self._ended.set()
        self._thread.join()

    def _report(self) -> None:
        on_terminal = sys.stderr.isatty()
        has_written = False
        pause_s = self._silent_s
        while not self._ended.wait(pause_s):
            elapsed_s = time.monotonic() - self._started_s
            line = f"waiting for {self._what()} ({clock_time(elapsed_s)})"
            if not _write(f"{_CLEAR_LINE}{line}" if on_terminal else f"{line}\n"):
                return
            has_written = True
            pause_s = TERMINAL_INTERVAL_S if on_terminal else next_pause_s(elapsed_s)
        if has_written and on_terminal:
            _write(_CLEAR_LINE)


def next_pause_s(elapsed_s: float) -> float:
    """Return the seconds until the next log line, at most a minute."""
    return min(max(9.0, elapsed_s), LONGEST_INTERVAL_S)


def _write(text: str) -> bool:
    """Write to stderr and tell whether that succeeded."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (OSError, ValueError):  # the command itself gets the same error and ends with it
        return False
    return True
