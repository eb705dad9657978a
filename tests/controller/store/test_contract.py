"""The contract of store/base.py, rule by rule."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from efficientquant_controller.errors import NameTakenError, NotFoundError, StaleSessionError, StoreError
from efficientquant_controller.model import (
    JOB_TRANSITIONS,
    Artifact,
    Build,
    BuildState,
    Campaign,
    DeviceSnapshot,
    Event,
    Job,
    JobState,
    Run,
)
from efficientquant_controller.store.base import Lease
from efficientquant_controller.store.sql import SqlStore
from states import move_job, report

TARGET = "jetson-nano"
JOB = Job("j1", "c1", "d1", "mobilevit_xxs", "fp32", target=TARGET, backend="trt")
PATHS = {
    JobState.PENDING: [],
    JobState.QUEUED: [JobState.QUEUED],
    JobState.LEASED: [JobState.QUEUED, JobState.LEASED],
    JobState.SUCCEEDED: [JobState.QUEUED, JobState.SUCCEEDED],
    JobState.FAILED: [JobState.FAILED],
    JobState.CANCELLED: [JobState.CANCELLED],
}


def test_register_round_trip(store: SqlStore, snapshot: DeviceSnapshot) -> None:
    """A registered device reads back equal, uint64 epoch included."""
    device = store.register_device("d1", "bench-1", "0.1.0", 2**64 - 1, snapshot, 3.5)
    assert device == store.device("d1") == store.devices()[0]
    assert (device.session_epoch, device.snapshot, device.last_seen_unix_s) == (2**64 - 1, snapshot, 3.5)


def test_an_upgrade_of_the_agent_changes_no_device(
    planned: SqlStore, snapshot: DeviceSnapshot, make_result: Callable
) -> None:
    """A newer agent's description of its backends counts from its hello on and makes no new snapshot."""
    [backend] = snapshot.backends
    newer = replace(snapshot, backends=(replace(backend, form="onnxruntime", opset=18),))

    report(planned, make_result("r0", device=snapshot), 3.0)
    planned.register_device("d1", "bench-1", "0.2.0", 2, newer, 4.0)
    report(planned, make_result("r1", device=newer), 5.0)
    report(planned, make_result("r2", device=snapshot), 6.0)  # from an outbox of the older agent

    assert planned.device("d1").snapshot == newer
    assert len({run["snapshot_sha256"] for run in planned.run_rows("c1") if run["snapshot_sha256"]}) == 1


def test_name_taken(store: SqlStore, snapshot: DeviceSnapshot) -> None:
    """A name that belongs to another device is refused and nothing is written."""
    store.register_device("d1", "bench-1", "0.1.0", 1, snapshot, 1.0)
    with pytest.raises(NameTakenError, match="bench-1"):
        store.register_device("d2", "bench-1", "0.1.0", 1, snapshot, 2.0)
    with pytest.raises(NotFoundError, match="d2"):
        store.device("d2")


@pytest.mark.parametrize("epoch", [4, 5])
def test_stale_session(store: SqlStore, snapshot: DeviceSnapshot, epoch: int) -> None:
    """A session with the same or an older epoch is refused."""
    store.register_device("d1", "bench-1", "0.1.0", 5, snapshot, 1.0)
    with pytest.raises(StaleSessionError):
        store.register_device("d1", "bench-1", "0.1.0", epoch, snapshot, 2.0)


def test_renamed_device(planned: SqlStore, snapshot: DeviceSnapshot) -> None:
    """A device that changed its name keeps its id and history, and its old name is free."""
    planned.register_device("d1", "bench-9", "0.2.0", 2, replace(snapshot, board="new"), 2.0)
    planned.register_device("d2", "bench-1", "0.1.0", 1, snapshot, 3.0)
    assert [(device.device_id, device.name) for device in planned.devices()] == [("d2", "bench-1"), ("d1", "bench-9")]
    assert planned.device("d1").snapshot.board == "new"
    assert planned.results()[0]["device"] == "bench-9"


