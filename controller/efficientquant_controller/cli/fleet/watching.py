"""The watch of a campaign until its end.

It reconnects to a lost controller, and Ctrl-C offers to cancel or detach.
"""

import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

import typer

from efficientquant_controller.cli import output
from efficientquant_controller.cli.connection import Connection, ControllerUnreachableError
from efficientquant_controller.cli.fleet.progress import LineDisplay, LiveDisplay, ProgressDisplay
from efficientquant_controller.cli.next_commands import campaign_words, command_line
from efficientquant_controller.cli.records import CampaignListing, CampaignStatus
from efficientquant_controller.cli.results.results import print_for_people, si_rows
from efficientquant_controller.cli.waiting import Waiting
from efficientquant_controller.model import CampaignState

LONGER_TIER = "standard"
FIRST_RETRY_S = 0.5
LAST_RETRY_S = 10.0
# A signal may arrive in one of gRPC's threads. Its handler runs only when the main thread wakes up.
SIGNAL_POLL_S = 0.1
DETACHED_EXIT_CODE = 130


class _Interrupt:
    """The event of a pressed Ctrl-C."""


class _StreamEnded:
    """The event of a stream that the controller closed."""


Arrival = CampaignStatus | Exception | _Interrupt | _StreamEnded


class Watch:
    """The watch of one campaign.

    `reached` is true when the controller has already answered about it. `ask` is called on the first Ctrl-C and returns
    whether to cancel. With None, or on a second Ctrl-C, the watch detaches at once.
    """

    def __init__(
        self,
        connection: Connection,
        campaign_id: str,
        display: ProgressDisplay,
        ask: Callable[[], bool] | None,
        *,
        reached: bool = False,
    ) -> None:
        self._connection = connection
        self.campaign_id = campaign_id
        self._display = display
        self._ask = ask
        self.reached = reached
        self._lost = False
        self._retrying = False
        self._retry_s = FIRST_RETRY_S
        self._interrupts = 0
        self._connecting = Waiting(lambda: f"the controller to send the state of campaign {self.campaign_id}")
        # SimpleQueue.put may be called from a signal handler that interrupted another put or get.
        self._arrivals: SimpleQueue[Arrival] = SimpleQueue()

    def run(self) -> CampaignStatus | None:
        """Watch until the campaign ends and return its last status.

        Returns None when the user detached. Raises ControllerUnreachableError when the controller never answered. It
        waits for the return of a controller that has answered.
        """
        with _sigint_calls(self._interrupt), self._connecting:
            self._start_reader()
            try:
                return self._follow()
            finally:
                self._display.pause()
                self._stop_reader()

    def _follow(self) -> CampaignStatus | None:
        while True:
            arrival = self._next_arrival()
            self._connecting.stop()
            if isinstance(arrival, CampaignStatus):
                self._take(arrival)
                if arrival.campaign.state.ended:
                    return arrival
            elif isinstance(arrival, _Interrupt):
                if not self._cancel_wanted():
                    return None
                self._cancel()
            else:
                self._take_loss(arrival)

    def _next_arrival(self) -> Arrival:
        retry_at_s = time.monotonic() + self._retry_s
        while True:
            try:
                return self._arrivals.get(timeout=SIGNAL_POLL_S)
            except Empty:
                self._display.tick()
                if self._retrying and time.monotonic() >= retry_at_s:
                    self._retry_s = min(self._retry_s * 2, LAST_RETRY_S)
                    retry_at_s = time.monotonic() + self._retry_s
                    self._start_reader()

    def _take(self, status: CampaignStatus) -> None:
        if self._lost:
            self._display.say(f"the controller at {self._connection.address} is back")
        self.campaign_id = status.campaign.campaign_id
        self.reached, self._lost, self._retry_s = True, False, FIRST_RETRY_S
        self._display.show(status)

    def _take_loss(self, arrival: Exception | _StreamEnded) -> None:
        if isinstance(arrival, Exception) and not (self.reached and isinstance(arrival, ControllerUnreachableError)):
            raise arrival
        if not self._lost:
            self._lost = True
            reason = arrival.reason if isinstance(arrival, ControllerUnreachableError) else "it ended the stream"
            self._display.say(
                f"the controller at {self._connection.address} is gone ({reason}); the campaign outlives it: "
                "waiting for its return, Ctrl-C to stop waiting"
            )
        self._retrying = True

    def _cancel_wanted(self) -> bool:
        if self._ask is None or self._lost or self._interrupts > 1:
            return False
        self._display.pause()
        with _sigint_calls(signal.default_int_handler):
            try:
                return self._ask()
            except KeyboardInterrupt:
                return False

    def _cancel(self) -> None:
        try:
            self._connection.cancel(self.campaign_id)
        except ControllerUnreachableError as error:
            self._display.say(f"not cancelled: {error}")

    def _interrupt(self, *_: Any) -> None:
        self._interrupts += 1
        self._arrivals.put(_Interrupt())

    def fail(self, error: Exception) -> None:
        """End the watch with `error`.

        May be called from any thread.
        """
        self._arrivals.put(error)

    def _start_reader(self) -> None:
        self._retrying = False
        self._reader = Thread(target=self._read, name="campaign-reader", daemon=True)
        self._reader.start()

    def _stop_reader(self) -> None:
        # A thread inside gRPC can keep the process from ending when the interpreter shuts down.
        while self._reader.is_alive():
            self._connection.stop_watching()
            self._reader.join(0.1)

    def _read(self) -> None:
        with _HandOver(self._arrivals):
            for status in self._connection.watch(self.campaign_id):
                self._arrivals.put(status)


