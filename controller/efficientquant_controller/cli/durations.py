"""Durations and times as text."""

from datetime import UTC, datetime


def duration(seconds: float) -> str:
    """Return a duration in its largest whole unit, e.g. `3 min`."""
    for unit, length_s in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length_s:
            return f"{int(seconds // length_s)} {unit}"
    return f"{max(int(seconds), 0)} s"


def clock_time(seconds: float) -> str:
    """Return a duration to the second, e.g. `3:05 min`.

    A duration under a minute looks like `42 s`, one from an hour on like `1:03:05 h`.
    """
    whole = max(int(seconds), 0)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02d}:{whole % 60:02d} h"


def utc_time(unix_s: float | None) -> str | None:
    """Return a time as ISO 8601 in UTC, e.g. `2026-03-01T09:30:00.250Z`.

    None for an unknown time, and for one beyond the calendar.
    """
    if unix_s is None:
        return None
    try:
        time = datetime.fromtimestamp(unix_s, UTC)
    except (OverflowError, ValueError, OSError):
        return None
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
