"""The decisions on builds, campaigns, jobs and leases."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from efficientquant_controller.model import Build, BuildState, CampaignState, JobState, RunState
from efficientquant_controller.store.base import Changes, Lease
from efficientquant_controller.store.decisions import Decision
from efficientquant_controller.store.sql import SqlStore
from sqlalchemy import text
from states import assign, commit, move_campaign, require_stored, rows_of, states_of, under_lease

BUILD = Build("c1", "mobilevit_xxs", "fp32", target="jetson-nano")
RUNNING = {"c2": "running", "a": "queued", "b": "queued", "a0": "planned", "a1": "planned", "b0": "planned"}


def change(store: SqlStore, *statements: str) -> None:
    """Bring rows into a state that only an older release left."""
    with store._transactions.write() as sql:
        for statement in statements:
            sql.execute(text(statement))


def test_a_build_that_is_ready_queues_its_jobs(planned: SqlStore, artifact: object) -> None:
    """A ready build names its artifact, and its pending jobs are queued."""
    planned.add_artifact(artifact, "key")
    ready = replace(BUILD, state=BuildState.READY, message="a\0b", artifact_sha256="ab" * 32, build_key="key")

    changes = planned.move_build(ready, 5.0)

    assert planned.builds("c1") == [replace(ready, message="a\ufffdb")]
    assert planned.results("c1")[0]["artifact_bytes"] == 1234
    assert [(job.job_id, job.state) for job in changes.jobs] == [("j1", JobState.QUEUED)]
    assert (planned.job("j1").state, changes.builds, changes.events) == (JobState.QUEUED, (ready,), ())


@pytest.mark.parametrize("state", [BuildState.QUEUED, BuildState.BUILDING])
def test_a_build_that_has_not_ended_moves_no_job(planned: SqlStore, state: BuildState) -> None:
    """A build that waits or goes on leaves its jobs pending."""
    require_stored(planned, planned.move_build(replace(BUILD, state=state), 5.0))
    assert (planned.builds("c1")[0].state, planned.job("j1").state) == (state, JobState.PENDING)


def test_a_build_that_fails_fails_its_jobs(planned: SqlStore) -> None:
    """The jobs of a failed build fail with its message, and their runs are cancelled."""
    changes = planned.move_build(replace(BUILD, state=BuildState.FAILED, message="no such op"), 5.0)

    require_stored(planned, changes)
    job = planned.job("j1")
    assert (job.state, job.failure_type, job.failure_message) == (JobState.FAILED, "quantization_failed", "no such op")
    assert {run.state for run in planned.runs("c1")} == {RunState.CANCELLED}
    assert [event.message for event in changes.events] == ["mobilevit_xxs under fp32: quantization_failed: no such op"]
    assert planned.campaign("c1").state is CampaignState.BUILDING


def test_a_build_moves_only_pending_jobs(running: SqlStore) -> None:
    """A build that is made again leaves queued jobs as they are."""
    changes = running.move_build(Build("c2", "mobilevit_xxs", "int8", BuildState.FAILED), 5.0)
    assert (changes.jobs, states_of(running, "c2")) == ((), RUNNING)


def test_a_campaign_begins_to_run(planned: SqlStore) -> None:
    """A building campaign runs after its builds, and a second call changes nothing."""
    planned.move_build(replace(BUILD, state=BuildState.READY), 4.0)
    for _ in range(2):
        require_stored(planned, planned.begin_running("c1", 5.0))
        assert planned.campaign("c1").state is CampaignState.RUNNING


def test_a_campaign_with_nothing_to_run_ends(planned: SqlStore) -> None:
    """A campaign whose builds all failed ends at once."""
    planned.move_build(replace(BUILD, state=BuildState.FAILED), 4.0)
    assert planned.begin_running("c1", 5.0).campaign == planned.campaign("c1")
    assert (planned.campaign("c1").state, planned.campaign("c1").ended_unix_s) == (CampaignState.FAILED, 5.0)


def test_cancelling_spares_what_has_ended(running: SqlStore, make_result: Callable) -> None:
    """A cancelled campaign has no open job or run, and ended ones stay."""
    assign(running, "a0")
    commit(running, make_result("a0"))
    assign(running, "a1")

    changes = running.cancel_campaign("latest", 6.0)

    require_stored(running, changes)
    cancelled = dict.fromkeys(RUNNING, "cancelled")
    assert states_of(running, "c2") == {**cancelled, "a0": "succeeded"}
    assert (changes.campaign_id, running.campaign("c2").ended_unix_s) == ("c2", 6.0)


@pytest.mark.parametrize(
    "decide",
    [
        lambda store: store.cancel_campaign("c2", 9.0),
        lambda store: store.settle("c2", 9.0),
        lambda store: store.begin_running("c2", 9.0),
    ],
    ids=["cancel", "settle", "begin"],
)
def test_an_ended_campaign_stays(running: SqlStore, decide: Callable[[SqlStore], Changes]) -> None:
    """A campaign that has ended stays as it is, and is returned."""
    running.cancel_campaign("c2", 6.0)
    before = rows_of(running)
    changes = decide(running)
    assert (changes.jobs, changes.runs, changes.events) == ((), (), ())
    assert changes.campaign in (None, running.campaign("c2"))
    assert rows_of(running) == before


def test_a_campaign_that_is_set_aside(running: SqlStore) -> None:
    """A campaign that cannot be handled fails with the reason in its jobs and in an event."""
    assign(running, "a0")
    running.set_aside("c2", "a broken\0row", 6.0)

    failed = dict.fromkeys(("c2", "a", "b"), "failed")
    assert states_of(running, "c2") == {**dict.fromkeys(RUNNING, "cancelled"), **failed}
    assert (running.job("b").failure_type, running.job("b").failure_message) == ("campaign_failed", "a broken\ufffdrow")
    assert [event.message for event in running.events("c2")] == ["the campaign was set aside: a broken\ufffdrow"]


@pytest.mark.parametrize(
    ("left", "states"),
    [
        (
            ["runs SET state = 'failed', failure_type = 'timeout' WHERE run_id = 'a0'"],
            {"a": "failed", "a1": "cancelled"},
        ),
        (["runs SET state = 'failed', attempt = 3 WHERE run_id = 'a0'"], {"a": "failed", "a1": "cancelled"}),
        (["runs SET state = 'succeeded' WHERE job_id = 'a'"], {"a": "succeeded"}),
        (["jobs SET state = 'leased' WHERE job_id = 'a'"], {"a": "queued"}),
        (["jobs SET state = 'leased' WHERE job_id = 'a'", "runs SET state = 'leased' WHERE run_id = 'a1'"], {}),
        (["jobs SET state = 'succeeded'", "runs SET state = 'succeeded'"], {"c2": "succeeded"}),
        (["jobs SET state = 'failed'", "runs SET state = 'failed'"], {"c2": "failed"}),
        ([], {}),
    ],
    ids=["failed run", "lost run", "all runs", "released run", "leased run", "all jobs", "failed jobs", "nothing"],
)
def test_what_an_older_release_left_half_done(running: SqlStore, left: list[str], states: dict[str, str]) -> None:
    """The state changes that follow from the stored states are made."""
    change(running, *(f"UPDATE {statement}" for statement in left))
    before = states_of(running, "c2")
    changes = running.settle("c2", 6.0)
    require_stored(running, changes)
    assert states_of(running, "c2") == {**before, **states}


def test_a_settled_job_has_its_runs_failure(running: SqlStore) -> None:
    """A job that is settled by a failed run has that run's failure, or that the device was lost."""
    change(
        running,
        "UPDATE runs SET state = 'failed', failure_type = 'timeout', failure_message = 'slow' WHERE run_id = 'a0'",
        "UPDATE runs SET state = 'failed', attempt = 3 WHERE run_id = 'b0'",
    )
    running.settle("c2", 6.0)
    assert (running.job("a").failure_type, running.job("a").failure_message) == ("timeout", "slow")
    assert running.job("b").failure_type == "device_lost"
    assert "was lost 3 times" in running.job("b").failure_message
    assert running.campaign("c2").state is CampaignState.FAILED