def test_forget_device(planned: SqlStore, snapshot: DeviceSnapshot) -> None:
    """A forgotten device frees its name, and its history keeps that name."""
    assert planned.forget_device("bench-1").name == "bench-1"
    assert (planned.devices(), planned.device("d1").name) == ([], None)
    assert planned.results("c1")[0]["device"] == "bench-1"
    with pytest.raises(NotFoundError, match="bench-1"):
        planned.forget_device("bench-1")
    assert planned.register_device("d2", "bench-1", "0.1.0", 1, snapshot, 2.0).name == "bench-1"


def test_touch_devices(store: SqlStore, snapshot: DeviceSnapshot) -> None:
    """Touching devices records the time of all of them and of no other, and ignores unknown ids."""
    for number in (1, 2, 3):
        store.register_device(f"d{number}", f"bench-{number}", "0.1.0", 1, snapshot, 1.0)
    store.touch_devices(["d1", "unknown", "d3"], 9.25)
    store.touch_devices([], 10.0)
    assert [device.last_seen_unix_s for device in store.devices()] == [9.25, 1.0, 9.25]


def test_device_names(planned: SqlStore, snapshot: DeviceSnapshot) -> None:
    """Every device that has a name is listed by id, and a forgotten device is not."""
    planned.register_device("d2", "bench-2", "0.1.0", 1, snapshot, 1.0)
    planned.forget_device("bench-1")
    assert planned.device_names() == {"d2": "bench-2"}


def test_artifacts(store: SqlStore, artifact: Artifact) -> None:
    """An artifact is found by its hash and its build's key, and recording it again is accepted."""
    assert store.find_artifact("key") is None
    store.add_artifact(artifact, "key")
    store.add_artifact(artifact, "key")
    assert store.find_artifact("key") == artifact == store.artifact(artifact.sha256)


def test_artifact_of_two_builds(store: SqlStore, artifact: Artifact) -> None:
    """Two builds of the same bytes keep their own evidence, and a rebuild replaces its key's artifact."""
    other = replace(artifact, recipe="efficientquant", parity_max_abs=None)
    store.add_artifact(artifact, "key")
    store.add_artifact(other, "other")
    assert (store.find_artifact("key"), store.find_artifact("other")) == (artifact, other)
    rebuilt = replace(artifact, sha256="ef" * 32)
    store.add_artifact(rebuilt, "key")
    assert store.find_artifact("key") == rebuilt


def test_campaign_round_trip(planned: SqlStore, campaign: Campaign) -> None:
    """A campaign reads back equal with its builds, jobs, and runs by position."""
    assert planned.campaign("c1") == planned.campaign("latest") == planned.campaigns()[0] == campaign
    assert planned.builds("c1") == [Build("c1", "mobilevit_xxs", "fp32", target=TARGET)]
    assert planned.jobs("c1") == [planned.job("j1")] == [JOB]
    assert [run.run_id for run in planned.runs("latest")] == ["r3", "r2", "r1", "r0"]
    assert planned.run("r1") == Run("r1", "j1", 1, 2)


def test_campaign_without_images(planned: SqlStore, campaign: Campaign) -> None:
    """A campaign that was calibrated on synthetic images reads back without calibration images."""
    plain = replace(campaign, campaign_id="c2", calibration=None)
    planned.create_campaign(plain, [], [], [])
    assert planned.campaign("c2") == plain


def test_latest_is_created_last(planned: SqlStore, campaign: Campaign) -> None:
    """The id "latest" means the campaign created last, whatever the clock said."""
    planned.create_campaign(replace(campaign, campaign_id="c2", created_unix_s=0.0), [], [], [])
    assert planned.campaign("latest").campaign_id == "c2"
    assert [campaign.campaign_id for campaign in planned.campaigns()] == ["c2", "c1"]


def test_campaign_whole_or_not_at_all(planned: SqlStore, campaign: Campaign) -> None:
    """A campaign that cannot be recorded whole leaves nothing."""
    with pytest.raises(StoreError):
        planned.create_campaign(
            replace(campaign, campaign_id="c2"), [], [Job("j2", "c2", "nobody", "m", "fp32")], [Run("r9", "j2", 0, 0)]
        )
    assert [campaign.campaign_id for campaign in planned.campaigns()] == ["c1"]


