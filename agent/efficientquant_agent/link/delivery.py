"""The delivery of stored results to the controller."""

import threading
from typing import Callable, Dict, List

from efficientquant_agent.errors import (
    AnswerTimeoutError,
    ControllerUnreachableError,
    DamagedResultError,
    ReportRefusedError,
)
from efficientquant_agent.link.outbox import Outbox
from efficientquant_agent.link.reasons import Reasons
from efficientquant_agent.link.stored import StoredResult

# How long a session waits for the other thread's delivery before it opens.
_TURN_S = 10.0

# report(result) delivers a result, or raises ControllerUnreachableError or ReportRefusedError.
Report = Callable[[StoredResult], bool]
# is_result_of(run_id, payload) tells whether the bytes can be read as a result of the run.
IsResultOf = Callable[[str, bytes], bool]
# make_report(run_id, damage, sentence) gives the result that replaces a damaged one.
MakeReport = Callable[[str, DamagedResultError, str], bytes]


class Delivery:
    """The delivery of an outbox, by one thread at a time.

    A result that the controller does not take stops no other. Results that failed before come last.
    """

    def __init__(
        self,
        outbox: Outbox,
        report: Report,
        is_result_of: IsResultOf,
        make_report: MakeReport,
        reasons: Reasons,
    ) -> None:
        self._outbox = outbox
        self._report = report
        self._is_result_of = is_result_of
        self._make_report = make_report
        self._reasons = reasons
        self._failures: Dict[str, int] = {}
        self._turn = threading.Lock()

    def deliver(self, before_session: bool = False) -> None:
        """Report every pending result, once.

        Two reports in a row without an answer in time end the pass, since the controller may hang. Before a session it
        does not wait long for a pass of the other thread, and what cuts a report may let the session open. Raises
        ControllerUnreachableError at once when no controller answers, except before a session.
        """
        if not self._turn.acquire(timeout=_TURN_S if before_session else -1):
            return
        try:
            silent = 0
            for run_id in self._in_order():
                try:
                    self._deliver_one(run_id)
                    silent = 0
                except ControllerUnreachableError as error:
                    if not error.answered and before_session:
                        self._count_failure(run_id)  # the session that follows says why
                        return
                    if not error.answered:
                        self._count_failure(run_id)
                        raise
                    self._note_failure(run_id, error.reason)
                    silent = silent + 1 if isinstance(error, AnswerTimeoutError) else 0
                except OSError as error:
                    self._note_failure(run_id, "it cannot be read: {}".format(error))
                if silent == 2:
                    return
        finally:
            self._turn.release()

    def _in_order(self) -> List[str]:
        pending = self._outbox.pending()
        self._failures = {run_id: count for run_id, count in self._failures.items() if run_id in pending}
        return sorted(pending, key=lambda run_id: self._failures.get(run_id, 0))

    def _count_failure(self, run_id: str) -> None:
        self._failures[run_id] = self._failures.get(run_id, 0) + 1

    def _note_failure(self, run_id: str, reason: str) -> None:
        self._count_failure(run_id)
        self._reasons.say("result of run {} is not delivered yet: {}; trying again".format(run_id, reason))

    def _deliver_one(self, run_id: str) -> None:
        try:
            result = self._read(run_id)
        except DamagedResultError as damage:
            result = self._replace(run_id, damage)
        try:
            self._report(result)
        except ReportRefusedError as error:
            kept = self._outbox.reject(run_id) or "a result in memory until the disk has room"
            self._reasons.say("result of run {} refused: {}; kept as {}".format(run_id, error, kept))
        else:
            self._outbox.remove(run_id)

    def _read(self, run_id: str) -> StoredResult:
        """Return a pending result.

        A file of an earlier release has no SHA-256, so it must at least be a result of its run.
        """
        result = self._outbox.read(run_id)
        if not result.is_checked and not self._is_result_of(run_id, result.payload):
            raise DamagedResultError("it cannot be read as a result of this run")
        return result

    def _replace(self, run_id: str, damage: DamagedResultError) -> StoredResult:
        """Set a damaged result aside, and store the report of it instead."""
        sentence = (
            "the stored result of run {} was damaged on this disk ({}); it is kept as {}, and the run is measured "
            "again".format(run_id, damage, self._outbox.damaged_path(run_id))
        )
        self._reasons.say(sentence)
        report = self._make_report(run_id, damage, sentence)
        return self._outbox.replace_damaged(run_id, report, damage.attempt, damage.lease_id)
