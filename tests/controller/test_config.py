"""The controller's configuration."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from efficientquant_controller.config import (
    MEMORY_KINDS,
    SYNC_MODES,
    TIERS,
    ServerConfig,
    measurement_for,
)
from efficientquant_controller.errors import UserError


def test_beyond_loopback_needs_insecure() -> None:
    """Listening beyond loopback needs --insecure, because the wire is not encrypted."""
    assert ServerConfig("x.db", listen="127.0.0.1:1").checked()
    assert ServerConfig("x.db", listen="0.0.0.0:1", insecure=True).checked()
    with pytest.raises(UserError, match="--insecure"):
        ServerConfig("x.db", listen="0.0.0.0:1").checked()


def test_a_lease_outlives_one_late_heartbeat() -> None:
    """A lease shorter than two heartbeats is refused, because it would end healthy sessions."""
    with pytest.raises(UserError, match="heartbeat"):
        ServerConfig("x.db", heartbeat_interval_s=2, lease_s=3).checked()


def test_artifacts_are_stored_next_to_a_database_file() -> None:
    """Artifacts lie next to a database file, and a database server needs --artifacts."""
    assert ServerConfig("some/results.db").artifacts_folder() == Path("some/results-artifacts")
    assert ServerConfig("sqlite:///some/results.db").artifacts_folder() == Path("some/results-artifacts")
    assert ServerConfig("x", artifacts=Path("y")).artifacts_folder() == Path("y")
    with pytest.raises(UserError, match="--artifacts"):
        ServerConfig("postgresql+psycopg://host/db").artifacts_folder()


def test_the_tiers_are_the_protocols() -> None:
    """Tiers have the protocol's time and count, and an unknown tier is refused with the known ones."""
    assert (measurement_for("smoke").min_time_s, measurement_for("smoke").min_count) == (6, 64)
    assert (measurement_for("standard").min_time_s, measurement_for("standard").min_count) == (60, 1024)
    assert measurement_for("quick", intra_op_threads=2).intra_op_threads == 2
    with pytest.raises(UserError, match="smoke, quick, standard"):
        measurement_for("fast")


@pytest.mark.parametrize(
    ("field", "allowed", "refused"),
    [
        ("sync_mode", SYNC_MODES, ["", "sleep", "Spin"]),
        ("memory_kind", MEMORY_KINDS, ["", "unified"]),
        ("idle_s", [0, 0.5, 600], [-0.1, 600.1, float("nan")]),
    ],
)
def test_only_ways_to_measure_that_exist(field: str, allowed: Sequence[Any], refused: Sequence[Any]) -> None:
    """Values that no agent understands are refused, and every tier is accepted unchanged."""
    for value in allowed:
        assert getattr(measurement_for("smoke", **{field: value}), field) == value
    for value in refused:
        with pytest.raises(UserError, match=r"choose one of|give a number from"):
            measurement_for("smoke", **{field: value})
    assert all(measurement_for(tier) == TIERS[tier] for tier in TIERS)
