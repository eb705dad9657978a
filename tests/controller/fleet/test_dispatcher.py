"""Tests of the dispatch: which device gets which run, and what it costs."""

import asyncio
import sys
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from efficientquant_controller.errors import NotFoundError, StoreBusyError
from efficientquant_controller.fleet.campaigns import TrackedCampaign
from efficientquant_controller.fleet.coordinator import Coordinator
from efficientquant_controller.fleet.liveness import Assign, CancelRun, Session
from efficientquant_controller.fleet.scheduling import plan_campaign
from efficientquant_controller.fleet.variants import Variant
from efficientquant_controller.model import BuildState, CampaignState, Device, JobState, RunState
from efficientquant_controller.store.base import Changes
from efficientquant_controller.store.sql import SqlStore
from small_fleet import ARTIFACT, CAMPAIGN, SNAPSHOT, Fleet, add_campaign, result
from sqlalchemy import text
from states import assign


def large_fleet(devices: int, runs: int) -> Coordinator:
    """Return a coordinator with connected devices, without a store behind it."""
    listed = [Device(f"d{n}", f"device-{n}", "0", 1, 0.0, replace(SNAPSHOT, board_id=f"b{n}")) for n in range(devices)]
    campaign = replace(CAMPAIGN, repeats=runs, devices=tuple(device.device_id for device in listed))
    builds, jobs, planned = plan_campaign(campaign, [(device, Variant("ort-cpu", "onnxruntime")) for device in listed])
    ready = [replace(build, state=BuildState.READY, artifact_sha256=ARTIFACT.sha256) for build in builds]
    tracked = TrackedCampaign(campaign, ready, [replace(job, state=JobState.QUEUED) for job in jobs], planned)

    def lease(leases: Any, now_s: float) -> list[Changes]:
        del now_s
        changed = [replace(tracked.runs[entry.run_id], state=RunState.LEASED, attempt=1) for entry in leases]
        return [Changes("c1", runs=(run,)) for run in changed]

    async def at_once(call: Callable[..., Any], *arguments: object) -> Any:
        return call(*arguments)  # whether a call needs a new thread depends on the machine

    store: Any = SimpleNamespace(lease_runs=lease, artifact=lambda _: ARTIFACT)
    coordinator = Coordinator(store, 15.0)
    coordinator._ledger.db = at_once  # type: ignore[method-assign]
    coordinator._ledger._active["c1"] = tracked
    for device in listed:
        coordinator._liveness.open(Session(device, frozenset()))
        coordinator._dispatcher.place(device.device_id, device.snapshot.board_id)
    return coordinator


