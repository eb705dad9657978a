"""A controller and two agents as processes on this machine.

Leaving their `with` block ends them.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from threading import Thread, Timer
from types import TracebackType
from typing import Self

from efficientquant_controller.cli.connection import Connection
from efficientquant_controller.cli.fleet.watching import Watch, open_display
from efficientquant_controller.cli.records import BenchRequest, CampaignListing, CampaignStatus
from efficientquant_controller.errors import UserError
from efficientquant_controller.model import Weights

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 5.0
READY = "ready: "


class DemoProcess:
    """A process in its own process group that logs to a file."""

    def __init__(self, name: str, module: str, arguments: list[str], folder: Path) -> None:
        """Start `python -m module arguments` with its stderr in FOLDER/NAME.log."""
        self.name = name
        self.log = folder / f"{name}.log"
        self.stopping = False
        with self.log.open("ab") as log:
            # In its own session, so that Ctrl-C reaches only the demo, which then stops the processes in order.
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                text=True,
            )

    def wait_ready(self) -> str:
        """Wait for the ready line and return the text after it.

        Raises UserError when it does not come.
        """
        assert self._process.stdout is not None
        # Killing a process that hangs closes the pipe, which ends the loop.
        with _call_after(START_TIMEOUT_S, self._process.kill):
            for line in self._process.stdout:
                if line.startswith(READY):
                    return line.removeprefix(READY).strip()
        raise UserError(f"{self.name} did not start: {self._last_line()} (log: {self.log})")

    def wait(self) -> int:
        """Wait for the process to end and return its exit code."""
        return self._process.wait()

    def stop(self) -> None:
        """Stop the group with SIGTERM, then SIGKILL, and reap the process."""
        self.stopping = True
        self._signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_TIMEOUT_S)
        # Children that the leader left behind.
        self._signal(signal.SIGKILL)
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _signal(self, number: signal.Signals) -> None:
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            return

    def _last_line(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"


@contextmanager
def _call_after(timeout_s: float, action: Callable[[], None]) -> Iterator[None]:
    timer = Timer(timeout_s, action)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class DemoFleet:
    """The processes of the demo.

    Leaving the `with` block ends all of them, also after an error.
    """

    def __init__(self, folder: Path, database: Path, agents: Sequence[str]) -> None:
        self.folder = folder
        self.builds_failed = False
        self._database = database
        self._agents = agents
        self._processes: list[DemoProcess] = []
        self._address = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A second Ctrl-C must not leave processes behind.
        handlers = {
            number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        }
        for process in reversed(self._processes):
            process.stop()
        for number, handler in handlers.items():
            signal.signal(number, handler)

    def start(self) -> None:
        """Start the controller and the agents and wait until they are ready.

        Raises UserError when one does not start, and names its log.
        """
        if find_spec("efficientquant_agent") is None:
            raise UserError(
                "the demo runs agents on this machine and efficientquant-agent is not installed here; install "
                "'efficientquant-agent[ort]' next to efficientquant"
            )
        self._make_folder()
        serve = ["serve", "--db", str(self._database), "--listen", "127.0.0.1:0"]
        controller = self._launch("controller", "efficientquant_controller.cli", serve)
        self._address = controller.wait_ready().rpartition(" ")[2]
        agents = [self._launch_agent(name) for name in self._agents]
        for agent in agents:
            agent.wait_ready()

    def run(self, request: BenchRequest, weights: Weights) -> CampaignListing | None:
        """Run one campaign with progress on stderr.

        Returns None when Ctrl-C ended it. Raises UserError when the campaign is refused, or when a process ends before
        the campaign.
        """
        with Connection(self._address) as connection:
            campaign = connection.submit(request, weights)
            watch = Watch(
                connection, campaign.campaign_id, open_display(self._address, as_json=False), None, reached=True
            )
            for process in self._processes:
                Thread(target=report_death, args=(process, watch.fail), daemon=True).start()
            status = watch.run()
        if status is None:
            return None
        self.builds_failed = _any_build_failed(status)
        return status.campaign

    def _make_folder(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"the folder {self.folder} cannot be made: {error.strerror}") from error

    def _launch_agent(self, name: str) -> DemoProcess:
        arguments = ["--controller", self._address, "--name", name, "--state-dir", str(self.folder / name)]
        return self._launch(name, "efficientquant_agent", arguments)

    def _launch(self, name: str, module: str, arguments: list[str]) -> DemoProcess:
        process = DemoProcess(name, module, arguments, self.folder)
        self._processes.append(process)
        return process


def report_death(process: DemoProcess, fail: Callable[[Exception], None]) -> None:
    """Wait for a process and call `fail` if it ended unexpectedly."""
    code = process.wait()
    if not process.stopping:
        fail(UserError(f"{process.name} ended unexpectedly (exit code {code}); its log: {process.log}"))


def _any_build_failed(status: CampaignStatus) -> bool:
    return any(build.state == "failed" for build in status.builds)
