"""The tegrastats process of a run, whose lines are timestamped on arrival."""

import contextlib
import os
import select
import signal
import subprocess
import time
from typing import IO, Dict, FrozenSet, Iterable, List, Optional, Tuple

from efficientquant_agent.errors import SensorError, TegrastatsError
from efficientquant_agent.samplers.tegrastats import MAX_LINE, Sample, parse_line, values

# This many bad lines in a row are an error. Fewer are skipped.
MAX_GARBAGE_LINES = 5
_EXIT_TIMEOUT_S = 1.0
_LONGEST_INTERVAL_S = 60.0

Reading = Tuple[float, Dict[str, float]]


class Tegrastats:
    """One tegrastats process, which is never restarted.

    Wait until `fileno` becomes readable, then call `read`. `without` names series that another sampler reads, which
    are left out here. If the agent is killed, tegrastats exits at its next line, because its pipe is closed.
    """

    def __init__(self, executable: str, interval_s: float = 0.1, without: Iterable[str] = ()) -> None:
        """Start the process.

        Raises SensorError when it cannot be started.
        """
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
                start_new_session=True,  # so that `close` also ends the processes that it starts
            )
        except OSError as error:
            raise SensorError(executable, (error.strerror or "cannot be started").lower()) from error
        assert self._process.stdout is not None  # because of PIPE
        self._stdout: IO[bytes] = self._process.stdout
        os.set_blocking(self._stdout.fileno(), False)

    def fileno(self) -> int:
        """Return the descriptor to wait on.

        It becomes readable when there are lines, and when the process exits.
        """
        return self._stdout.fileno()

    def read(self) -> List[Reading]:
        """Return a reading for each line that is complete by now.

        A reading is (monotonic seconds of arrival, values by series). Raises SensorError when the process has exited
        or has written MAX_GARBAGE_LINES bad lines in a row. Readings from before the error are returned first, and a
        later call raises it.
        """
        if not self._unread:
            self._take()
        readings, self._unread = self._unread, []
        return readings

    def first_sample(self, timeout_s: float = 3.0) -> Sample:
        """Return the latest sample, waiting for a first line if necessary.

        It shows which fields this board has. `read` returns its values, too. Raises SensorError like `read`, and when
        no line arrives in time.
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
        """CPU seconds that the process has used until now or `close`."""
        with contextlib.suppress(OSError, IndexError, ValueError):
            with open("/proc/{}/stat".format(self._process.pid), "rb") as stream:
                fields = stream.read().rsplit(b")", 1)[1].split()
            self._cpu_s = max(self._cpu_s, (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"))
        return self._cpu_s

    def close(self) -> None:
        """Terminate the process and its children, after one second by SIGKILL.

        May be called more than once.
        """
        if self._process.returncode is None:
            self._cpu_s = self.cpu_s
            self._signal(signal.SIGTERM)
            try:
                self._process.wait(_EXIT_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._signal(signal.SIGKILL)
                self._process.wait()
        self._stdout.close()

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _take(self) -> None:
        """Read the pipe and parse its complete lines."""
        try:
            data = os.read(self._stdout.fileno(), 65536)
        except BlockingIOError:
            return
        if not data:
            raise SensorError(self.path, self._ending())
        now_s = time.monotonic()
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()[: MAX_LINE + 1]  # a longer rest is cut, and still too long for the parser
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
        by_series = values(sample)
        self._unread.append((now_s, {name: by_series[name] for name in by_series if name not in self._without}))

    def _ending(self) -> str:
        try:
            code = self._process.wait(_EXIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return "closed its output"
        return "was killed by signal {}".format(-code) if code < 0 else "ended with code {}".format(code)
