"""What can be compared of two jobs: the columns, and how an answer is said."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Metric:
    """One quantity of which less is better: a column of a repeat, in `unit`.

    `better` and `worse` answer for B beside A, who `verb` ("is", "takes") so much of them. `percent` is the percentile
    that the raw latencies give, where they do. `definition` is the column that says what was really measured.
    """

    name: str
    column: str
    unit: str
    label: str
    better: str = "faster"
    worse: str = "slower"
    verb: str = "is"
    percent: float | None = None
    definition: str = ""
    is_load: bool = False
    is_energy: bool = False


def _bytes(name: str, column: str, label: str, definition: str = "") -> Metric:
    return Metric(name, column, "B", label, "smaller", "larger", definition=definition)


def _energy(name: str, column: str, unit: str, label: str) -> Metric:
    return Metric(name, column, unit, label, "less", "more", "takes", is_energy=True)


METRICS: Mapping[str, Metric] = {
    one.name: one
    for one in (
        Metric("latency", "latency_p50_s", "s", "median latency", percent=50),
        Metric("latency-p90", "latency_p90_s", "s", "p90 latency", percent=90),
        Metric("latency-p99", "latency_p99_s", "s", "p99 latency", percent=99),
        Metric("device-latency", "device_latency_p50_s", "s", "median device time"),
        Metric("load", "load_s", "s", "load time", is_load=True),
        Metric("paper-load", "paper_load_s", "s", "the paper's load time", is_load=True),
        _bytes("memory", "peak_pss_bytes", "the process's peak memory (PSS)"),
        # The kind of the paper's memory tells a GPU with memory of its own from one that shares the board's: that is
        # another number for the whole board, and of a process it is told by NVML there and by nvmap here.
        _bytes("board-memory", "board_memory_delta_bytes", "the board's memory", "paper_memory_kind"),
        _bytes("gpu-memory", "gpu_process_peak_bytes", "the process's GPU memory", "paper_memory_kind"),
        _bytes("paper-memory", "paper_memory_bytes", "the paper's memory", "paper_memory_kind"),
        _energy("energy", "energy_per_inference_j", "J", "energy for each inference"),
        _energy("net-energy", "net_energy_per_inference_j", "J", "energy for each inference beyond idling"),
        _energy("power", "mean_power_w", "W", "mean power"),
    )
}


@dataclass(frozen=True)
class Side:
    """One of two jobs: its succeeded repeats, as rows of the view `run_results`, and a name to say.

    `samples` are the raw latencies of those repeats, in the same order, where they were asked for. Sentences call the
    side by its `label`, else A or B.
    """

    name: str
    repeats: Sequence[Row]
    samples: Sequence[Sequence[float]] = ()
    label: str = ""

    @property
    def job_id(self) -> str:
        """The job that all repeats belong to."""
        return str(self.repeats[0]["job_id"]) if self.repeats else ""
