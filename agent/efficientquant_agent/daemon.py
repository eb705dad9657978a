"""The daemon, which connects, runs assignments and reports results."""

import queue
import threading
import time
import traceback
from typing import Callable, Dict, List, Optional, Sequence

from efficientquant_agent.config import Config
from efficientquant_agent.errors import (
    ControllerUnreachableError,
    DamagedResultError,
    NoRoomError,
    RunFailedError,
    SessionRefusedError,
    StaleEpochError,
    SupersededError,
)
from efficientquant_agent.files import has_no_room
from efficientquant_agent.host.board import Board
from efficientquant_agent.link.artifacts import ArtifactCache
from efficientquant_agent.link.backoff import Backoff
from efficientquant_agent.link.client import Client, Session
from efficientquant_agent.link.delivery import Delivery
from efficientquant_agent.link.messages import Hello, encode_result, is_result_of
from efficientquant_agent.link.outbox import Outbox, can_keep
from efficientquant_agent.link.reasons import Reasons
from efficientquant_agent.link.room import Room
from efficientquant_agent.records import Assignment, CancelRun, DeviceSnapshot, RunResult, Superseded, Welcome
from efficientquant_agent.run.runner import Runner
from efficientquant_agent.run.steps import Files
from efficientquant_agent.run.watcher import Cancellation
from efficientquant_agent.state import StateDirectory

_BACKOFF_FIRST_S = 0.5
_PROGRESS_INTERVAL_S = 0.2
# How often a run that waits for room on the disk is tried again.
_RECHECK_S = 5.0
# Longer than any controller's.
_LONGEST_LEASE_ID = 1000
EXIT_CLEAN = 0
EXIT_BUG = 1


class _Throttle:
    """Rate limit of five progress messages a second per phase.

    A change of phase is always sent.
    """

    def __init__(self, send: Callable[[str, float], None]) -> None:
        self._send = send
        self._phase = ""
        self._due_s = 0.0

    def __call__(self, phase: str, fraction: float) -> None:
        """Send `fraction` (0 to 1) of a phase, unless rate-limited."""
        now_s = time.monotonic()
        if phase != self._phase or now_s >= self._due_s:
            self._phase, self._due_s = phase, now_s + _PROGRESS_INTERVAL_S
            self._send(phase, fraction)


