"""A database with campaigns that fake devices can run at once."""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from efficientquant_controller.config import measurement_for
from efficientquant_controller.fleet.artifacts import ContentStore
from efficientquant_controller.fleet.scheduling import plan_campaign
from efficientquant_controller.fleet.variants import Variant
from efficientquant_controller.model import (
    Artifact,
    Backend,
    BuildState,
    Campaign,
    CampaignState,
    Device,
    DeviceSnapshot,
    JobState,
    Weights,
)
from efficientquant_controller.store.base import Store
from efficientquant_controller.store.sql import open_store

BACKEND = Backend("ort-cpu", "1.32.0", ("CPUExecutionProvider",), form="onnxruntime", opset=23)
TARGET = "onnxruntime"
ARTIFACT_BYTES = 40_000


@dataclass(frozen=True)
class Plan:
    """The size of a fleet and of its campaigns.

    Each campaign has devices × recipes × repeats runs.
    """

    devices: int
    repeats: int
    campaigns: int = 1
    recipes: tuple[str, ...] = ("fp32", "int8")

    @property
    def runs(self) -> int:
        """The number of runs of all campaigns."""
        return self.devices * len(self.recipes) * self.repeats * self.campaigns


def device_id(number: int) -> str:
    """Return the id of a fake device."""
    return f"fake-{number}"


def device_name(number: int) -> str:
    """Return the name of a fake device."""
    return f"device-{number}"


def seed(database: str | Path, artifacts: Path, plan: Plan) -> list[str]:
    """Make a database with running campaigns and return their ids.

    `artifacts` is the folder of the artifacts.
    """
    store = open_store(database)
    try:
        devices = [_register(store, number) for number in range(plan.devices)]
        built = {recipe: _add_artifact(store, artifacts, recipe) for recipe in plan.recipes}
        return [_create_campaign(store, devices, built, plan.repeats, number) for number in range(plan.campaigns)]
    finally:
        store.close()


def _register(store: Store, number: int) -> Device:
    snapshot = DeviceSnapshot(board_id=f"board-{number}", board="fake", cpu_count=2, backends=(BACKEND,))
    return store.register_device(device_id(number), device_name(number), "0.1.0", 1, snapshot, time.time())


def _add_artifact(store: Store, folder: Path, recipe: str) -> Artifact:
    files = ContentStore(folder)
    path = files.scratch()
    path.write_bytes((recipe.encode() * ARTIFACT_BYTES)[:ARTIFACT_BYTES])
    sha256, size = files.adopt(path)
    provenance = {"recipe": {"name": recipe}}
    artifact = Artifact(sha256, size, "model", recipe, 1, "random", 1e-6, (), provenance, {}, TARGET)
    store.add_artifact(artifact, f"key-{recipe}")
    return artifact


def _create_campaign(
    store: Store, devices: Sequence[Device], built: dict[str, Artifact], repeats: int, number: int
) -> str:
    ids = tuple(device.device_id for device in devices)
    names = (("model",), tuple(built), ids)
    campaign = Campaign(
        uuid.uuid4().hex[:12], CampaignState.RUNNING, time.time(), *names, Weights("random"), measurement_for("demo"),
        repeats, number,
    )  # fmt: skip
    variant = Variant(BACKEND.name, TARGET)
    builds, jobs, runs = plan_campaign(campaign, [(device, variant) for device in devices])
    ready = [
        replace(
            build, state=BuildState.READY, artifact_sha256=built[build.recipe].sha256, build_key=f"key-{build.recipe}"
        )
        for build in builds
    ]
    store.create_campaign(campaign, ready, [replace(job, state=JobState.QUEUED) for job in jobs], runs)
    return campaign.campaign_id
