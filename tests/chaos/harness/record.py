"""What the fake agents sent and what the controller answered."""

import time
from collections import Counter
from dataclasses import dataclass, field

from reports import StoredReport


@dataclass
class RunRecord:
    """The reports of one run.

    `sent` has the first latency of each report by its hash. `accepted` has the hashes of reports that the controller
    said to be new, `answered` tells that it committed any of them.
    """

    sent: dict[str, float | None] = field(default_factory=dict)
    accepted: list[str] = field(default_factory=list)
    answered: bool = False


@dataclass
class Record:
    """The record of a whole fleet of fake agents."""

    runs: dict[str, RunRecord] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    refusals: list[str] = field(default_factory=list)
    # Violations that an agent itself can see.
    problems: list[str] = field(default_factory=list)
    # Seconds from the first try of a report to its answer.
    answer_s: list[float] = field(default_factory=list)
    latest_s: float = field(default_factory=time.monotonic)

    def sent(self, report: StoredReport) -> None:
        """Remember a report before it is sent, unless no database keeps it."""
        if not report.failure_type:
            self.runs.setdefault(report.run_id, RunRecord()).sent[report.sha256] = report.first_latency_s

    def acknowledged(self, report: StoredReport, duplicate: bool) -> None:
        """Remember that the controller answered after the commit."""
        self.counts["acknowledged"] += 1
        self.latest_s = time.monotonic()
        if report.failure_type:
            return
        run = self.runs[report.run_id]
        run.answered = True
        if not duplicate:
            run.accepted.append(report.sha256)

    @property
    def answered(self) -> int:
        """The number of runs with an acknowledged result."""
        return sum(run.answered for run in self.runs.values())
