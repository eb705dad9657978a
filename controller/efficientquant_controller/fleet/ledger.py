"""The unfinished campaigns as copies of the store, and its trouble.

A decision is one call of the store, whose answer is copied. Where a call failed, its campaign is read again before the
next decision, since nobody knows whether the commit succeeded.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from efficientquant_controller.errors import (
    FleetError,
    LeaseLostError,
    NotFoundError,
    StoreBusyError,
    StoreError,
    UnstorableError,
)
from efficientquant_controller.fleet.campaigns import TrackedCampaign
from efficientquant_controller.model import Artifact, Campaign, Event, Job, Run, RunState
from efficientquant_controller.store.base import Changes, Store

LOG = logging.getLogger(__name__)
Answer = TypeVar("Answer")
# Pauses between two attempts to use a database that refuses.
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 10.0
_THREADS = 4
# What code raises on rows that contradict each other.
DAMAGED = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError, UnstorableError)


class StoreHealth:
    """The current trouble with the store, which is logged once.

    While there is trouble, calls that need the store are refused at once, and one attempt in growing pauses finds out
    whether it is over.
    """

    def __init__(self, first_pause_s: float = FIRST_PAUSE_S) -> None:
        self.problem = ""
        self._first_pause_s = self._pause_s = first_pause_s
        self._since_s = 0.0
        self._next_attempt_s = 0.0

    def require(self) -> None:
        """Raise StoreError while there is trouble."""
        if self.problem:
            raise StoreError(self.problem)

    def failed(self, error: StoreError) -> None:
        """Record a failed call."""
        now_s = time.monotonic()
        if not self.problem:
            self._since_s, self._pause_s = now_s, self._first_pause_s
            LOG.error("%s; the controller keeps its sessions and tries again", error)
        elif self.is_due():  # other calls that fail meanwhile must not put the next attempt off
            self._pause_s = min(LONGEST_PAUSE_S, 2 * self._pause_s)
        else:
            return
        self.problem = str(error)
        self._next_attempt_s = now_s + self._pause_s

    def worked(self) -> bool:
        """Record a successful write, and tell whether it ended a trouble."""
        if not self.problem:
            return False
        LOG.info("the database can be written again, after %.0f s", time.monotonic() - self._since_s)
        self.problem = ""
        return True

    def is_due(self) -> bool:
        """Tell whether it is time for another attempt."""
        return time.monotonic() >= self._next_attempt_s


class Ledger:
    """The unfinished campaigns.

    Calls `freed(device_id, run)` for each run that is no longer leased. Only the owner's task may call methods that
    change something.
    """

    def __init__(self, store: Store, freed: Callable[[str, Run], None], health: StoreHealth) -> None:
        self._store = store
        self._freed = freed
        self._health = health
        self._active: dict[str, TrackedCampaign] = {}
        self._unsure: set[str] = set()
        self._refused: set[str] = set()
        self._artifacts: dict[str, Artifact] = {}
        self._threads = ThreadPoolExecutor(_THREADS, "store")

    def close(self) -> None:
        """Stop the threads of the store's calls."""
        self._threads.shutdown(wait=False)

    # queries

    def active(self) -> tuple[TrackedCampaign, ...]:
        """Return the unfinished campaigns, oldest first."""
        return tuple(self._active.values())

    def is_active(self, campaign_id: str) -> bool:
        """Tell whether a campaign is unfinished."""
        return campaign_id in self._active

    def leased_on(self, device_id: str) -> tuple[TrackedCampaign, Run] | None:
        """Return the run leased to a device and its campaign, or None."""
        for tracked in self._active.values():
            if run := tracked.leased_on(device_id):
                return tracked, run
        return None

    def devices_with_runs(self) -> set[str]:
        """Return the devices that have a leased run."""
        return {device_id for tracked in self._active.values() for device_id in tracked.leased_devices()}

    def find(self, run_id: str) -> tuple[TrackedCampaign, Run] | None:
        """Return a run of an unfinished campaign, or None."""
        for tracked in self._active.values():
            if run := tracked.runs.get(run_id):
                return tracked, run
        return None

    async def campaign(self, campaign_id: str) -> TrackedCampaign:
        """Return a campaign in its current state, ended or not.

        Raises NotFoundError when it does not exist.
        """
        if tracked := self._active.get(campaign_id):
            return tracked
        campaign = await self.db(self._store.campaign, campaign_id)
        return self._active.get(campaign.campaign_id) or TrackedCampaign(campaign, *await self._parts(campaign))

    async def artifact(self, tracked: TrackedCampaign, job: Job) -> Artifact:
        """Return the artifact of a job.

        Raises FleetError when its build has none.
        """
        build = tracked.builds[job.model, job.recipe, job.target]
        if build.artifact_sha256 is None:
            raise FleetError(f"job {job.job_id} ({job.model} under {job.recipe}) is queued without an artifact")
        name = build.build_key or build.artifact_sha256
        if name not in self._artifacts:
            # Two requests may make the same file with different reference inputs.
            artifact = await self.db(self._store.find_artifact, build.build_key) if build.build_key else None
            if artifact is None or artifact.sha256 != build.artifact_sha256:
                artifact = await self.db(self._store.artifact, build.artifact_sha256)
            self._artifacts[name] = artifact
        return self._artifacts[name]

    async def db(self, call: Callable[..., Answer], *arguments: object) -> Answer:
        """Run a store call off the event loop.

        On the loop an fsync would delay heartbeats. Queries of clients have other threads, so they delay nothing here.
        """
        try:
            answer = asyncio.get_running_loop().run_in_executor(self._threads, partial(call, *arguments))
        except RuntimeError as error:  # it says nothing about the rows
            raise StoreBusyError(f"the controller can start no thread for its database: {error}") from error
        return await answer

    async def write(self, call: Callable[..., Answer], *arguments: object) -> Answer:
        """Run a store call that writes, and record its trouble.

        A read that fails may be about damaged rows, which must not stop the fleet.
        """
        try:
            return await self.db(call, *arguments)
        except LeaseLostError:
            raise
        except StoreError as error:
            self._health.failed(error)
            raise

    # changes

    async def recover(self) -> None:
        """Load every unfinished campaign.

        One that cannot be loaded is set aside.
        """
        for campaign_id in await self.db(self._store.unfinished):
            try:
                await self.write(self._store.settle, campaign_id, time.time())
                await self._load(campaign_id)
            except DAMAGED as error:
                await self.set_aside(campaign_id, error)

    async def add(self, tracked: TrackedCampaign) -> None:
        """Record a new campaign with all its builds, jobs and runs.

        Its client gets an error when it fails. A campaign that was stored nevertheless is cancelled later.
        """
        self._health.require()
        parts = list(tracked.builds.values()), list(tracked.jobs.values()), list(tracked.runs.values())
        try:
            await self.write(self._store.create_campaign, tracked.campaign, *parts)
        except StoreError:
            self._refused.add(tracked.campaign_id)
            raise
        self._active[tracked.campaign_id] = tracked

    async def decide(self, campaign_ids: Iterable[str], call: Callable[..., Any], *arguments: object) -> Any:
        """Make a decision on campaigns in the store and return its answer.

        `call` is a method of the store. The caller copies the answer.
        """
        self._health.require()
        for campaign_id in self._unsure.intersection(campaign_ids):
            await self._read_again(campaign_id)
        try:
            return await self.write(call, *arguments)
        except (FleetError, *DAMAGED, asyncio.CancelledError):
            self._unsure.update(campaign_ids)
            raise

    async def change(self, campaign_id: str, call: Callable[..., Changes], *arguments: object) -> Changes:
        """Make a decision on one campaign and copy its answer."""
        changes: Changes = await self.decide([campaign_id], call, *arguments)
        self.copy(changes)
        return changes

    def copy(self, changes: Changes) -> None:
        """Copy the rows of a decision into memory."""
        for event in changes.events:
            LOG.info("campaign %s: %s", changes.campaign_id, event.message)
        tracked = self._active.get(changes.campaign_id)
        if tracked is None:
            return
        try:
            for run in tracked.copy(changes):
                self._freed(tracked.device_of(run), run)
        except DAMAGED as error:  # the store has rows that memory lacks
            LOG.warning("campaign %s is read again: %r", changes.campaign_id, error)
            self._unsure.add(changes.campaign_id)
            return
        if tracked.campaign.state.ended:
            del self._active[changes.campaign_id]

    async def read_again(self) -> None:
        """Read every campaign again whose last decision failed.

        One that cannot be read now stays unsure, and no run of it is assigned.
        """
        for campaign_id in tuple(self._refused):
            with suppress(NotFoundError):
                await self.write(self._store.cancel_campaign, campaign_id, time.time())
            self._refused.discard(campaign_id)
        for campaign_id in tuple(self._unsure):
            with suppress(StoreError):
                await self._read_again(campaign_id)

    def is_unsure(self, tracked: TrackedCampaign) -> bool:
        """Tell whether memory may differ from the store."""
        return tracked.campaign_id in self._unsure

    async def _read_again(self, campaign_id: str) -> None:
        try:
            if campaign_id in self._active:
                await self._load(campaign_id)
        except DAMAGED as error:
            await self.set_aside(campaign_id, error)
        self._unsure.discard(campaign_id)

    async def set_aside(self, campaign_id: str, error: Exception) -> None:
        """Fail a campaign that cannot be handled.

        Its rows may be unreadable, so memory does not copy them.
        """
        reason = str(error) if isinstance(error, FleetError) else f"{type(error).__name__}: {error}"
        LOG.error("campaign %s is set aside: %s", campaign_id, reason)
        with suppress(NotFoundError):  # somebody removed it from the database
            await self.write(self._store.set_aside, campaign_id, reason, time.time())
        self._drop(campaign_id)

    def _drop(self, campaign_id: str) -> None:
        """Forget a campaign, and free its devices."""
        tracked = self._active.pop(campaign_id, None)
        if tracked is not None:
            for device_id in tracked.leased_devices():
                if run := tracked.leased_on(device_id):
                    self._freed(device_id, replace(run, state=RunState.CANCELLED))

    async def note(self, tracked: TrackedCampaign, kind: str, message: str, device_id: str) -> None:
        """Record an event of a campaign."""
        event = Event(time.time(), tracked.campaign_id, device_id, kind, message)
        self._health.require()
        await self.write(self._store.add_event, event)
        self.copy(Changes(tracked.campaign_id, events=(event,)))

    async def _load(self, campaign_id: str) -> None:
        try:
            campaign = await self.db(self._store.campaign, campaign_id)
            parts = await self._parts(campaign)
        except NotFoundError:  # somebody removed it from the database
            self._drop(campaign_id)
            return
        tracked = self._active.get(campaign_id)
        if tracked is None:
            tracked = self._active[campaign_id] = TrackedCampaign(campaign, *parts)
        else:
            leased = {run for device in tracked.leased_devices() if (run := tracked.leased_on(device))}
            tracked.become(TrackedCampaign(campaign, *parts))
            for run in leased:
                if (now := tracked.runs.get(run.run_id)) is not None and now.state is not run.state:
                    self._freed(tracked.device_of(now), now)
        if campaign.state.ended:
            del self._active[campaign_id]

    async def _parts(self, campaign: Campaign) -> list[Any]:
        reads = (self._store.builds, self._store.jobs, self._store.runs, self._store.events)
        return [await self.db(read, campaign.campaign_id) for read in reads]
