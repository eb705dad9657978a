"""Tests of the stream of a campaign's states."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from shutil import copy

import pytest
from efficientquant_controller.fleet.campaigns import TrackedCampaign
from efficientquant_controller.model import CampaignState
from efficientquant_controller.server.fleet_control import FleetControl
from efficientquant_controller.store.base import Changes
from efficientquant_controller.store.sql import SqlStore, open_store
from efficientquant_protos.v1 import fleet_pb2 as pb

DATABASE = Path(__file__).parents[2] / "fixtures" / "databases" / "0.1.0-schema-2.db"


class OneCampaign:
    """A coordinator of one campaign that always reports a change."""

    def __init__(self, tracked: TrackedCampaign) -> None:
        self._tracked = tracked

    async def campaign(self, campaign_id: str) -> TrackedCampaign:
        """Return the campaign, whatever its id."""
        del campaign_id
        return self._tracked

    def next_change(self) -> asyncio.Event:
        """Return an event that is already set."""
        changed = asyncio.Event()
        changed.set()
        return changed


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
    """Open a store with a campaign c1."""
    store = open_store(str(copy(DATABASE, tmp_path / "results.db")))
    yield store
    store.close()


def test_the_end_is_always_sent(store: SqlStore) -> None:
    """A campaign that ends while a state is sent is sent again in its final state."""
    running = replace(store.campaign("c1"), devices=(), state=CampaignState.RUNNING, ended_unix_s=None)
    tracked = TrackedCampaign(running, [], [], [])
    control = FleetControl(OneCampaign(tracked), None, store, None)

    async def watch() -> list[str]:
        states = []
        async for status in control.WatchCampaign(pb.WatchCampaignRequest(campaign_id="c1"), None):
            states.append(status.campaign.state)
            ended = replace(running, state=CampaignState.SUCCEEDED, ended_unix_s=5.0)
            tracked.copy(Changes("c1", campaign=ended))
        return states

    assert asyncio.run(watch()) == ["running", "succeeded"]
