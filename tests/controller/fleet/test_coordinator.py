"""Tests of the coordinator under trouble: stores that refuse, forged and late reports, failures that pass."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from efficientquant_controller.errors import LeaseLostError, StoreError, UnstorableError, UserError
from efficientquant_controller.fleet.campaigns import TrackedCampaign
from efficientquant_controller.fleet.liveness import Assign, CancelRun
from efficientquant_controller.model import CampaignState, JobState, RunState
from efficientquant_controller.store.base import MAX_ATTEMPTS
from efficientquant_controller.store.sql import SqlStore
from small_fleet import CAMPAIGN, Fleet, result


def refuse(*_: Any) -> None:
    raise StoreError("the database is locked")


def test_the_controller_outlives_a_store_that_refuses(
    play: Callable, store: SqlStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """While the store refuses, sessions stay and reports are refused, and all goes on when it is over."""
    caplog.set_level(logging.INFO)

    async def story(fleet: Fleet) -> None:
        session = await fleet.connect("d0")
        (order,) = await fleet.orders(session)
        session.active_run_ids = frozenset({order.run.run_id})
        with monkeypatch.context() as patch:
            patch.setattr(store, "commit_reports", refuse)
            patch.setattr(store, "renew", refuse)
            for _ in range(3):
                with pytest.raises(StoreError, match="is locked"):
                    await fleet.coordinator.record_result(result(order.run.run_id), order.lease_id)
                await fleet.tick()
            with pytest.raises(StoreError, match="is locked"):
                fleet.coordinator.require_store()
        assert fleet.coordinator.session("d0") is session
        fleet.coordinator._health._next_attempt_s = 0.0
        await fleet.tick()
        assert fleet.coordinator.problem == ""
        assert await fleet.coordinator.record_result(result(order.run.run_id), order.lease_id)

    play(story)
    assert caplog.text.count("the database is locked") == 1
    assert "the database can be written again" in caplog.text


def test_losing_the_database_to_another_controller_ends_this_one(
    play: Callable, store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A controller whose database another one has taken over stops."""

    def lost() -> None:
        raise LeaseLostError("another controller has taken over")

    async def story(fleet: Fleet) -> None:
        monkeypatch.setattr(store, "renew", lost)
        fleet.coordinator._upkeep._renewed_s -= 100
        with pytest.raises(LeaseLostError):
            await fleet.coordinator.watch_leases()

    play(story)


def test_a_result_of_a_run_that_was_never_assigned_is_refused(play: Callable, store: SqlStore) -> None:
    """A result for a planned run is refused, and the run stays planned."""
    run = store.runs("c1")[0]

    async def story(fleet: Fleet) -> None:
        with pytest.raises(UserError, match="was never assigned"):
            await fleet.coordinator.record_result(result(run.run_id, store.job(run.job_id).device_id))

    play(story)
    assert store.run(run.run_id) == run


def test_a_passing_failure_is_tried_again_up_to_the_limit(play: Callable, store: SqlStore) -> None:
    """A run whose artifact could not be fetched is assigned again, and fails at the last attempt."""

    async def story(fleet: Fleet) -> None:
        session = await fleet.connect("d0")
        for attempt in range(1, MAX_ATTEMPTS + 1):
            (order,) = [command for command in await fleet.orders(session) if isinstance(command, Assign)]
            assert order.run.attempt == attempt
            failed = result(order.run.run_id, attempt=attempt, failure_type="artifact_unavailable", latency_s=())
            await fleet.coordinator.record_result(failed, order.lease_id)
        assert store.run(order.run.run_id).state is RunState.FAILED
        assert store.job(order.run.job_id).state is JobState.FAILED

    play(story)


