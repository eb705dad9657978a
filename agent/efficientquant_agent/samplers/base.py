"""The contract of a sampler, which reads one quantity repeatedly and cheaply."""

import abc
import errno
import os
import time
from typing import Any, Callable, List, NamedTuple, Optional, Tuple

from efficientquant_agent.errors import SensorError


class SamplerRoots(NamedTuple):
    """The board's file systems and its NVML GPU, if any.

    `gpu` is a samplers.nvml.Gpu.
    """

    proc: str = "/proc"
    sys: str = "/sys"
    gpu: Optional[Any] = None


# Returns the samplers of one kind. Raises SensorError when a file that lists the hardware cannot be read.
Part = Callable[[SamplerRoots], "List[Sampler]"]


class Sampler(abc.ABC):
    """One quantity that is read repeatedly during a run.

    New hardware is one file with one subclass and its `BOARD_PARTS`, named in discovery.MODULES.

    Absent, broken and zero are three different answers:
      * `sample` MUST return None when the quantity does not exist (any more) on this board.
      * `sample` MUST raise SensorError when it exists and cannot be read or parsed.
      * `sample` MUST return a number, 0.0 included, only when it was read just now.
    `sample` MUST NOT start a process, sleep or poll. It SHOULD keep its file open between calls.
    """

    # The series on the wire: quantity and SI unit, e.g. "child_pss_bytes".
    name = ""

    def due(self, now_s: float) -> bool:  # noqa: ARG002
        """Tell whether the quantity may be sampled at `now_s` (monotonic seconds).

        The recorder MUST call this before each sample. Only an expensive sampler returns False, to rate-limit itself.
        """
        return True

    @abc.abstractmethod
    def sample(self) -> Optional[float]:
        """Read the quantity once."""

    @abc.abstractmethod
    def close(self) -> None:
        """Release files and connections.

        Called once, after the last sample.
        """


class Budgeted(Sampler):
    """An expensive sampler, rate-limited to `share` of one core.

    After a reading that took t CPU seconds it is not due for t / `share` seconds.
    """

    def __init__(self, sampler: Sampler, share: float) -> None:
        self.name = sampler.name
        self._sampler = sampler
        self._share = share
        self._now_s = 0.0
        self._next_s = 0.0

    def due(self, now_s: float) -> bool:
        """Tell whether the pause after the last reading is over."""
        self._now_s = now_s
        return now_s >= self._next_s

    def sample(self) -> Optional[float]:
        """Read the quantity and measure the CPU time of this thread."""
        before_s = time.clock_gettime(time.CLOCK_THREAD_CPUTIME_ID)
        try:
            return self._sampler.sample()
        finally:
            cost_s = time.clock_gettime(time.CLOCK_THREAD_CPUTIME_ID) - before_s
            self._next_s = self._now_s + cost_s / self._share

    def close(self) -> None:
        """Close the wrapped sampler."""
        self._sampler.close()


class Spaced(Sampler):
    """A sampler that is read at most once in `interval_s` seconds."""

    def __init__(self, sampler: Sampler, interval_s: float) -> None:
        self.name = sampler.name
        self._sampler = sampler
        self._interval_s = interval_s
        self._next_s = 0.0

    def due(self, now_s: float) -> bool:
        """Tell whether the interval is over, and begin the next one."""
        if now_s < self._next_s:
            return False
        self._next_s = now_s + self._interval_s
        return True

    def sample(self) -> Optional[float]:
        """Read the quantity."""
        return self._sampler.sample()

    def close(self) -> None:
        """Close the wrapped sampler."""
        self._sampler.close()


class OpenFile:
    """A file of /proc or /sys, opened once and read repeatedly.

    `absent` lists further errno values that mean "no value now" for this kind of file.
    """

    def __init__(self, path: str, absent: Tuple[int, ...] = ()) -> None:
        self.path = path
        self._absent = absent
        self._descriptor: Optional[int] = None

    def read(self) -> Optional[bytes]:
        """Return the current content, None if the file does not exist.

        A file of a process that has exited does not exist either. Raises SensorError when an existing file cannot be
        read.
        """
        try:
            return self._read_all(self._open())
        except OSError as error:
            self._raise_unless_absent(error)
            return None

    def read_short(self, max_bytes: int = 255) -> Optional[bytes]:
        """Return content of at most `max_bytes` with a single system call.

        The kernel writes such content in one piece. A second read, to find the end, would make the kernel write it
        again. Returns None and raises SensorError like `read`.
        """
        try:
            return os.pread(self._open(), max_bytes, 0)
        except OSError as error:
            self._raise_unless_absent(error)
            return None

    def read_number(self) -> Optional[int]:
        """Return the file's content as a whole number.

        Returns None like `read`. Raises SensorError like `read`, and when the content is no whole number.
        """
        content = self.read_short()
        if content is None:
            return None
        try:
            return int(content)
        except ValueError:
            text = content.decode(errors="replace").strip()
            raise SensorError(self.path, "{!r} is not a whole number".format(text)) from None

    def close(self) -> None:
        """Close the file, if it is open."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _open(self) -> int:
        if self._descriptor is None:
            self._descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        return self._descriptor

    def _raise_unless_absent(self, error: OSError) -> None:
        """Raise SensorError unless `error` means that there is no value.

        Closes the file when its device is gone.
        """
        if error.errno == errno.ENODEV:  # unplugged, like a core that goes offline: it may come back as a new file
            self.close()
            return
        if not isinstance(error, (FileNotFoundError, ProcessLookupError)) and error.errno not in self._absent:
            raise SensorError(self.path, (error.strerror or "unreadable").lower()) from error

    @staticmethod
    def _read_all(descriptor: int) -> bytes:
        content = b""
        while True:
            block = os.pread(descriptor, 65536, len(content))
            if not block:
                return content
            content += block


class Number(Sampler):
    """A quantity that is one whole number in one file.

    The number, multiplied by `times` and divided by `over`, has the unit of the name.
    """

    def __init__(self, name: str, path: str, times: int = 1, over: int = 1, absent: Tuple[int, ...] = ()) -> None:
        self.name = name
        self._file = OpenFile(path, absent)
        self._times = times
        self._over = over

    def sample(self) -> Optional[float]:
        """Return the scaled number, None when the file does not exist."""
        number = self._file.read_number()
        return None if number is None else number * self._times / self._over

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_text(path: str) -> Optional[str]:
    """Return the stripped text of a small file, None without the file.

    Raises SensorError when an existing file cannot be read.
    """
    file = OpenFile(path)
    try:
        content = file.read()
    finally:
        file.close()
    return None if content is None else content.decode(errors="replace").strip("\0 \t\n")
