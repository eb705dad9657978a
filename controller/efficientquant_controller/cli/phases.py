"""The progress of the library's work on stderr.

A terminal shows a bar, and a log gets lines. Both show the elapsed time.
"""

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from efficientquant_controller.cli.durations import clock_time
from efficientquant_controller.cli.output import print_message, stderr_console
from efficientquant_controller.cli.waiting import Waiting

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn, TaskID

# A log gets a line when a step begins, and further lines when it takes longer than this.
LOG_SILENT_S = 10.0


class PhaseProgress:
    """The display of the phases of one command's work.

    Use it as a context manager.
    """

    def __init__(self) -> None:
        self._bars: Progress | None = None
        self._task: TaskID | None = None
        self._waiting: Waiting | None = None

    def __enter__(self) -> Self:
        from rich.progress import BarColumn, Progress, TextColumn

        console = stderr_console()
        if console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(30), TextColumn("{task.fields[share]}"))
            self._bars = Progress(*columns, elapsed_column(), console=console, transient=True)
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()
        self._end_step()

    def step(self, name: str) -> Callable[[str, float], None]:
        """Begin a step and return a callback for its phases.

        The library calls it with a phase's name and its fraction from 0 to 1.
        """
        if self._bars is None:
            return self._log_step(name)
        if self._task is not None:
            self._bars.remove_task(self._task)
        task = self._task = self._bars.add_task(name, total=None, share="")
        bars = self._bars

        def report(phase: str, fraction: float) -> None:
            bars.update(task, description=f"{name} · {phase}", total=1.0, completed=fraction, share=_share(fraction))

        return report

    def _log_step(self, name: str) -> Callable[[str, float], None]:
        """Print that a step begins, then its progress at intervals."""
        self._end_step()
        print_message(f"{name} …")
        where = name

        def report(phase: str, fraction: float) -> None:
            nonlocal where
            where = f"{name} · {phase} {_share(fraction)}".rstrip()

        self._waiting = Waiting(lambda: where, silent_s=LOG_SILENT_S)
        self._waiting.start()
        return report

    def _end_step(self) -> None:
        if self._waiting is not None:
            self._waiting.stop()
            self._waiting = None


def elapsed_column() -> "ProgressColumn":
    """Return a column with the time since a step began.

    Rich's own column stops when the first phase is complete.
    """
    from rich.progress import ProgressColumn, Task
    from rich.text import Text

    class ElapsedColumn(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(clock_time(task.elapsed or 0.0))

    return ElapsedColumn()


def _share(fraction: float) -> str:
    """Return a phase's fraction in percent.

    The text is empty at 0 and 1, which do not show progress.
    """
    return f"{fraction:.0%}" if 0 < fraction < 1 else ""