def test_many_reports_share_a_commit(play: Callable, store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports that wait at the same time are committed in one transaction, and a bad one affects no other."""
    sizes = []
    commit = store.commit_reports

    def counted(reports: Any, now_s: float) -> Any:
        sizes.append(len(reports))
        return commit(reports, now_s)

    async def story(fleet: Fleet) -> None:
        monkeypatch.setattr(store, "commit_reports", counted)
        sessions = [await fleet.connect("d0"), await fleet.connect("d1")]
        orders = [order for session in sessions for order in await fleet.orders(session)]
        reports = [(result(order.run.run_id, order.job.device_id), order.lease_id) for order in orders]
        reports.append((result("unknown"), ""))
        calls = [fleet.coordinator.record_result(*report) for report in reports]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert answers[:2] == [True, True]
        assert isinstance(answers[2], UserError)

    play(story)
    assert sizes == [3]


def test_a_bug_with_one_report_refuses_no_other(
    play: Callable, store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a batch meets damaged rows, each report is committed alone, and the campaign is set aside."""
    commit = store.commit_reports

    def breaks(reports: Any, now_s: float) -> Any:
        if any(report.sha256 == "bad" for report in reports):
            raise RuntimeError("a bug")
        return commit(reports, now_s)

    async def story(fleet: Fleet) -> None:
        monkeypatch.setattr(store, "commit_reports", breaks)
        session = await fleet.connect("d0")
        (order,) = await fleet.orders(session)
        calls = [
            fleet.coordinator.record_result(result(order.run.run_id), order.lease_id, sha256)
            for sha256 in ("bad", "good")
        ]
        bad, good = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(bad, UnstorableError)
        assert good is True

    play(story)
    assert store.campaign("c1").state is CampaignState.FAILED


def test_a_late_result_stops_the_attempt_that_replaced_it(play: Callable) -> None:
    """A result of an earlier lease is welcome, and the device must stop the newer attempt."""

    async def story(fleet: Fleet) -> None:
        session = await fleet.connect("d0")
        (first,) = await fleet.orders(session)
        session = await fleet.connect("d0")  # it came back without its run
        (second,) = await fleet.orders(session)
        assert (second.run.run_id, second.run.attempt) == (first.run.run_id, 2)
        assert await fleet.coordinator.record_result(result(first.run.run_id), first.lease_id)
        assert (await fleet.orders(session))[0] == CancelRun(first.run.run_id)

    play(story)


def test_a_session_that_nobody_serves_is_closed(
    play: Callable, store: SqlStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A session whose call was cancelled while it opened does not stay open."""
    caplog.set_level(logging.INFO)

    async def story(fleet: Fleet) -> None:
        begun, register = asyncio.Event(), store.register_device
        loop = asyncio.get_running_loop()

        def slow(*hello: Any) -> Any:
            loop.call_soon_threadsafe(begun.set)
            return register(*hello)

        monkeypatch.setattr(store, "register_device", slow)
        opening = asyncio.create_task(fleet.connect("d0"))
        await begun.wait()
        opening.cancel()
        await asyncio.wait({opening})
        await fleet.tick()
        await fleet.coordinator._owner.do(fleet.coordinator._dispatch)
        assert fleet.coordinator.device_state("d0") == "offline"
        assert caplog.messages.count("device-0 disconnected") == 1

    play(story)


def test_a_campaign_whose_answer_was_lost_is_cancelled(
    play: Callable, store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A campaign that was stored although its client was refused does not run."""
    create = store.create_campaign

    def lost(*arguments: Any) -> None:
        create(*arguments)
        raise StoreError("the connection was lost")

    async def story(fleet: Fleet) -> None:

        monkeypatch.setattr(store, "create_campaign", lost)
        with pytest.raises(StoreError):
            await fleet.coordinator.start(TrackedCampaign(replace(CAMPAIGN, campaign_id="c2"), [], [], []))
        fleet.coordinator._health._next_attempt_s = 0.0
        await fleet.tick()

    play(story)
    assert store.campaign("c2").state is CampaignState.CANCELLED


def test_a_read_that_fails_does_not_stop_the_fleet(
    play: Callable, store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A query that the database refuses concerns its caller only."""

    async def story(fleet: Fleet) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(store, "campaign", refuse)
            with pytest.raises(StoreError):
                await fleet.coordinator.campaign("another")
        assert fleet.coordinator.problem == ""

    play(story)


def test_other_failures_do_not_put_the_next_attempt_off(play: Callable) -> None:
    """While the database refuses, only the controller's own attempt decides on the next one."""

    async def story(fleet: Fleet) -> None:
        health = fleet.coordinator._health
        health.failed(StoreError("locked"))
        due_s = health._next_attempt_s
        health.failed(StoreError("locked"))
        assert health._next_attempt_s == due_s

    play(story)
