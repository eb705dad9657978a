"""The display of a campaign's progress.

A terminal shows live bars. A log gets a line for each change.
"""

import shlex
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, ClassVar

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from efficientquant_controller.cli.durations import clock_time
from efficientquant_controller.cli.fleet.time_left import Pace
from efficientquant_controller.model import CampaignState

if TYPE_CHECKING:
    from efficientquant_controller.cli.records import BuildStatus, CampaignStatus, DeviceStatus

BAR_WIDTH = 30


class ProgressDisplay(ABC):
    """The display of a campaign's status as it changes.

    The remaining time is shown every `tick_s` seconds.
    """

    tick_s: ClassVar[float]

    def __init__(self, address: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._address = address
        self._clock = clock
        self._started_s = clock()
        self._drawn_s = self._started_s
        self._pace = Pace()
        self._status: CampaignStatus | None = None
        self._noticed: set[tuple[float, str]] = set()

    def show(self, status: "CampaignStatus") -> None:
        """Show a new status.

        A notice is printed once, also when a restarted controller repeats it.
        """
        for notice in status.notices:
            if (notice.time_unix_s, notice.message) not in self._noticed:
                self._noticed.add((notice.time_unix_s, notice.message))
                self.say(notice.message)
        self._status, self._drawn_s = status, self._clock()
        self._pace.note(status, self._drawn_s)
        self._draw(status)

    def tick(self) -> None:
        """Show the time again after `tick_s` seconds without a change.

        May be called at any rate.
        """
        if self._status is not None and self._clock() - self._drawn_s >= self.tick_s:
            self._drawn_s = self._clock()
            self._draw_time(self._status)

    def _time_text(self, status: "CampaignStatus") -> str:
        now_s = self._clock()
        facts = (f"watched for {clock_time(now_s - self._started_s)}", self._pace.left(status, now_s))
        return " · ".join(fact for fact in facts if fact)

    @abstractmethod
    def say(self, text: str) -> None:
        """Print a permanent line."""

    @abstractmethod
    def pause(self) -> None:
        """Stop drawing until the next status."""

    @abstractmethod
    def _draw(self, status: "CampaignStatus") -> None: ...

    @abstractmethod
    def _draw_time(self, status: "CampaignStatus") -> None: ...


class LiveDisplay(ProgressDisplay):
    """The display for a terminal.

    Each build has a line while building, each device has a bar. It is drawn at most once a second while nothing
    changes.
    """

    tick_s = 1.0

    def __init__(self, console: Console, address: str, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(address, clock)
        self._console = console
        self._live: Live | None = None

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        self._console.print(text, soft_wrap=True)

    def pause(self) -> None:
        """Stop drawing and leave the bars above the following output."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _draw(self, status: "CampaignStatus") -> None:
        if self._live is None:
            # No automatic refresh: waking up ten times a second would disturb a board that is being measured.
            self._live = Live(console=self._console, auto_refresh=False)
            self._live.start()
        self._live.update(render(status, self._address, self._time_text(status)), refresh=True)

    def _draw_time(self, status: "CampaignStatus") -> None:
        if self._live is not None:
            self._draw(status)


class LineDisplay(ProgressDisplay):
    """The display for logs and pipes, with one line per change."""

    tick_s = 60.0

    def __init__(self, console: Console, address: str, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(address, clock)
        self._console = console
        self._last_text: dict[str, str] = {}

    def say(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, soft_wrap=True)

    def pause(self) -> None:
        """Do nothing, because nothing is drawn."""

    def _draw(self, status: "CampaignStatus") -> None:
        for build in status.builds:
            self._say_change(_build_name(build), _build_text(build))
        for device in status.devices:
            # The phase and its percentage are left out: they would give a thousand lines for each run.
            text = f"{_count_text(device)} {_activity(status, device, self._address)}"
            measuring = device.runs_done < device.runs_total
            self._say_change(device.name, text, self._pace.left(status, self._clock()) if measuring else "")

    def _draw_time(self, status: "CampaignStatus") -> None:
        for device in status.devices:
            if _phase(device):
                self.say(f"{device.name}: {_count_text(device)}{_phase(device)}")
        self.say(self._time_text(status))

    def _say_change(self, subject: str, text: str, note: str = "") -> None:
        if self._last_text.get(subject) != text:
            self._last_text[subject] = text
            self.say(f"{subject}: {text}{f' · {note}' if note else ''}")


def render(status: "CampaignStatus", address: str, time_text: str = "") -> RenderableType:
    """Return the whole display of a campaign.

    `address` is the controller's. The command for an offline device contains it.
    """
    footer = [Text(time_text, style="dim")] if time_text and not status.campaign.state.ended else []
    return Group(*_build_lines(status), _device_table(status, address), *footer)


def _build_lines(status: "CampaignStatus") -> Iterable[Text]:
    building = status.campaign.state is CampaignState.BUILDING
    shown = [build for build in status.builds if building or build.state == "failed"]
    return [
        Text(f"{_build_name(build)}: {_build_text(build)}", style=_BUILD_STYLES.get(build.state, "")) for build in shown
    ]


def _build_name(build: "BuildStatus") -> str:
    return " · ".join(part for part in (build.model, build.recipe, build.target and f"for {build.target}") if part)


def _build_text(build: "BuildStatus") -> str:
    text = {"queued": "waits to be built", "ready": "built", "failed": "could not be built"}.get(
        build.state, build.state
    )
    if build.state == "ready" and build.artifact is not None:
        text += f", {int(str(build.artifact['size_bytes'])) / 2**20:.2f} MiB"
    return f"{text}: {build.message}" if build.message else text


def _device_table(status: "CampaignStatus", address: str) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(width=BAR_WIDTH)
    table.add_column(no_wrap=True)
    table.add_column()
    for device in status.devices:
        bar = ProgressBar(
            total=max(device.runs_total, 1), completed=device.runs_done + _fraction(device), width=BAR_WIDTH
        )
        table.add_row(device.name, bar, _count_text(device), _activity(status, device, address) + _phase(device))
    return table


def _fraction(device: "DeviceStatus") -> float:
    return min(max(device.fraction, 0.0), 1.0) if device.current_model else 0.0


def _count_text(device: "DeviceStatus") -> str:
    failed = f" ({device.runs_failed} failed)" if device.runs_failed else ""
    return f"{device.runs_done}/{device.runs_total} runs{failed}"


def _activity(status: "CampaignStatus", device: "DeviceStatus", address: str) -> str:
    if device.runs_done >= device.runs_total:
        return "ended" if status.campaign.state is CampaignState.CANCELLED else "done"
    if status.campaign.state.ended:
        return str(status.campaign.state)
    if device.state == "offline":
        agent = shlex.join(["efficientquant-agent", "--controller", address, "--name", device.name])
        return f"offline, its runs wait: start '{agent}' there"
    if device.current_model:
        return f"{device.current_model} · {device.current_recipe}"
    return "waits for the artifacts" if status.campaign.state is CampaignState.BUILDING else "waits for its turn"


def _phase(device: "DeviceStatus") -> str:
    if not device.current_model or not device.phase or device.state == "offline":
        return ""
    return f" · {device.phase} {_fraction(device):.0%}"


_BUILD_STYLES = {"queued": "dim", "building": "cyan", "ready": "green", "failed": "red"}