class Daemon:
    """The agent's two threads and what they share.

    One thread keeps the session. The other does the runs and delivers their results.
    """

    def __init__(
        self,
        config: Config,
        state: StateDirectory,
        device: DeviceSnapshot,
        device_id: str,
        board: Board,
        log: Callable[[str], None],
        announce: Callable[[str], None],
        broken_backends: Sequence[str] = (),
    ) -> None:
        self._config = config
        self._state = state
        self._device = device
        self._device_id = device_id
        self._broken_backends = broken_backends
        self._log = log
        self._announce = announce
        self._client = Client(config.host, config.port, config.address)
        self._outbox = Outbox(state.subdirectory("outbox"))
        self._artifacts = ArtifactCache(
            state.subdirectory("artifacts"), config.cache_bytes, self._client.fetch, log, config.backoff_max_s
        )
        self._room = Room(state.path, self._outbox, self._artifacts, min(_RECHECK_S, config.backoff_max_s))
        self._reasons = Reasons(log)
        # Both threads deliver, one at a time.
        self._delivery = Delivery(self._outbox, self._client.report, is_result_of, self._damage_report, self._reasons)
        self._runner = Runner(config.name, state.path, board, log)
        # None wakes the thread of runs, which moves the assignments into its own list.
        self._assignments: "queue.Queue[Optional[Assignment]]" = queue.Queue()
        self._waiting: List[Assignment] = []
        # The run in progress, empty without one.
        self._current_run_id = ""
        self._had_problem = False
        # Queued and running runs with their cancellations. The lock guards them and the session.
        self._lock = threading.Lock()
        self._cancellations: Dict[str, Cancellation] = {}
        self._session: Optional[Session] = None
        self._stopping = threading.Event()
        self._has_bug = False

    def serve(self) -> int:
        """Serve until stopped or refused, and return the exit code.

        Refused means that the controller refuses the session for good.
        """
        runs = threading.Thread(target=self._guarded, args=(self._serve_runs,), name="runs", daemon=True)
        runs.start()
        try:
            code = self._guarded(self._serve_sessions)
            return EXIT_BUG if self._has_bug else code
        finally:
            self.stop()
            runs.join(2.0)
            self._client.close()
            if not self._outbox.settle() and self._outbox.in_memory:
                runs_lost = ", ".join(self._outbox.in_memory)
                self._log("the disk takes no more: these results are lost, and the runs are done again: " + runs_lost)

    def stop(self) -> None:
        """End the session and the run, from any thread."""
        self._stopping.set()
        self._assignments.put(None)
        with self._lock:
            for cancellation in self._cancellations.values():
                cancellation.set()
            if self._session is not None:
                self._session.close()

    def _guarded(self, loop: Callable[[], int]) -> int:
        """Run an outermost loop, and end the agent on a bug.

        The traceback is logged once, in full. The agent exits so that a supervisor sees the bug.
        """
        try:
            return loop()
        except Exception:  # noqa: BLE001 — the outermost loop
            if not self._stopping.is_set():
                self._log("bug in the agent, please report it:\n" + traceback.format_exc())
                self._has_bug = True
                self.stop()
            return EXIT_BUG

    def _serve_sessions(self) -> int:
        backoff = Backoff(_BACKOFF_FIRST_S, self._config.backoff_max_s)
        while not self._stopping.is_set():
            try:
                self._delivery.deliver(before_session=True)
                self._serve_session(backoff)
            except ControllerUnreachableError as error:
                if isinstance(error, StaleEpochError):
                    self._state.grow_epochs()
                if not self._stopping.is_set():
                    self._say_why(error)
                    with self._client.reconnecting():
                        self._stopping.wait(backoff.next_s())
            except SessionRefusedError as error:
                self._log(str(error))
                return error.exit_code
        return EXIT_CLEAN

    def _serve_session(self, backoff: Backoff) -> None:
        hello = Hello(self._device_id, self._config.name, self._state.next_epoch(), self._device, self._broken_backends)
        session = self._client.connect(hello, self._active_run_ids, self._room.problem)
        with self._lock:
            self._session = session
        try:
            if self._stopping.is_set():
                return
            for command in session:
                if isinstance(command, Welcome):
                    self._greet()
                    backoff.reset()
                elif isinstance(command, Assignment):
                    self._accept(command)
                elif isinstance(command, CancelRun):
                    self._cancel(command.run_id)
                elif isinstance(command, Superseded):
                    raise SupersededError(
                        "another copy of this device opened session {}; this one ends so that the two do not "
                        "fight".format(command.by_session_epoch)
                    )
        finally:
            with self._lock:
                self._session = None
            session.close()

    def _greet(self) -> None:
        self._state.accept_epoch()
        self._reasons.reset()
        self._announce(
            "ready: connected to {} as {} (device {})".format(self._config.address, self._config.name, self._device_id)
        )

    def _say_why(self, error: ControllerUnreachableError) -> None:
        """Log why there is no session, once per new reason."""
        self._reasons.say("{}{}; trying again".format("" if error.answered else "no controller: ", error.reason))

    def _active_run_ids(self) -> List[str]:
        """Return the ids of runs queued, in progress or not yet delivered.

        The controller must not lease them again.
        """
        with self._lock:
            active = list(self._cancellations)
        return active + [run_id for run_id in self._outbox.pending() if run_id not in active]

    def _accept(self, assignment: Assignment) -> None:
        if assignment.run_id in self._active_run_ids():
            return
        if not can_keep(assignment.run_id) or len(assignment.lease_id) > _LONGEST_LEASE_ID:
            run_id = repr(assignment.run_id)[:300]
            self._log("assignment ignored: its run id {} or its lease id cannot be kept".format(run_id))
            return
        with self._lock:
            self._cancellations[assignment.run_id] = Cancellation()
        self._assignments.put(assignment)

    def _cancel(self, run_id: str) -> None:
        with self._lock:
            if run_id in self._cancellations:
                self._cancellations[run_id].set()
        if run_id == self._current_run_id:
            self._client.interrupt_fetch()
        self._assignments.put(None)  # the run may wait for room on the disk

    def _serve_runs(self) -> int:
        """Do one run after the other, and deliver results in between."""
        backoff = Backoff(_BACKOFF_FIRST_S, self._config.backoff_max_s)
        is_delivered = not self._outbox.pending()
        while not self._stopping.is_set():
            assignment = self._runnable()
            if assignment is None:
                pauses_s = [] if is_delivered else [backoff.next_s()]
                has_problem = self._has_problem()  # the disk may have got room since a run was not admitted
                if has_problem or self._waiting:
                    pauses_s.append(self._room.recheck_s)
                if self._receive(min(pauses_s) if pauses_s else None):
                    backoff.reset()
                assignment = self._runnable()
            if assignment is not None:
                self._waiting.remove(assignment)
                self._run_and_keep(assignment)
                backoff.reset()
            is_delivered = self._try_to_deliver()
        return EXIT_CLEAN

    def _has_problem(self) -> bool:
        """Tell whether no run can start, and log when that changes."""
        problem = self._room.problem()
        if bool(problem) != self._had_problem:
            self._had_problem = bool(problem)
            self._log(problem or "the state directory has room again")
        return self._had_problem

    def _receive(self, timeout_s: Optional[float]) -> bool:
        """Take the assignments that have arrived, and wait for the first.

        Return False after the time is up.
        """
        try:
            assignment = self._assignments.get(timeout=timeout_s)
        except queue.Empty:
            return False
        if assignment is not None:
            self._waiting.append(assignment)
        while not self._assignments.empty():  # this thread alone takes
            assignment = self._assignments.get()
            if assignment is not None:
                self._waiting.append(assignment)
        return True

    def _runnable(self) -> Optional[Assignment]:
        """Return the run to start now, None without a run or room.

        A cancelled run needs no room. A run for which the disk is too small fails.
        """
        with self._lock:
            cancelled = [run_id for run_id, item in self._cancellations.items() if item.event.is_set()]
        for assignment in self._waiting:
            if assignment.run_id in cancelled or self._room.is_impossible(assignment):
                return assignment
        following = self._waiting[0] if self._waiting else None
        return following if self._room.admits(following) else None

    def _run_and_keep(self, assignment: Assignment) -> None:
        self._current_run_id = assignment.run_id
        try:
            result = self._client.clock.stamped(self._run(assignment))
        except NoRoomError as error:
            self._room.refuse(error.error)
            self._waiting.insert(0, assignment)
            return
        finally:
            self._current_run_id = ""
        if self._stopping.is_set():
            return  # a stopped agent has not failed: its lease expires and the job is retried
        self._outbox.put(assignment.run_id, encode_result(result), assignment.attempt, assignment.lease_id)
        with self._lock:
            self._cancellations.pop(assignment.run_id).close()
        self._log("run {}: {}".format(assignment.run_id, result.failure_type or "succeeded"))

    def _run(self, assignment: Assignment) -> RunResult:
        """Run an assignment and return its result.

        Every failure, a bug included, becomes a typed result. Raises NoRoomError when the run must wait for room.
        """
        result = self._empty_result(assignment.run_id, assignment.attempt, assignment.lease_id)
        result = result._replace(backend=assignment.backend)
        if not self._room.problem():  # a run that waits for room has been logged
            self._log("run {}: {} {}".format(assignment.run_id, assignment.model, assignment.recipe))
        try:
            return self._fetch_and_run(assignment, result)
        except RunFailedError as error:
            return result._replace(failure_type=error.failure_type, failure_message=str(error))
        except NoRoomError:
            raise
        except Exception as error:  # noqa: BLE001 — a bug while running one job must not end the agent
            if isinstance(error, OSError) and has_no_room(error):
                message = "the disk of the state directory had no room during the run ({})".format(error)
                return result._replace(failure_type="agent_error", failure_message=message)
            text = traceback.format_exc()
            self._log("bug in the agent, please report it:\n" + text)
            lines = text.strip().splitlines()
            return result._replace(failure_type="agent_error", failure_message=lines[-1], log_tail=lines[-20:])

    def _empty_result(self, run_id: str, attempt: int, lease_id: str) -> RunResult:
        return RunResult(
            run_id=run_id,
            device_id=self._device_id,
            attempt=attempt,
            device=self._device,
            backend="",
            library_versions=self._device.library_versions,
            lease_id=lease_id,
        )

    def _damage_report(self, run_id: str, damage: DamagedResultError, sentence: str) -> bytes:
        result = self._empty_result(run_id, damage.attempt, damage.lease_id)
        return encode_result(result._replace(failure_type="agent_error", failure_message=sentence))

    def _fetch_and_run(self, assignment: Assignment, result: RunResult) -> RunResult:
        with self._lock:
            cancellation = self._cancellations[assignment.run_id]

        progress = _Throttle(lambda phase, fraction: self._send_progress(assignment.run_id, phase, fraction))
        if cancellation.event.is_set():
            raise RunFailedError("cancelled", "cancelled before it began")
        self._room.require_possible(assignment)
        progress("fetch", 0.0)
        try:
            artifact = self._artifacts.get(
                assignment.sha256,
                cancellation.event,
                lambda fetched_bytes: progress("fetch", min(1.0, fetched_bytes / max(1, assignment.size_bytes))),
                also_keep=assignment.reference_sha256,
            )
            reference_path = ""
            if assignment.reference_sha256:
                reference = self._artifacts.get(
                    assignment.reference_sha256, cancellation.event, lambda _: None, also_keep=assignment.sha256
                )
                reference_path = reference.path
        except OSError as error:
            if has_no_room(error):
                raise NoRoomError(error) from error
            raise
        self._room.accept()
        result = result._replace(stages=[artifact.transfer])
        return self._runner.run(assignment, Files(artifact.path, reference_path), result, cancellation, progress)

    def _send_progress(self, run_id: str, phase: str, fraction: float) -> None:
        with self._lock:
            if self._session is not None:
                self._session.send_progress(run_id, phase, fraction)

    def _try_to_deliver(self) -> bool:
        """Deliver the outbox, and tell whether it is empty afterwards."""
        try:
            self._delivery.deliver()
        except ControllerUnreachableError as error:
            if not self._stopping.is_set():
                self._say_why(error)
        return not self._outbox.pending()