class _HandOver:
    """A context manager that reports a thread's end to the main thread.

    The main thread raises the thread's exception.
    """

    def __init__(self, arrivals: SimpleQueue[Arrival]) -> None:
        self._arrivals = arrivals

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        self._arrivals.put(error if isinstance(error, Exception) else _StreamEnded())
        return True


@contextmanager
def _sigint_calls(handler: Any) -> Iterator[None]:
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def ask_on_terminal() -> bool:
    """Ask whether to cancel the campaign.

    Enter, end of input and Ctrl-C detach.
    """
    output.print_message("Ctrl-C: [c] cancel the campaign, [d] or Enter: detach and let it go on")
    try:
        return sys.stdin.readline().strip().lower().startswith("c")
    except OSError:  # the terminal is gone
        return False


def open_display(address: str, *, as_json: bool) -> ProgressDisplay:
    """Return live bars for a person at a terminal, otherwise lines.

    Both go to stderr, because stdout has results only.
    """
    console = output.stderr_console()
    live = sys.stderr.isatty() and (as_json or sys.stdout.isatty())
    return LiveDisplay(console, address) if live else LineDisplay(console, address)


def watch_to_end(
    connection: Connection, campaign_id: str, *, as_json: bool, reached: bool, again: Sequence[str] | None = None
) -> None:
    """Watch a campaign, print its results and raise typer.Exit.

    `again` are the words that repeat it in a longer tier, where the caller knows them.
    """
    display = open_display(connection.address, as_json=as_json)
    ask = ask_on_terminal if sys.stdin.isatty() and sys.stderr.isatty() else None
    watch = Watch(connection, campaign_id, display, ask, reached=reached)
    status = watch.run()
    if status is None:
        if watch.reached:
            print_way_back(watch.campaign_id, connection.address)
        raise typer.Exit(DETACHED_EXIT_CODE)
    print_end(connection, status.campaign, as_json=as_json, again=again)
    raise typer.Exit(0 if status.campaign.state is CampaignState.SUCCEEDED else 1)


def print_way_back(campaign_id: str, address: str) -> None:
    """Print on stderr how to return to a campaign or cancel it."""
    output.print_message(f"detached: campaign {campaign_id} goes on")
    output.print_message(f"  come back:  {command_line(['watch', campaign_id], address)}")
    output.print_message(f"  cancel it:  {command_line(['cancel', campaign_id], address)}")


def print_end(
    connection: Connection, campaign: CampaignListing, *, as_json: bool, again: Sequence[str] | None = None
) -> None:
    """Print a campaign's results, their location and what to try next."""
    rows = connection.results(campaign.campaign_id)
    if as_json:
        output.print_json({"campaign": asdict(campaign), "results": si_rows(rows)})
        return
    output.print_line(f"campaign {campaign.campaign_id} {campaign.state}: {campaign.run_count} runs")
    print_for_people(rows)
    results = command_line(["results", "--campaign", campaign.campaign_id], connection.address)
    output.print_line(f"these rows again: {results}")
    output.print_line("  add --why (reasons), --wide (every number), --gains, --metric load, --csv or --json")
    output.print_line(next_step(campaign, connection.address, again))


def next_step(campaign: CampaignListing, address: str, again: Sequence[str] | None = None) -> str:
    """Return the suggestion for what to do after a campaign.

    `again` are the words that repeat it in a longer tier, where known.
    """
    if campaign.state is CampaignState.CANCELLED:
        words = again or campaign_words(campaign, campaign.tier)
        return f"next: to measure it after all, {command_line(words, address) if words else 'bench again'}"
    if campaign.state is not CampaignState.SUCCEEDED:
        return f"next: fix what failed, check '{command_line(['devices'], address)}', and bench again"
    if campaign.tier in ("standard", "publish", "sustained"):
        return "next: other models, 'efficientquant models'; other recipes, 'efficientquant recipes'"
    words = again or campaign_words(campaign, LONGER_TIER)
    if words is None:
        return f"next: numbers that hold longer, by the same bench command with --tier {LONGER_TIER}"
    return f"next: numbers that hold longer, {command_line(words, address)}"
