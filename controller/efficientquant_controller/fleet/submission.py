"""Submission of campaigns: check the request, store it, build artifacts."""

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from efficientquant_controller import bounds
from efficientquant_controller.config import DEFAULT_REPEATS, PAPER_REPEATS, measurement_for
from efficientquant_controller.errors import FleetError, StoreError, UserError
from efficientquant_controller.fleet.abilities import choose_devices, require_abilities
from efficientquant_controller.fleet.artifacts import ContentStore
from efficientquant_controller.fleet.builds import Builder, BuildProcessError, Source, build_key
from efficientquant_controller.fleet.campaigns import TrackedCampaign
from efficientquant_controller.fleet.coordinator import Coordinator
from efficientquant_controller.fleet.ledger import FIRST_PAUSE_S, LONGEST_PAUSE_S
from efficientquant_controller.fleet.owner import retrieve_error
from efficientquant_controller.fleet.scheduling import plan_campaign
from efficientquant_controller.fleet.variants import choose_variant
from efficientquant_controller.model import (
    Artifact,
    Build,
    BuildState,
    Calibration,
    Campaign,
    CampaignState,
    Weights,
)
from efficientquant_controller.store.base import Store

LOG = logging.getLogger(__name__)
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class CampaignRequest:
    """A user's request for a campaign.

    Empty `devices` means every connected device, and `repeats` 0 means the default.
    """

    models: tuple[str, ...]
    recipes: tuple[str, ...]
    devices: tuple[str, ...]
    weights: Weights
    tier: str
    repeats: int
    seed: int
    intra_op_threads: int
    calibration: Calibration | None = None
    paper: bool = False
    backend: str = ""
    label: str = ""
    # Fields of Measurement that differ from the tier's, e.g. {"cuda_graph": True}.
    changes: Mapping[str, Any] = field(default_factory=dict)


