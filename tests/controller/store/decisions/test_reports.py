"""Reports, in batches and under leases."""

from collections.abc import Callable

import pytest
from efficientquant_controller.errors import NotFoundError, UnstorableError, UserError
from efficientquant_controller.model import JobState, RunState
from efficientquant_controller.store.base import MAX_ATTEMPTS, PASSING_FAILURES, Committed, Lease, Report
from efficientquant_controller.store.decisions import Decision
from efficientquant_controller.store.sql import SqlStore
from states import assign, commit, require_stored, rows_of, states_of, under_lease


def kinds(answers: list) -> list[str]:
    refusals = [getattr(answer, "refusal", answer) for answer in answers]
    return [
        type(refusal).__name__ if refusal else f"new={answer.new}"
        for answer, refusal in zip(answers, refusals, strict=True)
    ]


def test_a_run_with_unstorable_results_fails_with_their_reason(running: SqlStore, make_result: Callable) -> None:
    """A run with unstorable results is tried again up to the limit, and then fails with the reason."""
    for attempt in range(1, MAX_ATTEMPTS + 1):
        assign(running, "a0", f"lease-{attempt}")
        report = Report(make_result("a0", attempt=attempt, duration_s=float("nan")), f"lease-{attempt}")
        [answer] = running.commit_reports([report], 5.0)
        assert kinds([answer]) == ["UnstorableError"]
        require_stored(running, answer.changes)
    assert running.run("a0").state is RunState.FAILED
    assert (running.job("a").failure_type, running.job("a").state) == ("result_refused", JobState.FAILED)
    assert running.job("a").failure_message == "the result of run a0 cannot be stored: the duration is nan"


def test_the_last_report_ends_job_and_campaign(running: SqlStore, make_result: Callable) -> None:
    """A report moves its run, its job and its campaign, and they are returned as stored."""
    for run_id in ("a0", "b0", "a1"):
        assign(running, run_id)
        changes = commit(running, make_result(run_id), now_s=9.0).changes
        require_stored(running, changes)
        assert [run.run_id for run in changes.runs] == [run_id]
    assert set(states_of(running, "c2").values()) == {"succeeded"}
    assert changes.campaign.ended_unix_s == 9.0
    assert running.events("c2") == []


def test_a_job_waits_for_its_other_runs(running: SqlStore, make_result: Callable) -> None:
    """A job is queued again while a run of it is planned."""
    assign(running, "a0")
    [job] = commit(running, make_result("a0")).changes.jobs
    assert (job, job.state) == (running.job("a"), JobState.QUEUED)


def test_a_late_result_while_another_run_is_leased(running: SqlStore, make_result: Callable) -> None:
    """A late result of a released run leaves its job leased while another run is on the device."""
    assign(running, "a0", "lease-1")
    running.release_run("a0", "lost", 2.0)
    assign(running, "a1", "lease-2")
    assert not commit(running, make_result("a0"), "lease-1").is_current
    assert (running.run("a0").state, running.job("a").state) == (RunState.SUCCEEDED, JobState.LEASED)
    assert commit(running, make_result("a1"), "lease-2").is_current
    assert running.job("a").state is JobState.SUCCEEDED


def test_a_failed_run_fails_its_job(running: SqlStore, make_result: Callable) -> None:
    """A failed run fails its job with an event, cancels the job's other runs and leaves other jobs."""
    assign(running, "a0")
    changes = commit(running, make_result("a0", failure_type="timeout", failure_message="too\0slow")).changes
    require_stored(running, changes)
    states = {"c2": "running", "a": "failed", "a0": "failed", "a1": "cancelled", "b": "queued", "b0": "planned"}
    assert states_of(running, "c2") == states
    assert (running.job("a").failure_type, running.job("a").failure_message) == ("timeout", "too\ufffdslow")
    assert [event.message for event in changes.events] == ["mobilevit_xxs under fp32: timeout: too\ufffdslow"]


def test_a_bad_report_costs_no_good_report(running: SqlStore, make_result: Callable) -> None:
    """Each report of a batch is answered in its place, and a bad report leaves the others."""
    for run_id in ("a0", "b0"):
        assign(running, run_id)
    results = [
        make_result("nowhere"),
        make_result("a0", latency_s=(float("nan"),)),
        make_result("a1"),
        make_result("b0", device_id="d9"),
        make_result("a0"),
        make_result("b0", started_unix_s=float("inf")),
        make_result("b0", failure_type="timeout"),
    ]
    answers = running.commit_reports([under_lease(result) for result in results], 5.0)

    refused = ["NotFoundError", "UnstorableError", "UserError", "UserError"]
    assert kinds(answers) == [*refused, "new=True", "UnstorableError", "new=True"]
    assert [event.kind for event in running.events("c2")] == ["run_released", "run_released", "job_failed"]
    assert [running.run(run_id).state for run_id in ("a0", "b0", "a1")] == ["succeeded", "failed", "planned"]
    assert running.raw_result("a0") == results[4]


