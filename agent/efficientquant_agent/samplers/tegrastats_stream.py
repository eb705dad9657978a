"""The tegrastats process of a run: its lines, stamped as they arrive."""

import contextlib
import os
import select
import signal
import subprocess
import time
from typing import Dict, FrozenSet, Iterable, List, Optional, Tuple

from efficientquant_agent.errors import SensorError, TegrastatsError
from efficientquant_agent.samplers.tegrastats import MAX_LINE, Sample, parse_line, values

# So many bad lines one after the other are no slip any more.
MAX_GARBAGE_LINES = 5
_EXIT_TIMEOUT_S = 1.0
_LONGEST_INTERVAL_S = 60.0

Reading = Tuple[float, Dict[str, float]]


class Tegrastats:
    """Runs one tegrastats; wait for `fileno` to become readable, then `read`. It restarts nothing.

    `without` names series that someone else samples, and that are left out here.
    Should the agent be killed, the next line that tegrastats writes meets a closed pipe and ends it.
    """

    def __init__(self, executable: str, interval_s: float = 0.1, without: Iterable[str] = ()) -> None:
        """Start it; raises SensorError when that cannot be done."""
        self.path = executable
        self._without: FrozenSet[str] = frozenset(without)
        self._rest = b""
        self._garbage_lines = 0
        self._unread: List[Reading] = []
        self._latest: Optional[Sample] = None
        self._cpu_s = 0.0
        interval_ms = round(1000 * min(_LONGEST_INTERVAL_S, max(0.001, interval_s)))
        try:
            self._process = subprocess.Popen(
                [executable, "--interval", str(interval_ms)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                start_new_session=True,  # whatever it starts ends with it
            )
        except OSError as error:
            raise SensorError(executable, (error.strerror or "cannot be started").lower()) from error
        os.set_blocking(self._process.stdout.fileno(), False)

    def fileno(self) -> int:
        """Return what becomes readable when there are lines, and when the process ends."""
        return self._process.stdout.fileno()

    def read(self) -> List[Reading]:
        """Return (monotonic seconds of arrival, values by series) of each line that is complete by now.

        Raises SensorError when the process has ended, or has written MAX_GARBAGE_LINES bad lines in a row; what came
        before that is returned first, so that the error is the answer of a later call.
        """
        if not self._unread:
            self._take()
        readings, self._unread = self._unread, []
        return readings

    def first_sample(self, timeout_s: float = 3.0) -> Sample:
        """Wait for a line, where none has come yet: it tells what there is; `read` returns its values, too.

        Raises SensorError as `read`, and when nothing comes in time.
        """
        deadline_s = time.monotonic() + timeout_s
        while self._latest is None:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0 or not select.select([self], [], [], left_s)[0]:
                raise SensorError(self.path, "said nothing within {:g} s".format(timeout_s))
            self._take()
        return self._latest

    @property
    def cpu_s(self) -> float:
        """Processor seconds that the process has used until now, or until it was closed."""
        with contextlib.suppress(OSError, IndexError, ValueError):
            with open("/proc/{}/stat".format(self._process.pid), "rb") as stream:
                fields = stream.read().rsplit(b")", 1)[1].split()
            self._cpu_s = max(self._cpu_s, (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"))
        return self._cpu_s

    def close(self) -> None:
        """End the process and everything it started, by force after a second; once is enough, more does no harm."""
        if self._process.returncode is None:
            self._cpu_s = self.cpu_s
            self._signal(signal.SIGTERM)
            try:
                self._process.wait(_EXIT_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._signal(signal.SIGKILL)
                self._process.wait()
        self._process.stdout.close()

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _take(self) -> None:
        """Read what the pipe holds."""
        try:
            data = os.read(self._process.stdout.fileno(), 65536)
        except BlockingIOError:
            return
        if not data:
            raise SensorError(self.path, self._ending())
        now_s = time.monotonic()
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()[: MAX_LINE + 1]  # longer than any line: kept only to be refused
        for line in lines:
            self._handle(line, now_s)

    def _handle(self, line: bytes, now_s: float) -> None:
        try:
            sample = parse_line(line.decode("ascii", errors="replace"))
        except TegrastatsError as error:
            self._garbage_lines += 1
            if self._garbage_lines >= MAX_GARBAGE_LINES and not self._unread:
                reason = "{} lines in a row that are not tegrastats'; the last: {!r}"
                raise SensorError(self.path, reason.format(self._garbage_lines, error.line)) from error
            return
        self._garbage_lines = 0
        self._latest = sample
        found = values(sample)
        self._unread.append((now_s, {name: found[name] for name in found if name not in self._without}))

    def _ending(self) -> str:
        try:
            code: Optional[int] = self._process.wait(_EXIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return "closed its output"
        return "was killed by signal {}".format(-code) if code < 0 else "ended with code {}".format(code)
