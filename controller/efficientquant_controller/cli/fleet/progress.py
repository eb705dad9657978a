"""A campaign's progress: live bars on a terminal, a line for each change elsewhere."""

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
    """Shows a campaign's status as it changes, and every `tick_s` seconds how much time is left."""

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
        """Show a new status; a notice is said once, also when a restarted controller repeats it."""
        for notice in status.notices:
            if (notice.time_unix_s, notice.message) not in self._noticed:
                self._noticed.add((notice.time_unix_s, notice.message))
                self.say(notice.message)
        self._status, self._drawn_s = status, self._clock()
        self._pace.note(status, self._drawn_s)
        self._draw(status)

    def tick(self) -> None:
        """Show how the time goes by where nothing else has changed.

        Call it as often as you like.
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
        """Print a line that stays."""

    @abstractmethod
    def pause(self) -> None:
        """Leave the terminal to someone else until the next status."""

    @abstractmethod
    def _draw(self, status: "CampaignStatus") -> None: ...

    @abstractmethod
    def _draw_time(self, status: "CampaignStatus") -> None: ...


class LiveDisplay(ProgressDisplay):
    """One line for each build while building, one bar for each device.

    Drawn once a second at the most when idle.
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
        """Stop drawing; the bars as they are stay above what follows."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _draw(self, status: "CampaignStatus") -> None:
        if self._live is None:
            # No refresh of its own: waking up ten times a second costs the board that may be measured right now.
            self._live = Live(console=self._console, auto_refresh=False)
            self._live.start()
        self._live.update(render(status, self._address, self._time_text(status)), refresh=True)

    def _draw_time(self, status: "CampaignStatus") -> None:
        if self._live is not None:
            self._draw(status)


class LineDisplay(ProgressDisplay):
    """One line for each change, for logs and pipes."""

    tick_s = 60.0

    def __init__(self, console: Console, address: str, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(address, clock)
        self._console = console
        self._said: dict[str, str] = {}

    def say(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, soft_wrap=True)

    def pause(self) -> None:
        """Do nothing: lines are in nobody's way."""

    def _draw(self, status: "CampaignStatus") -> None:
        for build in status.builds:
            self._say_change(_build_name(build), _build_text(build))
        for device in status.devices:
            # Without the phase and its percentage: one line for each run, not a thousand.
            text = f"{_count_text(device)} {_activity(status, device, self._address)}"
            measuring = device.runs_done < device.runs_total
            self._say_change(device.name, text, self._pace.left(status, self._clock()) if measuring else "")

    def _draw_time(self, status: "CampaignStatus") -> None:
        for device in status.devices:
            if _phase(device):
                self.say(f"{device.name}: {_count_text(device)}{_phase(device)}")
        self.say(self._time_text(status))

    def _say_change(self, subject: str, text: str, note: str = "") -> None:
        if self._said.get(subject) != text:
            self._said[subject] = text
            self.say(f"{subject}: {text}{f' · {note}' if note else ''}")


def render(status: "CampaignStatus", address: str, time_text: str = "") -> RenderableType:
    """The whole picture of a campaign; `address` is the controller's, for what an offline device needs."""
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