def test_leases(running: SqlStore) -> None:
    """A lease moves run and job, counts an attempt and is kept, in one answer for each."""
    answers = running.lease_runs([Lease("a0", "lease-1"), Lease("b0", "lease-2"), Lease("a1", "lease-3")], 5.0)

    for changes in answers:
        require_stored(running, changes)
    assert [(changes.runs[0].run_id, changes.runs[0].state, changes.runs[0].attempt) for changes in answers] == [
        ("a0", "leased", 1),
        ("b0", "leased", 1),
        ("a1", "planned", 0),  # its job has a run on the device
    ]
    assert {job.state for job in running.jobs("c2")} == {JobState.LEASED}
    leases = {row["run_id"]: row["lease_ids"] for row in rows_of(running)["runs"]}
    assert [leases[run_id] for run_id in ("a0", "b0", "a1")] == [["lease-1"], ["lease-2"], None]


def test_a_lease_of_an_ended_run(running: SqlStore) -> None:
    """A run that has ended is not leased."""
    running.cancel_campaign("c2", 4.0)
    before = rows_of(running)
    [changes] = running.lease_runs([Lease("a0", "lease-1")], 5.0)
    assert (changes.runs[0].state, changes.jobs[0].state) == (RunState.CANCELLED, JobState.CANCELLED)
    assert rows_of(running) == before


