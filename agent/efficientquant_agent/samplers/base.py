"""The contract of a sampler: one quantity, read again and again, cheaply."""

import abc
import os
from typing import Optional

from efficientquant_agent.errors import SensorError


class Sampler(abc.ABC):
    """One quantity. New hardware is one file with one subclass, and one test file.

    Absent, broken and zero are three different answers:
      * `sample` MUST return None when the quantity does not exist (any more) on this board;
      * `sample` MUST raise SensorError when it exists and cannot be read or understood;
      * `sample` MUST return a number, 0.0 included, only when it was read just now.
    `sample` MUST NOT start a process, sleep or poll; it SHOULD keep its file open between calls.
    """

    # In the words of the wire: quantity and SI unit, e.g. "child_pss_bytes".
    name = ""

    @abc.abstractmethod
    def sample(self) -> Optional[float]:
        """Read the quantity once."""

    @abc.abstractmethod
    def close(self) -> None:
        """Release what is held; called once, after the last sample."""


class OpenFile:
    """A file of /proc or /sys that is opened once and read many times."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._descriptor: Optional[int] = None

    def read(self) -> Optional[bytes]:
        """Return the content now, None when the file (or the process behind it) is not there.

        Raises SensorError when it is there and cannot be read.
        """
        try:
            if self._descriptor is None:
                self._descriptor = os.open(self.path, os.O_RDONLY)
            return self._read_all(self._descriptor)
        except (FileNotFoundError, ProcessLookupError):
            return None
        except OSError as error:
            raise SensorError(self.path, (error.strerror or "unreadable").lower()) from error

    def close(self) -> None:
        """Close the file, if it is open."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    @staticmethod
    def _read_all(descriptor: int) -> bytes:
        content = b""
        while True:
            block = os.pread(descriptor, 65536, len(content))
            if not block:
                return content
            content += block