def test_a_report_that_the_database_refuses_leaves_nothing(
    running: SqlStore, make_result: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A report that the database itself refuses leaves no row, and the other reports are recorded."""
    for run_id in ("a0", "b0"):
        assign(running, run_id)
    write = running.write_result

    def write_twice(sql: object, report: Report, *rest: object) -> None:
        write(sql, report, *rest)
        if report.result.run_id == "a0":
            write(sql, report, *rest)

    monkeypatch.setattr(running, "write_result", write_twice)
    refused, recorded = running.commit_reports([under_lease(make_result("a0")), under_lease(make_result("b0"))], 5.0)

    assert isinstance(refused, UnstorableError)
    assert str(refused).startswith("the database can never hold it: ")
    assert (recorded.new, running.run("a0").state) == (True, RunState.LEASED)
    assert [row["run_id"] for row in rows_of(running)["series"]] == ["b0"]


def test_two_reports_of_a_run_in_one_batch(running: SqlStore, make_result: Callable) -> None:
    """Of two reports of a run in one batch the first stands."""
    assign(running, "a0")
    first, second = make_result("a0"), make_result("a0", latency_s=(9.0,))
    answers = running.commit_reports([under_lease(first), under_lease(second)], 5.0)
    assert kinds(answers) == ["new=True", "new=False"]
    assert running.raw_result("a0") == first
    require_stored(running, answers[1].changes)


def test_siblings_of_a_failed_run_in_one_batch(running: SqlStore, make_result: Callable) -> None:
    """The result of a run whose sibling failed first in the batch is recorded and does not count."""
    assign(running, "a1")
    running.release_run("a1", "lost", 2.0)
    assign(running, "a0")
    failed, other = make_result("a0", failure_type="timeout"), make_result("a1")
    answers = running.commit_reports([under_lease(failed), under_lease(other)], 5.0)

    assert kinds(answers) == ["new=True", "new=True"]
    assert (running.run("a1").state, running.job("a").failure_type) == (RunState.CANCELLED, "timeout")
    assert running.raw_result("a1") == other
    assert {row["recipe"]: row["runs_done"] for row in running.results("c2")} == {"fp32": 0, "int8": 0}


def test_an_error_of_ours_costs_the_whole_batch(
    running: SqlStore, make_result: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unexpected error leaves nothing of its batch, so every report can be sent again."""
    for run_id in ("a0", "b0"):
        assign(running, run_id)
    before, results = rows_of(running), (make_result("a0"), make_result("b0", failure_type="timeout"))
    batch = [under_lease(result) for result in results]

    def fail(*_arguments: object) -> None:
        raise ZeroDivisionError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(Decision, "note", fail)
        with pytest.raises(ZeroDivisionError, match="a bug"):
            running.commit_reports(batch, 5.0)
    assert rows_of(running) == before
    assert kinds(running.commit_reports(batch, 6.0)) == ["new=True", "new=True"]


def test_no_reports(running: SqlStore) -> None:
    """A batch without reports has no answers."""
    assert list(running.commit_reports([], 5.0)) == []


@pytest.mark.parametrize(("attempt", "lease_id", "is_current"), [(2, "lease-2", True), (1, "lease-1", False)])
def test_a_result_of_any_lease_is_welcome(
    running: SqlStore, make_result: Callable, attempt: int, lease_id: str, is_current: bool
) -> None:
    """A result of an earlier lease is recorded, and the answer says that it was not the current."""
    assign(running, "a0", "lease-1")
    running.release_run("a0", "lost", 2.0)
    assign(running, "a0", "lease-2")
    committed = commit(running, make_result("a0", attempt=attempt), lease_id)
    assert (committed.new, committed.is_current) == (True, is_current)
    assert (running.run("a0").state, running.run("a0").attempt) == (RunState.SUCCEEDED, 2)


@pytest.mark.parametrize(
    ("run_id", "attempt", "lease_id", "sentence"),
    [
        ("a0", 1, "lease-9", "run a0 was never assigned under the lease 'lease-9'"),
        ("a0", 2, "lease-1", "run a0 was assigned 1 times, so it has no attempt 2"),
        ("a0", 2, "", "run a0 was assigned 1 times, so it has no attempt 2"),
        ("a1", 1, "lease-1", "run a1 was never assigned, so it cannot have a result"),
        ("a1", 0, "", "run a1 was never assigned, so it cannot have a result"),
        ("b0", 1, "lease-1", "run b0 was never assigned under the lease 'lease-1'"),
        ("a0", 1, "", "run a0 was assigned under a lease, and this result names none"),
    ],
)
def test_a_result_that_nobody_asked_for(
    running: SqlStore, make_result: Callable, run_id: str, attempt: int, lease_id: str, sentence: str
) -> None:
    """A result without a lease of its run is refused, and nothing changes."""
    running.lease_runs([Lease("a0", "lease-1"), Lease("b0", "lease-2")], 2.0)
    before = rows_of(running)
    with pytest.raises(UserError) as refused:
        commit(running, make_result(run_id, attempt=attempt), lease_id)
    assert (type(refused.value), str(refused.value)) == (UserError, sentence)
    assert rows_of(running) == before


def test_an_unknown_run(running: SqlStore, make_result: Callable) -> None:
    """A report of an unknown run is answered with its id."""
    with pytest.raises(NotFoundError, match="there is no run 'nowhere'"):
        commit(running, make_result("nowhere"))


def test_the_hash_of_a_report_is_kept(running: SqlStore, make_result: Callable) -> None:
    """The SHA-256 of a report's bytes is stored, and is unknown for agents that send none."""
    running.lease_runs([Lease("a0", "lease-1"), Lease("b0", "lease-2")], 2.0)
    running.commit_reports([Report(make_result("a0"), "lease-1", "ef" * 32), Report(make_result("b0"), "lease-2")], 5.0)
    hashes = {row["run_id"]: row["report_sha256"] for row in rows_of(running)["runs"]}
    assert (hashes["a0"], hashes["b0"]) == ("ef" * 32, None)


# passing failures


@pytest.mark.parametrize("failure_type", sorted(PASSING_FAILURES))
def test_a_passing_failure_is_tried_again(running: SqlStore, make_result: Callable, failure_type: str) -> None:
    """A passing failure puts the run back in the queue with an event, and is not recorded."""
    assign(running, "a0", "lease-1")
    failed = make_result("a0", failure_type=failure_type, failure_message="no\0room")
    committed = commit(running, failed, "lease-1")

    require_stored(running, committed.changes)
    assert (committed.new, committed.is_current) == (False, True)
    assert (running.run("a0").state, running.job("a").state) == (RunState.PLANNED, JobState.QUEUED)
    assert [event.message for event in running.events("c2")] == [f"{failure_type}: no\ufffdroom; it is run again"]
    with pytest.raises(NotFoundError, match="no result"):
        running.raw_result("a0")
    assign(running, "a0", "lease-2")
    assert commit(running, make_result("a0", attempt=2), "lease-2").new


@pytest.mark.parametrize(("failure_type", "state"), [("agent_error", "failed"), ("cancelled", "cancelled")])
def test_the_last_attempt_of_a_passing_failure(
    running: SqlStore, make_result: Callable, failure_type: str, state: str
) -> None:
    """A passing failure of the last attempt is recorded and fails the job."""
    for attempt in range(1, MAX_ATTEMPTS + 1):
        assign(running, "a0", f"lease-{attempt}")
        failed = make_result("a0", attempt=attempt, failure_type=failure_type)
        committed = commit(running, failed, f"lease-{attempt}")
        assert committed.new is (attempt == MAX_ATTEMPTS)
    assert (running.run("a0").state, running.raw_result("a0")) == (state, failed)
    assert (running.job("a").state, running.job("a").failure_type) == (JobState.FAILED, failure_type)


@pytest.mark.parametrize("leased_again", [False, True])
def test_a_late_passing_failure(running: SqlStore, make_result: Callable, leased_again: bool) -> None:
    """A passing failure of an earlier lease, or delivered twice, changes nothing."""
    assign(running, "a0", "lease-1")
    failed = make_result("a0", failure_type="agent_error")
    commit(running, failed, "lease-1")
    if leased_again:
        assign(running, "a0", "lease-2")
    before = rows_of(running)
    committed = commit(running, failed, "lease-1")
    assert (committed.new, committed.is_current) == (False, False)
    assert rows_of(running) == before


def test_a_passing_failure_of_a_cancelled_run(running: SqlStore, make_result: Callable) -> None:
    """A passing failure of a cancelled run is recorded, and leaves every state."""
    assign(running, "a0", "lease-1")
    running.cancel_campaign("c2", 2.0)
    before = states_of(running, "c2")
    committed: Committed = commit(running, make_result("a0", failure_type="cancelled"), "lease-1")
    assert (committed.new, committed.changes.campaign, committed.changes.events) == (True, None, ())
    assert (states_of(running, "c2"), running.raw_result("a0").failure_type) == (before, "cancelled")
