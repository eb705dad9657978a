"""The fleet's one decision maker: sessions come and go, runs are leased, results are committed, campaigns end.

Everything happens on one event loop under one lock, and is in the store before it is in memory or on the wire: a
controller that is killed at any point finds its way from the database.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

from efficientquant_controller.errors import FleetError, NotFoundError, UserError
from efficientquant_controller.fleet.campaigns import ENDED_JOB, ENDED_RUN, CampaignView
from efficientquant_controller.fleet.liveness import Assign, CancelRun, Liveness, Progress, Session, Supersede
from efficientquant_controller.fleet.scheduling import MAX_ATTEMPTS, is_free, next_run, settled_state
from efficientquant_controller.model import (
    Artifact,
    Build,
    Campaign,
    CampaignState,
    Device,
    DeviceSnapshot,
    Event,
    Job,
    JobState,
    Run,
    RunResult,
    RunState,
)
from efficientquant_controller.store.base import Store

LOG = logging.getLogger(__name__)
Answer = TypeVar("Answer")
TOUCH_INTERVAL_S = 30.0


class Coordinator:
    """Owns the sessions and the campaigns that have not ended."""

    def __init__(self, store: Store, lease_s: float) -> None:
        self._store = store
        self._lock = asyncio.Lock()
        self._liveness = Liveness(lease_s)
        self._active: dict[str, CampaignView] = {}
        self._artifacts: dict[str, Artifact] = {}
        self._changed = asyncio.Event()

    # what there is

    def session(self, device_id: str) -> Session | None:
        """The device's open session."""
        return self._liveness.session(device_id)

    def device_state(self, device_id: str) -> str:
        """Answer "idle", "busy" or "offline"."""
        if self._liveness.session(device_id) is None:
            return "offline"
        return "busy" if self._leased_on(device_id) else "idle"

    def connected(self) -> list[Device]:
        """The devices with an open session, by name."""
        return sorted((one.device for one in self._liveness.sessions()), key=lambda one: one.name or "")

    async def view(self, campaign_id: str) -> CampaignView:
        """A campaign as it stands; "latest" is the one created last."""
        campaign = await self._db(self._store.campaign, campaign_id)
        return self._active.get(campaign.campaign_id) or await self._load(campaign)

    async def changed(self) -> None:
        """Wait until anything changes."""
        await self._changed.wait()

    # campaigns

    async def recover(self) -> list[CampaignView]:
        """Take up every campaign that has not ended; returns those whose artifacts are not all built."""
        for campaign in reversed(await self._db(self._store.campaigns)):
            if campaign.state.ended:
                continue
            view = self._active[campaign.campaign_id] = await self._load(campaign)
            await self._mend(view)
        return [one for one in self._active.values() if one.campaign.state is CampaignState.BUILDING]

    async def start(self, view: CampaignView) -> None:
        """Record a new campaign whole."""
        async with self._lock:
            parts = list(view.builds.values()), list(view.jobs.values()), list(view.runs.values())
            await self._db(self._store.create_campaign, view.campaign, *parts)
            self._active[view.campaign_id] = view
            self._announce()

    async def build_moved(self, view: CampaignView, build: Build) -> None:
        """Record where a build stands now, and let its jobs follow."""
        async with self._lock:
            if view.campaign_id not in self._active:
                return
            facts = (build.model, build.recipe, build.state, build.message, build.artifact_sha256)
            await self._db(self._store.set_build_state, view.campaign_id, *facts)
            view.builds[build.model, build.recipe] = build
            for job in view.jobs_of_build(build):
                if job.state is JobState.PENDING and build.state == "ready":
                    await self._move_job(view, job, JobState.QUEUED)
                elif job.state is JobState.PENDING and build.state == "failed":
                    await self._fail_job(view, job, "quantization_failed", build.message)
            self._announce()

    async def builds_done(self, view: CampaignView) -> None:
        """All artifacts are there or have failed: the devices may start."""
        async with self._lock:
            if view.campaign_id in self._active:
                await self._move_campaign(view, CampaignState.RUNNING)
                await self._settle_campaign(view)
                await self._dispatch()

    async def cancel(self, campaign_id: str) -> Campaign:
        """End a campaign now; runs on devices are told to stop. Harmless for one that has ended."""
        async with self._lock:
            campaign = await self._db(self._store.campaign, campaign_id)
            view = self._active.get(campaign.campaign_id)
            if view is None:
                return campaign
            for run in [one for one in view.runs.values() if one.state not in ENDED_RUN]:
                await self._cancel_run(view, run)
            for job in [one for one in view.jobs.values() if one.state not in ENDED_JOB]:
                await self._move_job(view, job, JobState.CANCELLED)
            await self._move_campaign(view, CampaignState.CANCELLED)
            await self._dispatch()
            return view.campaign

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
        """Register a device that says hello; raises NameTakenError or StaleSessionError."""
        async with self._lock:
            device = await self._db(
                self._store.register_device, device_id, name, agent_version, epoch, snapshot, time.time()
            )
            session = Session(device, frozenset(active_run_ids))
            older = self._liveness.open(session)
            if older is not None:
                older.commands.put_nowait(Supersede(epoch))
                older.commands.put_nowait(None)
            await self._reconcile(session)
            await self._dispatch()
            LOG.info("%s connected (device %s)", name, device_id)
            return session

    async def close_session(self, session: Session) -> None:
        """The connection is gone; the device keeps its run until its lease ends."""
        async with self._lock:
            if not self._liveness.close(session):
                return
            await self._db(self._store.touch_device, session.device_id, time.time())
            LOG.info("%s disconnected", session.device.name)
            if found := self._leased_on(session.device_id):
                await self._note(
                    found[0],
                    "disconnected",
                    f"{session.device.name} disconnected in the middle of a run",
                    session.device,
                )
            self._announce()

    def heard(self, session: Session, active_run_ids: Collection[str]) -> None:
        """Take a heartbeat."""
        session.heard()
        session.active_run_ids = frozenset(active_run_ids)

    def progressed(self, session: Session, progress: Progress) -> None:
        """Take word of how far a run is."""
        session.heard()
        session.progress = progress
        self._announce()

    async def watch_leases(self) -> None:
        """Once a second at the most: end silent sessions, give runs of lost devices back to the queue."""
        while True:
            await asyncio.sleep(min(1.0, self._liveness.lease_s / 4))
            async with self._lock:
                await self._check_leases(time.monotonic())

    # results

    async def record_result(self, result: RunResult) -> bool:
        """Commit a run's result; returns False when one was committed before."""
        async with self._lock:
            run = await self._db(self._store.run, result.run_id)
            job = await self._db(self._store.job, run.job_id)
            if job.device_id != result.device_id:
                raise UserError(f"run {run.run_id} belongs to device {job.device_id}, not to {result.device_id}")
            new = await self._db(self._store.record_result, result, time.time())
            view = self._active.get(job.campaign_id)
            if new and view is not None:
                await self._follow_result(view, view.runs[run.run_id], result)
            await self._dispatch()
            return new

    async def _follow_result(self, view: CampaignView, run: Run, result: RunResult) -> None:
        if run.state in ENDED_RUN:
            return
        view.move_run(run, RunState.FAILED if result.failure_type else RunState.SUCCEEDED)
        job = view.jobs[run.job_id]
        if result.failure_type:
            await self._fail_job(view, job, result.failure_type, result.failure_message)
            return
        if result.attempt < run.attempt:  # an answer given up on came after all: the new attempt is not needed
            self._send(job.device_id, CancelRun(run.run_id))
        await self._move_job(view, job, settled_state(view.runs_of(job.job_id)) or JobState.QUEUED)
        await self._settle_campaign(view)

    # what follows from what; the lock is held

    async def _dispatch(self) -> None:
        busy = self._busy()
        for session in sorted(self._liveness.sessions(), key=lambda one: one.last_assigned_s):
            if not is_free(session.device_id, session.device.snapshot.board_id, busy):
                continue
            if await self._assign_next(session):
                busy.add((session.device_id, session.device.snapshot.board_id))
        self._announce()

    async def _assign_next(self, session: Session) -> bool:
        for view in tuple(self._active.values()):
            if view.campaign.state is not CampaignState.RUNNING:
                continue
            while run := next_run(view.runs_on(session.device_id), view.jobs):
                job = view.jobs[run.job_id]
                if run.attempt < MAX_ATTEMPTS:
                    await self._assign(session, view, job, run)
                    return True
                await self._give_up(view, job, run)
        return False

    async def _assign(self, session: Session, view: CampaignView, job: Job, run: Run) -> None:
        artifact = await self._artifact(view, job)
        leased = await self._db(self._store.lease_run, run.run_id, time.time())
        view.runs[run.run_id] = leased
        view.move_job(job.job_id, JobState.LEASED)
        backend = session.device.snapshot.backends[0].name if session.device.snapshot.backends else ""
        session.progress = None
        session.last_assigned_s = time.monotonic()
        session.commands.put_nowait(Assign(leased, job, artifact, backend, view.campaign.measurement))

    async def _artifact(self, view: CampaignView, job: Job) -> Artifact:
        sha256 = view.builds[job.model, job.recipe].artifact_sha256
        if sha256 is None:
            raise FleetError(f"job {job.job_id} is queued without an artifact")
        if sha256 not in self._artifacts:
            self._artifacts[sha256] = await self._db(self._store.artifact, sha256)
        return self._artifacts[sha256]

    async def _reconcile(self, session: Session) -> None:
        """Give back the runs that the device was thought to have and says it has not."""
        for view in tuple(self._active.values()):
            run = view.leased_on(session.device_id)
            if run is not None and run.run_id not in session.active_run_ids:
                await self._release(view, run, session.device, "came back without its run; it is run again")
        wanted = {run.run_id for view in self._active.values() if (run := view.leased_on(session.device_id))}
        for run_id in session.active_run_ids - wanted:
            session.commands.put_nowait(CancelRun(run_id))

    async def _check_leases(self, now_s: float) -> None:
        for session in self._liveness.silent(now_s):
            session.commands.put_nowait(None)
            self._liveness.close(session)
        for device_id in self._liveness.take_expired(now_s):
            if found := self._leased_on(device_id):
                device = await self._db(self._store.device, device_id)
                await self._release(*found, device, "was lost in the middle of a run; the run waits for it")
        for session in self._liveness.sessions():
            await self._check_session(session, now_s)
        await self._dispatch()

    async def _check_session(self, session: Session, now_s: float) -> None:
        if now_s - session.last_touched_s > TOUCH_INTERVAL_S:
            session.last_touched_s = now_s
            await self._db(self._store.touch_device, session.device_id, time.time())
        found = self._leased_on(session.device_id)
        forgotten = found is not None and found[1].run_id not in session.active_run_ids
        if found and forgotten and now_s - session.last_assigned_s > self._liveness.lease_s:
            await self._release(*found, session.device, "does not know of the run it was given; it is run again")

    async def _release(self, view: CampaignView, run: Run, device: Device, why: str) -> None:
        await self._db(self._store.release_run, run.run_id)
        view.move_run(run, RunState.PLANNED)
        view.move_job(run.job_id, JobState.QUEUED)
        await self._note(view, "run_released", f"{device.name} {why}", device)

    async def _give_up(self, view: CampaignView, job: Job, run: Run) -> None:
        message = f"the device was lost {run.attempt} times in the middle of this run; it is not tried again"
        await self._db(self._store.end_run, run.run_id, RunState.FAILED, "device_lost", message)
        view.move_run(run, RunState.FAILED)
        await self._fail_job(view, job, "device_lost", message)

    async def _fail_job(self, view: CampaignView, job: Job, failure_type: str, message: str) -> None:
        """One failed run fails its job: the remaining repeats would fail alike and cost a night."""
        for run in view.runs_of(job.job_id):
            if run.state not in ENDED_RUN:
                await self._cancel_run(view, run)
        await self._move_job(view, job, JobState.FAILED, failure_type, message)
        await self._note(view, "job_failed", f"{job.model} under {job.recipe}: {failure_type}: {message}", None)
        await self._settle_campaign(view)

    async def _cancel_run(self, view: CampaignView, run: Run) -> None:
        if run.state is RunState.LEASED:
            self._send(view.jobs[run.job_id].device_id, CancelRun(run.run_id))
        await self._db(self._store.end_run, run.run_id, RunState.CANCELLED)
        view.move_run(run, RunState.CANCELLED)

    async def _move_job(
        self, view: CampaignView, job: Job, state: JobState, failure_type: str = "", message: str = ""
    ) -> None:
        await self._db(self._store.set_job_state, job.job_id, state, failure_type, message)
        view.move_job(job.job_id, state, failure_type, message)

    async def _settle_campaign(self, view: CampaignView) -> None:
        final = view.final_state()
        if final is not None and view.campaign.state is CampaignState.RUNNING:
            await self._move_campaign(view, final)

    async def _move_campaign(self, view: CampaignView, state: CampaignState) -> None:
        now_s = time.time()
        await self._db(self._store.set_campaign_state, view.campaign_id, state, now_s)
        view.move_campaign(state, now_s if state.ended else None)
        if state.ended:
            self._active.pop(view.campaign_id, None)
        self._announce()

    async def _mend(self, view: CampaignView) -> None:
        """Finish what a killed controller left between two transactions, and expect devices with runs back."""
        for run in view.runs.values():
            if run.state is RunState.LEASED:
                self._liveness.expect(view.jobs[run.job_id].device_id, time.monotonic())
        for job in [one for one in view.jobs.values() if one.state in (JobState.LEASED, JobState.QUEUED)]:
            runs = view.runs_of(job.job_id)
            failed = next((one for one in runs if one.state is RunState.FAILED), None)
            if failed is not None:
                await self._fail_job(view, job, *await self._why_failed(failed))
            elif state := settled_state(runs):
                await self._move_job(view, job, state)
            elif job.state is JobState.LEASED and all(one.state is not RunState.LEASED for one in runs):
                await self._move_job(view, job, JobState.QUEUED)
        await self._settle_campaign(view)

    async def _why_failed(self, run: Run) -> tuple[str, str]:
        try:
            result = await self._db(self._store.raw_result, run.run_id)
        except NotFoundError:  # given up on
            return "device_lost", f"the device was lost {run.attempt} times in the middle of a run"
        return result.failure_type, result.failure_message

    # small things

    def _leased_on(self, device_id: str) -> tuple[CampaignView, Run] | None:
        for view in self._active.values():
            if run := view.leased_on(device_id):
                return view, run
        return None

    def _busy(self) -> set[tuple[str, str]]:
        boards = {one.device_id: one.device.snapshot.board_id for one in self._liveness.sessions()}
        leased = {
            view.jobs[run.job_id].device_id
            for view in self._active.values()
            for run in view.runs.values()
            if run.state is RunState.LEASED
        }
        return {(one, boards.get(one, "")) for one in leased}

    def _send(self, device_id: str, command: CancelRun) -> None:
        session = self._liveness.session(device_id)
        if session is not None:
            session.commands.put_nowait(command)

    async def _note(self, view: CampaignView, kind: str, message: str, device: Device | None) -> None:
        LOG.info("campaign %s: %s", view.campaign_id, message)
        event = Event(time.time(), view.campaign_id, device.device_id if device else None, kind, message)
        await self._db(self._store.add_event, event)
        view.events.append(event)

    async def _load(self, campaign: Campaign) -> CampaignView:
        parts: list[Sequence[object]] = [
            await self._db(read, campaign.campaign_id)
            for read in (self._store.builds, self._store.jobs, self._store.runs, self._store.events)
        ]
        return CampaignView(campaign, *parts)  # type: ignore[arg-type]

    def _announce(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _db(self, call: Callable[..., Answer], *arguments: object) -> Answer:
        """Run a store call off the event loop: an fsync must not hold up heartbeats."""
        return await asyncio.to_thread(call, *arguments)