class Submissions:
    """The accepted campaigns, whose artifacts are built one campaign at a time."""

    def __init__(self, coordinator: Coordinator, builder: Builder, store: Store, artifacts: ContentStore) -> None:
        self._coordinator = coordinator
        self._builder = builder
        self._store = store
        self._artifacts = artifacts
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._one_at_a_time = asyncio.Lock()

    async def submit(self, request: CampaignRequest) -> TrackedCampaign:
        """Record a campaign and start its builds.

        Raises UserError when any part of the request is wrong, and BuildError when a model cannot be loaded.
        """
        changes = {"intra_op_threads": request.intra_op_threads, "input_seed": request.seed, **request.changes}
        measurement = measurement_for(request.tier, **changes)
        _check_counts(request)
        recipes = self._builder.canonical_recipes(request.recipes)
        known = await asyncio.to_thread(self._store.devices)
        selected = choose_devices(request.devices, self._coordinator.connected(), known)
        devices = [(device, choose_variant(device, request.backend)) for device in selected]
        require_abilities(measurement, devices)
        self._builder.check_targets(devices)
        self._builder.check_calibration(request.calibration)
        try:
            await self._builder.check_models(request.models, request.weights)
        except BuildProcessError as error:
            raise UserError(
                f"the models cannot be checked: {error}; free memory on the controller's machine"
            ) from error
        campaign = Campaign(
            campaign_id=f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}",
            state=CampaignState.BUILDING,
            created_unix_s=time.time(),
            models=request.models,
            recipes=recipes,
            devices=tuple(device.device_id for device, _ in devices),
            weights=request.weights,
            measurement=measurement,
            repeats=request.repeats or (PAPER_REPEATS if request.paper else DEFAULT_REPEATS),
            seed=request.seed,
            calibration=request.calibration,
            paper=request.paper,
            label=request.label,
        )
        tracked = TrackedCampaign(campaign, *plan_campaign(campaign, devices))
        # A client that goes away meanwhile must not leave a campaign that nobody builds.
        beginning = asyncio.create_task(self._begin(tracked))
        beginning.add_done_callback(retrieve_error)
        await asyncio.shield(beginning)
        return tracked

    async def _begin(self, tracked: TrackedCampaign) -> None:
        await self._coordinator.start(tracked)
        self.build(tracked)

    def build(self, tracked: TrackedCampaign) -> None:
        """Build a campaign's artifacts in the background."""
        self._start(tracked, self._build_all(tracked))

    def stop(self, campaign_id: str) -> None:
        """Stop building for a campaign."""
        if task := self._tasks.get(campaign_id):
            task.cancel()

    def close(self) -> None:
        """Stop all builds and end the build process.

        The controller resumes them after its next start.
        """
        for task in self._tasks.values():
            task.cancel()
        self._builder.close()

    async def _build_all(self, tracked: TrackedCampaign) -> None:
        async with self._one_at_a_time:
            for build in tuple(tracked.builds.values()):
                if build.state is not BuildState.READY:
                    await self._build_one(tracked, build)
        await _until_stored(lambda: self._coordinator.builds_done(tracked))

    async def _build_one(self, tracked: TrackedCampaign, build: Build) -> None:
        await self._move_build(tracked, build, BuildState.BUILDING)
        source = Source(tracked.campaign.weights, tracked.campaign.calibration)
        key = build_key(build.model, build.recipe, build.target, source)
        build = replace(build, build_key=key)
        try:
            artifact = await _until_stored(lambda: self._find_or_make(build, source, key))
        except FleetError as error:
            await self._move_build(tracked, build, BuildState.FAILED, str(error))
        else:
            await self._move_build(tracked, build, BuildState.READY, "; ".join(artifact.notes), artifact.sha256)

    async def _find_or_make(self, build: Build, source: Source, key: str) -> Artifact:
        return await self._stored_artifact(key) or await self._make(build, source, key)

    async def _stored_artifact(self, key: str) -> Artifact | None:
        artifact = await asyncio.to_thread(self._store.find_artifact, key)
        if artifact is None:
            return None
        files = (artifact.sha256, *([artifact.reference_sha256] if artifact.reference_sha256 else []))
        return artifact if all(map(self._artifacts.has, files)) else None

    async def _make(self, build: Build, source: Source, key: str) -> Artifact:
        made = await self._builder.build(build.model, build.recipe, build.target, source)
        await _until_stored(lambda: asyncio.to_thread(self._store.add_artifact, made, key))
        return made

    async def _move_build(
        self, tracked: TrackedCampaign, build: Build, state: BuildState, message: str = "", sha256: str | None = None
    ) -> None:
        moved = replace(build, state=state, message=message, artifact_sha256=sha256)
        await _until_stored(lambda: self._coordinator.build_moved(tracked, moved))

    def _start(self, tracked: TrackedCampaign, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work, name=f"build {tracked.campaign_id}")
        self._tasks[tracked.campaign_id] = task
        task.add_done_callback(partial(self._task_ended, tracked))

    def _task_ended(self, tracked: TrackedCampaign, task: asyncio.Task[None]) -> None:
        self._tasks.pop(tracked.campaign_id, None)
        if not task.cancelled() and (error := task.exception()):
            LOG.error("building for campaign %s failed unexpectedly", tracked.campaign_id, exc_info=error)
            self._start(
                tracked, self._abandon(tracked, f"{type(error).__name__}: {error} (a bug; see the controller's log)")
            )

    async def _abandon(self, tracked: TrackedCampaign, why: str) -> None:
        """Fail every unfinished build, so that the campaign can end."""
        await asyncio.sleep(LONGEST_PAUSE_S)  # what fails here too must not fill the log
        for build in tuple(tracked.builds.values()):
            if build.state is not BuildState.READY:
                await self._move_build(tracked, build, BuildState.FAILED, why)
        await _until_stored(lambda: self._coordinator.builds_done(tracked))


async def _until_stored(call: Callable[[], Awaitable[Answer]]) -> Answer:
    """Call until the database takes it, in growing pauses.

    An artifact that took an hour must not be lost to a database that is locked for a minute.
    """
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            return await call()
        except StoreError as error:
            if pause_s == FIRST_PAUSE_S:
                LOG.warning("a build waits: %s", error)
            await asyncio.sleep(pause_s)
            pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)


def _check_counts(request: CampaignRequest) -> None:
    if not request.models:
        raise UserError("no model is named; name at least one, for example mobilevit_xxs")
    if not request.recipes:
        raise UserError("no recipe is named; pass for example --recipes fp32,efficientquant")
    if request.repeats:
        bounds.REPEATS.check("the number of repeats", request.repeats)
    bounds.SEED.check("the seed", request.seed)
    bounds.check_label("the label", request.label)
