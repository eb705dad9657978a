"""The fleet's decisions on sessions, leases, results and campaigns.

Every change happens on one event loop under one lock. It is stored before it reaches memory or the wire, so a
controller that is killed at any point recovers from the database.
"""

import asyncio
import logging
import time
from collections.abc import Collection

from efficientquant_controller.errors import UserError
from efficientquant_controller.fleet.campaigns import TrackedCampaign
from efficientquant_controller.fleet.ledger import Ledger
from efficientquant_controller.fleet.liveness import Assign, CancelRun, Liveness, Progress, Session, Supersede
from efficientquant_controller.fleet.scheduling import MAX_ATTEMPTS, is_free, next_run
from efficientquant_controller.model import (
    Backend,
    Build,
    Campaign,
    CampaignState,
    Device,
    DeviceSnapshot,
    Job,
    Run,
    RunResult,
)
from efficientquant_controller.store.base import Store

LOG = logging.getLogger(__name__)
TOUCH_INTERVAL_S = 30.0


class Coordinator:
    """The coordinator that assigns runs of unfinished campaigns to connected devices."""

    def __init__(self, store: Store, lease_s: float) -> None:
        self._store = store
        self._lock = asyncio.Lock()
        self._liveness = Liveness(lease_s)
        self._ledger = Ledger(store, self._tell_to_stop)
        self._db = self._ledger.db
        self._changed = asyncio.Event()

    # queries

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

    # campaigns

    async def recover(self) -> list[TrackedCampaign]:
        """Resume every unfinished campaign and return those that still need builds."""
        await self._ledger.recover()
        for device_id in self._ledger.devices_with_runs():
            self._liveness.expect(device_id, time.monotonic())
        return [tracked for tracked in self._ledger.active() if tracked.campaign.state is CampaignState.BUILDING]

    async def start(self, tracked: TrackedCampaign) -> None:
        """Record a new campaign with all its builds, jobs and runs."""
        async with self._lock:
            await self._ledger.add(tracked)
            self._announce()

    async def build_moved(self, tracked: TrackedCampaign, build: Build) -> None:
        """Record a build's new state."""
        async with self._lock:
            await self._ledger.move_build(tracked, build)
            self._announce()

    async def builds_done(self, tracked: TrackedCampaign) -> None:
        """Start a campaign's runs after its last build has ended."""
        async with self._lock:
            await self._ledger.begin_running(tracked)
            await self._dispatch()

    async def cancel(self, campaign_id: str) -> Campaign:
        """Cancel a campaign and stop its runs on devices.

        An ended campaign stays as it is. Raises NotFoundError when the campaign does not exist.
        """
        async with self._lock:
            campaign = await self._ledger.cancel(campaign_id)
            await self._dispatch()
            return campaign

    # sessions

    async def open_session(
        self,
        device_id: str,
        name: str,
        agent_version: str,
        epoch: int,
        snapshot: DeviceSnapshot,
        active_run_ids: Collection[str],
    ) -> Session:
        """Register a device and open its session.

        Raises NameTakenError when another device has the name, and StaleSessionError when the epoch is not new.
        """
        async with self._lock:
            device = await self._db(
                self._store.register_device, device_id, name, agent_version, epoch, snapshot, time.time()
            )
            session = Session(device, frozenset(active_run_ids))
            older = self._liveness.open(session)
            if older is not None:
                older.commands.put_nowait(Supersede(epoch))
                older.commands.put_nowait(None)
            LOG.info("%s connected (device %s)", name, device_id)
            await self._reconcile(session)
            await self._dispatch()
            return session

    async def close_session(self, session: Session) -> None:
        """Close a session after its connection was lost.

        The device keeps its run until its lease expires.
        """
        async with self._lock:
            if not self._liveness.close(session):
                return
            device = session.device
            LOG.info("%s disconnected", device.name)
            await self._db(self._store.touch_device, device.device_id, time.time())
            if lease := self._ledger.leased_on(device.device_id):
                tracked, _ = lease
                message = f"{device.name} disconnected in the middle of a run"
                await self._ledger.note(tracked, "disconnected", message, device)
            self._announce()

    def heard(self, session: Session, active_run_ids: Collection[str]) -> None:
        """Record a heartbeat."""
        session.heard()
        session.active_run_ids = frozenset(active_run_ids)

    def progressed(self, session: Session, progress: Progress) -> None:
        """Record a run's progress."""
        session.heard()
        session.progress = progress
        self._announce()

    async def watch_leases(self) -> None:
        """Close silent sessions and requeue runs of lost devices.

        Runs until cancelled. Checks at least once a second and four times per lease.
        """
        while True:
            await asyncio.sleep(min(1.0, self._liveness.lease_s / 4))
            async with self._lock:
                await self._check_leases(time.monotonic())

    # results

    async def record_result(self, result: RunResult) -> bool:
        """Commit a run's result and return False for a duplicate.

        Raises UserError when the run does not exist or belongs to another device, or the result cannot be recorded.
        """
        async with self._lock:
            run = await self._db(self._store.run, result.run_id)
            job = await self._db(self._store.job, run.job_id)
            if job.device_id != result.device_id:
                raise UserError(f"run {run.run_id} belongs to device {job.device_id}, not to {result.device_id}")
            new = await self._commit(result)
            tracked = next((active for active in self._ledger.active() if active.campaign_id == job.campaign_id), None)
            if new and tracked is not None:
                await self._ledger.follow_result(tracked, tracked.runs[run.run_id], result)
            await self._dispatch()
            return new

    # the methods below are called with the lock held

    async def _commit(self, result: RunResult) -> bool:
        try:
            return await self._db(self._store.record_result, result, time.time())
        except ValueError as error:  # a retry cannot help: on UserError the agent sets the result aside
            raise UserError(f"the result of run {result.run_id} cannot be recorded: {error}") from error

    async def _dispatch(self) -> None:
        boards = {session.device_id: session.device.snapshot.board_id for session in self._liveness.sessions()}
        busy = {(device_id, boards.get(device_id, "")) for device_id in self._ledger.devices_with_runs()}
        for session in sorted(self._liveness.sessions(), key=lambda session: session.last_assigned_s):
            place = (session.device_id, boards[session.device_id])
            if is_free(*place, busy) and await self._assign_next(session):
                busy.add(place)
        self._announce()

    async def _assign_next(self, session: Session) -> bool:
        for tracked in self._ledger.active():
            if tracked.campaign.state is not CampaignState.RUNNING:
                continue
            while run := next_run(tracked.runs_on(session.device_id), tracked.jobs):
                job = tracked.jobs[run.job_id]
                if run.attempt < MAX_ATTEMPTS:
                    await self._assign(session, tracked, job, run)
                    return True
                await self._ledger.give_up(tracked, job, run)
        return False

    async def _assign(self, session: Session, tracked: TrackedCampaign, job: Job, run: Run) -> None:
        artifact = await self._ledger.artifact(tracked, job)
        leased = await self._ledger.lease(tracked, run)
        session.progress = None
        session.last_assigned_s = time.monotonic()
        order = Assign(leased, job, artifact, _backend(session.device, job), tracked.campaign.measurement)
        session.commands.put_nowait(order)

    async def _reconcile(self, session: Session) -> None:
        """Requeue leased runs that the device lacks and stop its unwanted runs."""
        wanted = set()
        while lease := self._ledger.leased_on(session.device_id):
            tracked, run = lease
            if run.run_id in session.active_run_ids:
                wanted.add(run.run_id)
                break
            await self._ledger.release(tracked, run, session.device, "came back without its run; it is run again")
        for run_id in session.active_run_ids - wanted:
            session.commands.put_nowait(CancelRun(run_id))

    async def _check_leases(self, now_s: float) -> None:
        for session in self._liveness.silent(now_s):
            session.commands.put_nowait(None)
            self._liveness.close(session)
        for device_id in self._liveness.take_expired(now_s):
            if lease := self._ledger.leased_on(device_id):
                device = await self._db(self._store.device, device_id)
                await self._ledger.release(*lease, device, "was lost in the middle of a run; the run waits for it")
        for session in self._liveness.sessions():
            await self._check_session(session, now_s)
        await self._dispatch()

    async def _check_session(self, session: Session, now_s: float) -> None:
        if now_s - session.last_touched_s > TOUCH_INTERVAL_S:
            session.last_touched_s = now_s
            await self._db(self._store.touch_device, session.device_id, time.time())
        lease = self._ledger.leased_on(session.device_id)
        if lease is None:
            return
        _, run = lease
        if run.run_id in session.active_run_ids:
            return
        if now_s - session.last_assigned_s > self._liveness.lease_s:
            await self._ledger.release(*lease, session.device, "does not know of its run; it is run again")

    def _tell_to_stop(self, device_id: str, run_id: str) -> None:
        session = self._liveness.session(device_id)
        if session is not None:
            session.commands.put_nowait(CancelRun(run_id))

    def _announce(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _backend(device: Device, job: Job) -> Backend:
    """Return the backend of a planned job.

    A job of an earlier release gets the device's preferred backend. A backend that the device no longer has gets only
    its name.
    """
    return device.snapshot.backend(job.backend) or Backend(job.backend, "")
