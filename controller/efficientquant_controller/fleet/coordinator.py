"""The fleet's decisions on sessions, leases, results and campaigns.

One task makes every change, in the store first and then in memory. So a cut connection leaves nothing half done, and a
controller that is killed at any point recovers from the database.
"""

import asyncio
import logging
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import partial

from efficientquant_controller.errors import FleetError, LeaseLostError, StoreError, UnstorableError, UserError
from efficientquant_controller.fleet.campaigns import TrackedCampaign
from efficientquant_controller.fleet.dispatcher import Dispatcher
from efficientquant_controller.fleet.ledger import DAMAGED, Ledger, StoreHealth
from efficientquant_controller.fleet.liveness import CancelRun, Liveness, Progress, Session, Supersede
from efficientquant_controller.fleet.owner import Owner, retrieve_error
from efficientquant_controller.fleet.upkeep import Upkeep
from efficientquant_controller.model import (
    Build,
    Campaign,
    CampaignState,
    Device,
    DeviceSnapshot,
    Run,
    RunResult,
    RunState,
)
from efficientquant_controller.store.base import Committed, Report, Store

LOG = logging.getLogger(__name__)
# One transaction commits up to this many reports. More would delay the first answers.
BATCH = 64


@dataclass(eq=False)
class _Waiting:
    """A report that waits for its commit."""

    report: Report
    answer: "asyncio.Future[Committed]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Coordinator:
    """The coordinator that assigns runs of unfinished campaigns to connected devices."""

    def __init__(self, store: Store, lease_s: float) -> None:
        self._store = store
        self._owner = Owner()
        self._health = StoreHealth()
        self._liveness = Liveness(lease_s)
        self._ledger = Ledger(store, self._freed, self._health)
        self._dispatcher = Dispatcher(store, self._ledger, self._liveness)
        self._changed = asyncio.Event()
        self._reports: list[_Waiting] = []
        self._reported: set[str] = set()  # runs whose devices need not be stopped
        self._upkeep = Upkeep(store, self._ledger, self._liveness, self._dispatcher, self._health)

    # queries

    @property
    def problem(self) -> str:
        """The current trouble with the store, or ""."""
        return self._health.problem

    def session(self, device_id: str) -> Session | None:
        """Return the device's open session, or None."""
        return self._liveness.session(device_id)

    def device_state(self, device_id: str) -> str:
        """Return "idle", "busy" or "offline"."""
        if self._liveness.session(device_id) is None:
            return "offline"
        return "busy" if self._ledger.leased_on(device_id) else "idle"

    def connected(self) -> list[Device]:
        """Return the devices with an open session, sorted by name."""
        return sorted((session.device for session in self._liveness.sessions()), key=lambda device: device.name or "")

    async def campaign(self, campaign_id: str) -> TrackedCampaign:
        """Return a campaign in its current state.

        "latest" is the campaign created last. Raises NotFoundError when it does not exist.
        """
        return await self._ledger.campaign(campaign_id)

    def next_change(self) -> asyncio.Event:
        """Return an event that the next change sets."""
        return self._changed

    def require_store(self) -> None:
        """Raise StoreError while the database cannot be written."""
        self._health.require()

    def close(self) -> None:
        """Stop the threads of the store's calls."""
        self._ledger.close()

    # campaigns

    async def recover(self) -> list[TrackedCampaign]:
        """Resume every unfinished campaign and return those that still need builds."""
        await self._ledger.recover()
        for device_id in self._ledger.devices_with_runs():
            self._liveness.expect(device_id, time.monotonic())
        return [tracked for tracked in self._ledger.active() if tracked.campaign.state is CampaignState.BUILDING]

    async def start(self, tracked: TrackedCampaign) -> None:
        """Record a new campaign with all its builds, jobs and runs."""
        await self._owner.do(partial(self._ledger.add, tracked))
        self._announce()

    async def build_moved(self, tracked: TrackedCampaign, build: Build) -> None:
        """Record a build's new state."""
        await self._owner.do(partial(self._move_build, tracked, build))

    async def builds_done(self, tracked: TrackedCampaign) -> None:
        """Start a campaign's runs after its last build has ended."""
        await self._owner.do(partial(self._begin_running, tracked))

    async def cancel(self, campaign_id: str) -> Campaign:
        """Cancel a campaign and stop its runs on devices.

        An ended campaign stays as it is. Raises NotFoundError when the campaign does not exist.
        """
        return await self._owner.do(partial(self._cancel, campaign_id))

    # sessions

    async def open_session(
        self,
        device_id: str,
        name: str,
        agent_version: str,
        epoch: int,
        snapshot: DeviceSnapshot,
        active_run_ids: Collection[str],
        problem: str = "",
    ) -> Session:
        """Register a device and open its session.

        Raises NameTakenError when another device has the name, and StaleSessionError when the epoch is not new.
        """

        async def open_it() -> Session:
            self._health.require()
            hello = (device_id, name, agent_version, epoch, snapshot, time.time())
            device = await self._ledger.write(self._store.register_device, *hello)
            session = Session(device, frozenset(active_run_ids), problem)
            await self._begin_session(session)
            return session

        opening = self._owner.begin(open_it)
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:  # nobody serves the session any more
            opening.add_done_callback(self._close_unserved)
            raise

    def close_session(self, session: Session) -> None:
        """Close a session after its connection was lost.

        The device keeps its run until its lease expires. Nothing waits for the store, which may be busy.
        """
        if self._liveness.close(session):
            LOG.info("%s disconnected", session.device.name)
            self._upkeep.touch(session.device_id)
            self._announce()
            if self._ledger.leased_on(session.device_id):
                self._owner.begin(partial(self._note_disconnected, session.device))

    def heard(self, session: Session, active_run_ids: Collection[str], problem: str = "") -> None:
        """Record a heartbeat."""
        session.heard()
        session.active_run_ids = frozenset(active_run_ids)
        if session.problem and not problem:
            self._dispatcher.stir(session.device_id)
            self._owner.begin(self._dispatch)
        session.problem = problem

    def progressed(self, session: Session, progress: Progress) -> None:
        """Record a run's progress."""
        session.heard()
        session.progress = progress
        self._announce()

    async def watch_leases(self) -> None:
        """Close silent sessions and requeue runs of lost devices.

        Runs until cancelled. Checks at least once a second and four times per lease. Raises LeaseLostError when another
        controller has taken over.
        """
        logged = ""
        while True:
            await asyncio.sleep(min(1.0, self._liveness.lease_s / 4))
            check = self._owner.begin(partial(self._check_leases, time.monotonic()))
            await asyncio.wait({check})
            error = check.exception()
            if isinstance(error, LeaseLostError):
                raise error
            if repr(error) not in (repr(None), logged):  # one bug must not stop the fleet
                LOG.error("bug in the controller, please report it", exc_info=error)
                logged = repr(error)

    # results

    async def record_result(self, result: RunResult, lease_id: str = "", sha256: str = "") -> bool:
        """Commit a run's result and return False for a duplicate.

        `sha256` is that of the bytes on the wire. Raises UserError when the run does not exist, was never leased to
        this device, or the result can never be stored, and StoreError when a retry can help.
        """
        waiting = _Waiting(Report(result, lease_id, sha256))
        waiting.answer.add_done_callback(retrieve_error)
        self._reports.append(waiting)
        self._owner.begin(self._commit_waiting)
        return (await asyncio.shield(waiting.answer)).new

    # the owner's task calls the methods below

    async def _move_build(self, tracked: TrackedCampaign, build: Build) -> None:
        if self._ledger.is_active(tracked.campaign_id):
            await self._ledger.change(tracked.campaign_id, self._store.move_build, build, time.time())
            self._announce()

    async def _begin_running(self, tracked: TrackedCampaign) -> None:
        if self._ledger.is_active(tracked.campaign_id):
            await self._ledger.change(tracked.campaign_id, self._store.begin_running, tracked.campaign_id, time.time())
            self._dispatcher.stir_all(tracked.campaign.devices)
            await self._dispatch()

    async def _cancel(self, campaign_id: str) -> Campaign:
        campaign = (await self._ledger.campaign(campaign_id)).campaign
        if not campaign.state.ended:
            campaign_id = campaign.campaign_id
            changes = await self._ledger.change(campaign_id, self._store.cancel_campaign, campaign_id, time.time())
            campaign = changes.campaign or campaign
            await self._dispatch()
        return campaign

    async def _begin_session(self, session: Session) -> None:
        device = session.device
        older = self._liveness.open(session)
        if older is not None:
            older.commands.put_nowait(Supersede(device.session_epoch))
            older.commands.put_nowait(None)
        LOG.info("%s connected (device %s)", device.name, device.device_id)
        self._dispatcher.place(device.device_id, device.snapshot.board_id)
        try:
            await self._reconcile(session)
        except (FleetError, *DAMAGED) as error:  # the session lives, and the next check of the leases does the rest
            LOG.warning("runs of %s are not compared yet: %s", device.name, error)
        await self._dispatch()

    def _close_unserved(self, opening: "asyncio.Future[Session]") -> None:
        if not opening.cancelled() and opening.exception() is None:
            self.close_session(opening.result())

    async def _note_disconnected(self, device: Device) -> None:
        if lease := self._ledger.leased_on(device.device_id):
            message = f"{device.name} disconnected in the middle of a run"
            try:
                await self._ledger.note(lease[0], "disconnected", message, device.device_id)
            except StoreError:  # an event only; the trouble itself is logged
                LOG.info("campaign %s: %s", lease[0].campaign_id, message)

    async def _commit_waiting(self) -> None:
        batch, self._reports = self._reports[:BATCH], self._reports[BATCH:]
        if batch:
            try:
                await self._commit(batch)
            finally:  # whatever happened, every caller gets an answer
                for waiting in batch:
                    if not waiting.answer.done():
                        waiting.answer.set_exception(FleetError("the result was not handled; send it again"))
            await self._dispatch()

    async def _commit(self, batch: Sequence[_Waiting]) -> None:
        places = [self._ledger.find(waiting.report.result.run_id) for waiting in batch]
        campaign_ids = {place[0].campaign_id for place in places if place}
        reports = [waiting.report for waiting in batch]
        try:
            answers = await self._ledger.decide(campaign_ids, self._store.commit_reports, reports, time.time())
        except StoreError as error:
            for waiting in batch:
                waiting.answer.set_exception(error)
            return
        except DAMAGED as error:  # a damaged campaign must not refuse the others' reports
            await self._commit_alone(batch, error)
            return
        for waiting, answer in zip(batch, answers, strict=True):
            if isinstance(answer, UserError):
                waiting.answer.set_exception(answer)
                continue
            self._reported = {waiting.report.result.run_id} if answer.is_current else set()
            self._ledger.copy(answer.changes)
            if answer.refusal is None:
                waiting.answer.set_result(answer)
            else:
                waiting.answer.set_exception(answer.refusal)
        self._reported = set()

    async def _commit_alone(self, batch: Sequence[_Waiting], error: Exception) -> None:
        """Commit each report alone, and set aside the damaged campaign."""
        if len(batch) > 1:
            for waiting in batch:
                await self._commit([waiting])
            return
        [waiting] = batch
        run_id = waiting.report.result.run_id
        waiting.answer.set_exception(UnstorableError(f"the campaign of run {run_id} is damaged: {error!r}"))
        if (place := self._ledger.find(run_id)) is not None:
            await self._dispatcher.set_aside(place[0], error)

    def _freed(self, device_id: str, run: Run) -> None:
        """Follow a run that is no longer leased."""
        self._dispatcher.stir(device_id)
        session = self._liveness.session(device_id)
        if session is not None and run.state is not RunState.PLANNED and run.run_id not in self._reported:
            session.commands.put_nowait(CancelRun(run.run_id))

    async def _dispatch(self) -> None:
        await self._dispatcher.dispatch()
        self._announce()

    async def _reconcile(self, session: Session) -> None:
        """Compare the runs of a device with those that it should have.

        A leased run that it lacks is requeued, and its unwanted runs are stopped. A run that was requeued while its
        device was away goes on there.
        """
        lease = self._ledger.leased_on(session.device_id)
        if lease is not None and lease[1].run_id not in session.active_run_ids:
            await self._release(*lease, f"{session.device.name} came back without its run; it is run again")
        for run_id in sorted(session.active_run_ids):
            lease = self._ledger.leased_on(session.device_id)
            if lease is None and await self._dispatcher.resume(session, run_id):
                continue
            if lease is None or lease[1].run_id != run_id:
                session.commands.put_nowait(CancelRun(run_id))

    async def _release(self, tracked: TrackedCampaign, run: Run, why: str) -> None:
        await self._ledger.change(tracked.campaign_id, self._store.release_run, run.run_id, why, time.time())

    async def _check_leases(self, now_s: float) -> None:
        self._upkeep.close_silent(now_s)
        try:
            await self._upkeep.check(now_s)
        except LeaseLostError:
            raise
        except StoreError:  # the ledger has said so
            return
        await self._dispatch()

    def _announce(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