def test_builds_of_two_targets(planned: SqlStore, campaign: Campaign, artifact: Artifact) -> None:
    """One model × recipe has a build for each target, and a row has its own target's artifact."""
    planned.add_artifact(artifact, "key")
    builds = [Build("c2", "mobilevit_xxs", "fp32", target=target) for target in ("onnxruntime", TARGET)]
    planned.create_campaign(
        replace(campaign, campaign_id="c2"), builds, [replace(JOB, job_id="j2", campaign_id="c2")], []
    )

    planned.move_build(replace(builds[0], state=BuildState.READY, artifact_sha256=artifact.sha256), 2.0)

    assert [build.state for build in planned.builds("c2")] == [BuildState.READY, BuildState.QUEUED]
    (row,) = planned.results("c2")
    assert (row["target"], row["artifact_sha256"], row["state"]) == (TARGET, "", "pending")
    with pytest.raises(NotFoundError, match="there is no"):
        planned.move_build(replace(builds[0], target="tensorrt-11"), 2.0)


@pytest.mark.parametrize("after", JobState)
@pytest.mark.parametrize("before", JobState)
def test_job_transitions(planned: SqlStore, before: JobState, after: JobState) -> None:
    """A job makes exactly the moves that JOB_TRANSITIONS lists, and moves to its own state."""
    for step in PATHS[before]:
        move_job(planned, "j1", step)
    if after is before or after in JOB_TRANSITIONS[before]:
        move_job(planned, "j1", after, "timeout", "too slow")
        expected = replace(JOB, state=after, failure_type="timeout", failure_message="too slow")
    else:
        with pytest.raises(ValueError, match="cannot become"):
            move_job(planned, "j1", after)
        expected = replace(JOB, state=before)
    assert planned.job("j1") == expected


@pytest.mark.parametrize(
    "call",
    [
        lambda store: store.device("x"),
        lambda store: store.artifact("x"),
        lambda store: store.campaign("x"),
        lambda store: store.campaign("latest"),
        lambda store: store.builds("x"),
        lambda store: store.jobs("x"),
        lambda store: store.runs("x"),
        lambda store: store.job("x"),
        lambda store: store.run("x"),
        lambda store: store.forget_device("x"),
        lambda store: store.move_build(Build("x", "m", "r", BuildState.READY), 1.0),
        lambda store: store.begin_running("x", 1.0),
        lambda store: store.cancel_campaign("x", 1.0),
        lambda store: store.set_aside("x", "a reason", 1.0),
        lambda store: store.settle("x", 1.0),
        lambda store: store.lease_runs([Lease("x", "lease-1")], 1.0),
        lambda store: store.release_run("x", "a reason", 1.0),
        lambda store: store.give_up("x", 1.0),
        lambda store: store.comparisons("x"),
        lambda store: store.run_rows("x"),
        lambda store: store.results("x"),
        lambda store: store.raw_result("x"),
        lambda store: store.events("x"),
    ],
)
def test_not_found(store: SqlStore, call: Callable) -> None:
    """Every method names what does not exist."""
    with pytest.raises(NotFoundError, match=r"there is no|no device is named 'x'"):
        call(store)


def test_events(planned: SqlStore) -> None:
    """A campaign's events come oldest first, without those of other campaigns."""
    later, earlier = Event(9.0, "c1", "d1", "lost", "later"), Event(2.0, "c1", None, "note", "earlier")
    for event in (later, earlier, Event(1.0, None, None, "note", "of no campaign")):
        planned.add_event(event)
    assert planned.events("c1") == [earlier, later]


def test_no_write_after_the_end(store: SqlStore) -> None:
    """A closed store refuses every write, and its file stays complete."""
    store.close()
    for write in (SqlStore.renew, lambda closed: closed.touch_devices([], 2.0)):
        with pytest.raises(StoreError, match="was closed"):
            write(store)


def test_close_twice(store: SqlStore) -> None:
    """Closing twice is harmless."""
    store.close()
    store.close()
