"""A store with a campaign that two devices can run at once."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from efficientquant_controller.store.sql import SqlStore, open_store
from small_fleet import ARTIFACT, SNAPSHOT, Fleet, add_campaign


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
    """Open a store with devices d0 and d1 and campaign c1."""
    opened = open_store(tmp_path / "results.db")
    for number in range(2):
        snapshot = replace(SNAPSHOT, board_id=f"board-{number}")
        opened.register_device(f"d{number}", f"device-{number}", "0.1.0", 1, snapshot, 1.0)
    opened.add_artifact(ARTIFACT, "key")
    add_campaign(opened)
    yield opened
    opened.close()


@pytest.fixture
def play(store: SqlStore) -> Callable[[Callable[[Fleet], Awaitable[None]]], None]:
    """Return a function that runs a story with a recovered coordinator."""

    def run(story: Callable[[Fleet], Awaitable[None]]) -> None:
        async def tell() -> None:
            fleet = Fleet(store)
            await fleet.coordinator.recover()
            await asyncio.wait_for(story(fleet), 60)

        asyncio.run(tell())

    return run