def calls_per_report(devices: int, runs: int) -> int:
    """Count the function calls of the dispatch after one more report."""
    calls = 0

    def count(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal calls
        calls += event == "call"

    async def story() -> None:
        coordinator = large_fleet(devices, runs)
        await coordinator._dispatcher.dispatch()
        tracked = coordinator._ledger.active()[0]
        run = tracked.leased_on("d7")
        assert run is not None
        coordinator._ledger.copy(Changes("c1", runs=(replace(run, state=RunState.SUCCEEDED),)))
        sys.setprofile(count)
        await coordinator._dispatcher.dispatch()
        sys.setprofile(None)
        assert tracked.leased_on("d7") is not None

    asyncio.run(story())
    return calls


def test_a_report_costs_the_same_in_any_fleet() -> None:
    """A dispatch takes as many steps with 2,000 devices and 200 runs each as with ten and five."""
    assert calls_per_report(2000, 20) == calls_per_report(10, 5) == calls_per_report(10, 200)


def test_two_agents_on_one_board_take_turns(play: Callable, store: SqlStore) -> None:
    """A board runs one thing at a time, and the agent that waited longest is next."""

    async def story(fleet: Fleet) -> None:
        first, second = await fleet.connect("d0", board="shared"), await fleet.connect("d1", board="shared")
        (order,) = await fleet.orders(first)
        assert await fleet.orders(second) == []
        first.active_run_ids = frozenset({order.run.run_id})
        await fleet.coordinator.record_result(result(order.run.run_id), order.lease_id)
        assert await fleet.orders(first) == []
        (order,) = await fleet.orders(second)
        assert store.run(order.run.run_id).state is RunState.LEASED

    play(story)


def test_a_device_with_a_problem_gets_no_run_until_it_is_over(play: Callable) -> None:
    """An agent that names a problem gets no run until the problem is gone."""

    async def story(fleet: Fleet) -> None:
        session = await fleet.connect("d0", problem="the disk is full")
        await fleet.tick()
        assert await fleet.orders(session) == []
        fleet.coordinator.heard(session, ())
        command = await session.commands.get()
        assert isinstance(command, Assign)

    play(story)


def test_a_campaign_that_cannot_be_handled_is_set_aside(play: Callable, store: SqlStore) -> None:
    """A queued job without an artifact fails its campaign with the reason, and the next campaign goes on."""
    add_campaign(store, "broken", artifact=None)
    store.cancel_campaign("c1", 2.0)
    add_campaign(store, "good")

    async def story(fleet: Fleet) -> None:
        session = await fleet.connect("d0")
        (order,) = await fleet.orders(session)
        assert order.job.campaign_id == "good"

    play(story)
    assert store.campaign("broken").state is CampaignState.FAILED
    assert "queued without an artifact" in store.jobs("broken")[0].failure_message
    assert {run.state for run in store.runs("broken")} == {RunState.CANCELLED}


def test_where_the_store_differs_it_wins(play: Callable, store: SqlStore) -> None:
    """A run that the store has leased already is not assigned again, and the device gets the next one."""

    async def story(fleet: Fleet) -> None:
        tracked = await fleet.coordinator.campaign("c1")
        first = tracked.next_run("d0")
        assert first is not None
        store.cancel_campaign("c1", 2.0)
        session = await fleet.connect("d0")
        assert await fleet.orders(session) == []
        assert tracked.runs[first.run_id].state is RunState.CANCELLED

    play(story)


@pytest.mark.parametrize("is_known", [True, False])
def test_a_run_goes_on_where_it_was_requeued_meanwhile(play: Callable, store: SqlStore, is_known: bool) -> None:
    """A device goes on with a run that was requeued meanwhile, and drops an unknown run."""
    run = next(run for run in store.runs("c1") if store.job(run.job_id).device_id == "d0")
    assign(store, run.run_id, "lease")
    store.release_run(run.run_id, "it was lost", 2.0)

    async def story(fleet: Fleet) -> None:
        session = await fleet.connect("d0", run.run_id if is_known else "unknown")
        orders = await fleet.orders(session)
        if is_known:
            assert orders == []
            assert store.run(run.run_id) == replace(run, state=RunState.LEASED, attempt=1)
            assert await fleet.coordinator.record_result(result(run.run_id), "lease")
        else:
            assert orders[0] == CancelRun("unknown")
            assert isinstance(orders[1], Assign)

    play(story)


def test_a_damaged_run_takes_no_board_from_the_others(
    play: Callable, store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a batch of leases fails, each is tried alone, and only the damaged campaign is set aside."""
    add_campaign(store, "c2")
    lease = store.lease_runs
    damaged = {run.run_id for run in store.runs("c1") if store.job(run.job_id).device_id == "d0"}

    def breaks(leases: Any, now_s: float) -> Any:
        if damaged & {entry.run_id for entry in leases}:
            raise ValueError("'foo' is not a valid JobState")
        return lease(leases, now_s)

    async def story(fleet: Fleet) -> None:
        monkeypatch.setattr(store, "lease_runs", breaks)
        sessions = [await fleet.connect("d0"), await fleet.connect("d1")]
        orders = [order for session in sessions for order in await fleet.orders(session) if isinstance(order, Assign)]
        assert {order.job.device_id for order in orders} == {"d0", "d1"}
        assert {order.job.campaign_id for order in orders} == {"c2"}

    play(story)
    assert store.campaign("c1").state is CampaignState.FAILED


def test_two_hiccups_in_a_row_forget_no_device(
    play: Callable, store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device gets its run although the lease and the next reading failed."""
    lease, read = store.lease_runs, store.campaign
    fails = {"lease": True, "read": True}

    def lease_later(*arguments: Any) -> Any:
        if fails.pop("lease", False):
            raise StoreBusyError("the database is locked")
        return lease(*arguments)

    def read_later(campaign_id: str) -> Any:
        if fails.pop("read", False):
            raise StoreBusyError("the database is locked")
        return read(campaign_id)

    async def story(fleet: Fleet) -> None:
        monkeypatch.setattr(store, "lease_runs", lease_later)
        monkeypatch.setattr(store, "campaign", read_later)
        monkeypatch.setattr(fleet.coordinator._ledger._health, "is_due", lambda: True)
        session = await fleet.connect("d0")
        orders = []
        for _ in range(3):
            await fleet.tick()
            orders += await fleet.orders(session)
        assert (fails, [order.job.device_id for order in orders]) == ({}, ["d0"])

    play(story)


def test_a_removed_campaign_frees_its_devices(play: Callable, store: SqlStore) -> None:
    """A device whose campaign was removed from the database gets the next run."""
    add_campaign(store, "c2")

    async def story(fleet: Fleet) -> None:
        session = await fleet.connect("d0")
        (order,) = await fleet.orders(session)
        with store._transactions.write() as sql:
            sql.execute(text("DELETE FROM runs WHERE job_id IN (SELECT job_id FROM jobs WHERE campaign_id = 'c1')"))
            for table in ("jobs", "builds", "campaigns"):
                sql.execute(text(f"DELETE FROM {table} WHERE campaign_id = 'c1'"))
        with pytest.raises(NotFoundError):
            await fleet.coordinator.record_result(result(order.run.run_id), order.lease_id)
        fleet.coordinator._ledger._unsure.add("c1")  # a decision about it failed
        await fleet.tick()
        assert [order.job.campaign_id for order in await fleet.orders(session) if isinstance(order, Assign)] == ["c2"]

    play(story)