def test_a_run_is_resumed(running: SqlStore, make_result: Callable) -> None:
    """A lease without an id resumes a run under its last lease, and no run that never had one."""
    assign(running, "a0", "lease-1")
    running.release_run("a0", "bench-1 was lost", 4.0)
    before = states_of(running, "c2")
    resumed, unknown = running.lease_runs([Lease("a0", ""), Lease("b0", "")], 5.0)

    require_stored(running, resumed)
    assert (resumed.runs[0].state, resumed.runs[0].attempt) == (RunState.LEASED, 1)
    assert (unknown.runs[0].state, unknown.jobs[0].state) == (RunState.PLANNED, JobState.QUEUED)
    assert states_of(running, "c2") == {**before, "a": "leased", "a0": "leased"}
    assert commit(running, make_result("a0"), "lease-1").is_current


def test_a_release(running: SqlStore) -> None:
    """A release takes run and job back with the reason as an event, and keeps the attempts."""
    assign(running, "a0", "lease-1")
    changes = running.release_run("a0", "bench-1 was lost", 6.0)

    require_stored(running, changes)
    assert states_of(running, "c2") == RUNNING
    assert [(event.kind, event.message, event.device_id) for event in running.events("c2")] == [
        ("run_released", "bench-1 was lost", "d1")
    ]
    assert assign(running, "a0", "lease-2").attempt == 2


def test_a_release_of_a_run_that_is_not_leased(running: SqlStore, make_result: Callable) -> None:
    """A run that is planned or has ended stays as it is when it is released, without an event."""
    assign(running, "a0")
    commit(running, make_result("a0"))
    before = rows_of(running)
    for run_id in ("a0", "a1"):
        assert running.release_run(run_id, "bench-1 was lost", 6.0).runs == (running.run(run_id),)
    assert rows_of(running) == before


def test_giving_up(running: SqlStore) -> None:
    """A run that is given up fails with its job, and the job's other runs are cancelled."""
    assign(running, "a0")
    running.release_run("a0", "lost", 5.0)
    changes = running.give_up("a0", 6.0)

    require_stored(running, changes)
    assert states_of(running, "c2") == {**RUNNING, "a": "failed", "a0": "failed", "a1": "cancelled"}
    job, sentence = running.job("a"), "the device was lost 1 times in the middle of this run; it is not tried again"
    assert (job.failure_type, job.failure_message) == ("device_lost", sentence)
    running.give_up("b0", 7.0)
    assert running.campaign("c2").state is CampaignState.FAILED


def test_only_a_planned_run_is_given_up(running: SqlStore) -> None:
    """A leased or ended run stays as it is when it is given up."""
    assign(running, "a0")
    running.give_up("b0", 4.0)
    before = rows_of(running)
    for run_id in ("a0", "b0"):
        require_stored(running, running.give_up(run_id, 6.0))
    assert rows_of(running) == before


