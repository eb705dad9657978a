"""A supervisor that restarts processes by the rules of a systemd unit."""

import asyncio
import signal
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fleet import Process
from waiting import let_pass, until

# systemd takes these for an orderly end (systemd.service(5), Restart=).
_CLEAN_SIGNALS = {signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE}
_LOOK_S = 0.02


@dataclass(frozen=True)
class Rules:
    """The rules by which a unit is started again."""

    restart: str = "no"
    delay_s: float = 0.1
    never_again: frozenset[int] = frozenset()
    # At most `burst` starts within `interval_s`.
    burst: int = 5
    interval_s: float = 10.0

    def restarts(self, status: int) -> bool:
        """Tell whether a process with this exit status is started again.

        A negative status is the number of a signal.
        """
        if status in self.never_again:
            return False
        is_clean = status == 0 or (status < 0 and -status in _CLEAN_SIGNALS)
        answers = {"no": False, "always": True, "on-failure": not is_clean, "on-success": is_clean}
        answers["on-abnormal"] = answers["on-abort"] = status < 0 and not is_clean
        return answers[self.restart]


def read_rules(unit: Path, scale: float = 1.0) -> Rules:
    """Read the rules of a unit, with times divided by `scale`."""
    values: dict[str, str] = {}
    for line in unit.read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith(("#", ";")):
            values[name.strip()] = value.strip()
    return Rules(
        restart=values.get("Restart", "no"),
        delay_s=_seconds(values.get("RestartSec", "0.1")) / scale,
        never_again=frozenset(int(word) for word in values.get("RestartPreventExitStatus", "").split()),
        burst=int(values.get("StartLimitBurst", "5")),
        interval_s=_seconds(values.get("StartLimitIntervalSec", "10")) / scale,
    )


def _seconds(text: str) -> float:
    return 60 * float(text[:-3]) if text.endswith("min") else float(text.removesuffix("s"))


class Output(Process):
    """A started command whose output so far can be read."""

    def text(self) -> str:
        """Return what this process has written."""
        return self.log.read_bytes()[self._offset :].decode(errors="replace")


class Unit:
    """A supervised process.

    `start` starts it. `gave_up` says why it is not started any more.
    """

    def __init__(self, rules: Rules, start: Callable[[], Output], ready: str) -> None:
        self._rules, self._start, self._ready = rules, start, ready
        self._starts: deque[float] = deque(maxlen=rules.burst)
        self._stopping = asyncio.Event()
        self.process: Output | None = None
        self.statuses: list[int] = []
        self.gave_up = ""

    async def supervise(self) -> None:
        """Start the process, and again after its failures, until it is stopped."""
        while not self._stopping.is_set() and not self.gave_up:
            self._begin()
            process = self.process
            while process is not None and process.popen.poll() is None:
                await let_pass(_LOOK_S)
            if process is not None:
                status = process.popen.returncode
                self.statuses.append(status)
                if not self._rules.restarts(status) and not self._stopping.is_set():
                    self.gave_up = f"exit status {status} is not followed by a restart"
            await let_pass(self._rules.delay_s, self._stopping)

    def _begin(self) -> None:
        now_s = time.monotonic()
        is_full = len(self._starts) == self._rules.burst
        if is_full and now_s - self._starts[0] < self._rules.interval_s:
            self.gave_up = f"{self._rules.burst} starts within {self._rules.interval_s:g} s"
            return
        self._starts.append(now_s)
        self.process = self._start()

    def is_running(self) -> bool:
        """Tell whether the process runs now."""
        return self.process is not None and self.process.popen.poll() is None

    async def ready(self, timeout_s: float = 60.0) -> None:
        """Wait until the running process has said that it is ready."""
        held = await until(lambda: bool(self.gave_up) or self._is_ready(), timeout_s)
        assert held, "not ready in time"
        assert not self.gave_up, self.gave_up

    def _is_ready(self) -> bool:
        return self.is_running() and self.process is not None and self._ready in self.process.text()

    def send(self, number: int) -> None:
        """Send a signal to the process, if it runs."""
        if self.process is not None and self.process.popen.poll() is None:
            self.process.popen.send_signal(number)

    async def stop(self) -> None:
        """End the process without another start."""
        self._stopping.set()
        self.send(signal.SIGCONT)
        self.send(signal.SIGTERM)
        has_ended = await until(lambda: not self.is_running(), 15)
        self.send(signal.SIGKILL)
        assert has_ended, "did not end within 15 s of SIGTERM"
