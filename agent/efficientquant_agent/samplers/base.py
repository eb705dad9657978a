"""The contract of a sampler: one quantity, read again and again, cheaply."""

import abc
import errno
import os
import time
from typing import Any, Callable, List, NamedTuple, Optional, Tuple

from efficientquant_agent.errors import SensorError


class SamplerRoots(NamedTuple):
    """Where a board is read: its file systems, and NVML's GPU (samplers.nvml.Gpu) where there is one."""

    proc: str = "/proc"
    sys: str = "/sys"
    gpu: Optional[Any] = None


# Finds the samplers of one kind; raises SensorError when what says what is there cannot be read.
Part = Callable[[SamplerRoots], "List[Sampler]"]


class Sampler(abc.ABC):
    """One quantity. New hardware is one file with one subclass and its `BOARD_PARTS`, named in discovery.MODULES.

    Absent, broken and zero are three different answers:
      * `sample` MUST return None when the quantity does not exist (any more) on this board;
      * `sample` MUST raise SensorError when it exists and cannot be read or understood;
      * `sample` MUST return a number, 0.0 included, only when it was read just now.
    `sample` MUST NOT start a process, sleep or poll; it SHOULD keep its file open between calls.
    """

    # In the words of the wire: quantity and SI unit, e.g. "child_pss_bytes".
    name = ""

    def due(self, now_s: float) -> bool:  # noqa: ARG002
        """Say whether it may be sampled at `now_s` (monotonic seconds); the recorder MUST ask first.

        Only a quantity whose reading is dear ever says no: it spaces its own samples out.
        """
        return True

    @abc.abstractmethod
    def sample(self) -> Optional[float]:
        """Read the quantity once."""

    @abc.abstractmethod
    def close(self) -> None:
        """Release what is held; called once, after the last sample."""


class Budgeted(Sampler):
    """A dear sampler, held to a share of one core: after a reading of t CPU seconds it rests for t / `share`."""

    def __init__(self, sampler: Sampler, share: float) -> None:
        self.name = sampler.name
        self._sampler = sampler
        self._share = share
        self._now_s = 0.0
        self._next_s = 0.0

    def due(self, now_s: float) -> bool:
        """Say whether the last reading has been paid off."""
        self._now_s = now_s
        return now_s >= self._next_s

    def sample(self) -> Optional[float]:
        """Read the quantity, and note what that cost this thread."""
        before_s = time.clock_gettime(time.CLOCK_THREAD_CPUTIME_ID)
        try:
            return self._sampler.sample()
        finally:
            cost_s = time.clock_gettime(time.CLOCK_THREAD_CPUTIME_ID) - before_s
            self._next_s = self._now_s + cost_s / self._share

    def close(self) -> None:
        """Close the sampler behind."""
        self._sampler.close()


class OpenFile:
    """A file of /proc or /sys that is opened once and read many times.

    `absent` names further errno values by which this kind of file says that there is nothing to read now.
    """

    def __init__(self, path: str, absent: Tuple[int, ...] = ()) -> None:
        self.path = path
        self._absent = absent
        self._descriptor: Optional[int] = None

    def read(self) -> Optional[bytes]:
        """Return the content now, None when the file (or the process behind it) is not there.

        Raises SensorError when it is there and cannot be read.
        """
        try:
            return self._read_all(self._open())
        except OSError as error:
            return self._nothing(error)

    def read_short(self, most_bytes: int = 255) -> Optional[bytes]:
        """Return content that the kernel writes as one piece of at most so many bytes; None and SensorError as `read`.

        It comes whole in one read. Another, to find its end, would have the kernel write it again.
        """
        try:
            return os.pread(self._open(), most_bytes, 0)
        except OSError as error:
            return self._nothing(error)

    def read_number(self) -> Optional[int]:
        """Return the one whole number that is the file's content; None and SensorError as `read`."""
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

    def _nothing(self, error: OSError) -> None:
        """Return None for what is not there, raise for what cannot be read."""
        if error.errno == errno.ENODEV:  # unplugged, as a core that goes offline: it may come back as a new file
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
    """A quantity that is one whole number in one file, `times` and `over` what makes its unit that of the name."""

    def __init__(self, name: str, path: str, times: int = 1, over: int = 1, absent: Tuple[int, ...] = ()) -> None:
        self.name = name
        self._file = OpenFile(path, absent)
        self._times = times
        self._over = over

    def sample(self) -> Optional[float]:
        """Return the number in the unit of the name, None when the file is not there."""
        number = self._file.read_number()
        return None if number is None else number * self._times / self._over

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_text(path: str) -> Optional[str]:
    """Return the stripped content of a small file that says what a sensor is, None when it is not there.

    Raises SensorError when it is there and cannot be read.
    """
    file = OpenFile(path)
    try:
        content = file.read()
    finally:
        file.close()
    return None if content is None else content.decode(errors="replace").strip("\0 \t\n")