DECISIONS = {
    "move_build": (lambda store, _: store.move_build(replace(BUILD, state=BuildState.FAILED), 6.0), "note"),
    "begin_running": (lambda store, _: store.begin_running("c1", 6.0), "settle_campaign"),
    "cancel_campaign": (lambda store, _: store.cancel_campaign("c2", 6.0), "move_campaign"),
    "set_aside": (lambda store, _: store.set_aside("c2", "a reason", 6.0), "note"),
    "settle": (lambda store, _: store.settle("c2", 6.0), "settle_campaign"),
    "lease_runs": (lambda store, _: store.lease_runs([Lease("b0", "lease-2")], 6.0), "move_job"),
    "release_run": (lambda store, _: store.release_run("a0", "a reason", 6.0), "note"),
    "give_up": (lambda store, _: store.give_up("b0", 6.0), "note"),
    "commit_reports": (
        lambda store, make: store.commit_reports([under_lease(make("a0", failure_type="timeout"))], 6.0),
        "note",
    ),
}


@pytest.mark.parametrize("name", DECISIONS)
def test_a_decision_is_made_whole_or_not_at_all(
    running: SqlStore, make_result: Callable, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """An error in the middle of a decision leaves every row as it was."""
    decide, step = DECISIONS[name]
    assign(running, "a0")
    change(running, "UPDATE runs SET state = 'succeeded' WHERE run_id = 'b0'" if name == "settle" else "SELECT 1")
    before = rows_of(running)

    def fail(*_arguments: object, **_facts: object) -> None:
        raise ZeroDivisionError("in the middle")

    with monkeypatch.context() as patch:
        patch.setattr(Decision, step, fail)
        with pytest.raises(ZeroDivisionError, match="in the middle"):
            decide(running, make_result)

    assert rows_of(running) == before
    decide(running, make_result)
    assert rows_of(running) != before


@pytest.mark.parametrize(("state", "ended_unix_s"), [(state, 7.0 if state.ended else None) for state in CampaignState])
def test_the_end_of_a_campaign(planned: SqlStore, state: CampaignState, ended_unix_s: float | None) -> None:
    """An ended campaign records when it ended."""
    move_campaign(planned, "c1", state, 7.0)
    assert (planned.campaign("c1").state, planned.campaign("c1").ended_unix_s) == (state, ended_unix_s)


@pytest.mark.parametrize(
    "damage",
    [
        "jobs SET state = 'foo' WHERE job_id = 'a'",
        "runs SET state = 'foo' WHERE run_id = 'a0'",
        "campaigns SET state = 'foo' WHERE campaign_id = 'c2'",
        "campaigns SET measurement = 'nonsense' WHERE campaign_id = 'c2'",
        "runs SET lease_ids = 'nonsense' WHERE run_id = 'a0'",
    ],
)
def test_damaged_rows_can_be_set_aside(running: SqlStore, damage: str) -> None:
    """A campaign whose rows cannot be read is still listed as unfinished, and ends with its reason."""
    if running._transactions._engine.dialect.name == "postgresql" and "nonsense" in damage:
        damage = damage.replace("nonsense", "[]")  # a column of JSON takes nothing else
    with running._transactions.write() as sql:
        sql.execute(text(f"UPDATE {damage}"))
    assert running.unfinished() == ["c1", "c2"]
    running.set_aside("c2", "it is damaged", 6.0)
    with running._transactions.read() as sql:
        states = set(sql.scalars(text("SELECT state FROM jobs WHERE campaign_id = 'c2'")))
        assert sql.scalars(text("SELECT state FROM campaigns WHERE campaign_id = 'c2'")) == ["failed"]
    assert (states, running.unfinished()) == ({"failed"}, ["c1"])


def test_a_job_without_runs_is_no_success(running: SqlStore) -> None:
    """A job whose runs are missing from the database fails and says so."""
    with running._transactions.write() as sql:
        sql.execute(text("DELETE FROM runs WHERE job_id = 'a'"))
    running.settle("c2", 6.0)
    assert (running.job("a").state, running.job("a").failure_message) == (
        JobState.FAILED,
        "its runs are missing from the database",
    )
