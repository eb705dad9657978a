"""Fixtures that run each contract test on SQLite and on real PostgreSQL."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from efficientquant_controller.model import (
    Artifact,
    Backend,
    Build,
    Calibration,
    Campaign,
    CampaignState,
    DeviceSnapshot,
    Gpu,
    Job,
    Measurement,
    Run,
    RunResult,
    Series,
    StageTiming,
    Weights,
)
from efficientquant_controller.store.sql import SqlStore, open_store
from postgres_server import PostgresServer, running_server

SNAPSHOT = DeviceSnapshot(
    board="bench", cpu_count=2, library_versions={"python": "3.11"}, backends=(Backend("ort-cpu", "1.32.0", ("CPU",)),),
    jetpack="4.6.4", cuda_version="10.2", power_mode="MAXN", clock_control="helper",
    gpus=(Gpu("tegra", "", 53, None, True, True, False, False, ""), Gpu("RTX", "GPU-1", 86, 10 << 30, tf32=True)),
    cpu_dot_products=("dotprod", "i8mm"),
)  # fmt: skip
# Readings as an agent of protocol 2 reported them, with the extremes of its series.
READINGS = {
    "peak_pss_bytes": 1000, "board_available_before_bytes": 900, "board_available_min_bytes": 700,
    "swap_used_before_bytes": 5, "swap_used_max_bytes": 8, "sampler_cpu_s": 0.08, "sampler_wakeups": 80,
}  # fmt: skip


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    with running_server() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_socket(postgres: PostgresServer) -> str:
    """Return the folder of the server's socket."""
    return postgres.folder


@pytest.fixture(params=["sqlite", "postgresql"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the path or URL of a new database.

    The SQLite file does not exist yet, and the PostgreSQL database is empty.
    """
    if request.param == "sqlite":
        return str(tmp_path / "results.db")
    return request.getfixturevalue("postgres").new_database()


@pytest.fixture
def store(target: str) -> Iterator[SqlStore]:
    """Open an empty store."""
    opened = open_store(target)
    yield opened
    opened.close()


@pytest.fixture
def snapshot() -> DeviceSnapshot:
    return SNAPSHOT


@pytest.fixture
def artifact() -> Artifact:
    return Artifact(
        "ab" * 32,
        1234,
        "mobilevit_xxs",
        "fp32",
        1,
        "random",
        1e-6,
        ("a note",),
        {"recipe": {"name": "fp32"}},
        {"a": 1},
        "jetson-nano",
        ("fp16", "int8"),
        "12" * 32,
        2**40,
    )


@pytest.fixture
def campaign() -> Campaign:
    """Make a campaign with numbers at the ends of their ranges."""
    measurement = Measurement(
        "smoke", 6.0, 64, input_seed=2**64 - 1, cuda_graph=True, sync_mode="block", memory_kind="mapped", idle_s=2.5,
        profile_layers=True, lock_clocks=True, power_mode="MAXN",
    )  # fmt: skip
    weights = Weights("checkpoint", "cd" * 32, "mine.pth")
    names = (("mobilevit_xxs",), ("fp32",), ("bench-1",))
    images = Calibration("ef" * 32, "photos.zip")
    state = CampaignState.BUILDING
    facts = {"calibration": images, "paper": True, "label": "new driver"}
    return Campaign("c1", state, 10.5, *names, weights, measurement, 4, 2**64 - 1, **facts)


@pytest.fixture
def planned(store: SqlStore, campaign: Campaign, snapshot: DeviceSnapshot) -> SqlStore:
    """Fill a store with device d1 and campaign c1.

    The campaign has one build, job j1 and runs r0 to r3.
    """
    store.register_device("d1", "bench-1", "0.1.0", 1, snapshot, 1.0)
    job = Job("j1", "c1", "d1", "mobilevit_xxs", "fp32", target="jetson-nano", backend="trt")
    runs = [Run(f"r{index}", "j1", index, 3 - index) for index in range(4)]
    store.create_campaign(campaign, [Build("c1", "mobilevit_xxs", "fp32", target="jetson-nano")], [job], runs)
    return store


@pytest.fixture
def make_result(snapshot: DeviceSnapshot) -> Callable[..., RunResult]:
    """Make the result of a run that succeeded, with changes."""
    stages = (
        StageTiming("transfer", 0.5, 1234),
        StageTiming("read", 0.125, 1234, cold=True),
        StageTiming("session_create", 0.25),
        StageTiming("first_inference", 0.0625),
    )
    base = RunResult(
        run_id="r0", device_id="d1", attempt=1, failure_type="", failure_message="", log_tail=("a", "b"),
        started_unix_s=100.25, started_monotonic_s=7.5, duration_s=8.0, agent_version="0.1.0", protocol_version=1,
        stages=stages, warmup_converged=True, warmup_latency_s=(0.3, 0.2), latency_s=(0.1, 0.2, 0.3),
        series=(Series("child_pss_bytes", (0.0, 0.1), (5.0, 6.0)), Series("empty", (), ())),
        backend="ort-cpu", providers=("A", "B"),
        library_versions={"onnxruntime": "1.32.0"}, session_options={"intra_op_threads": "0"},
        device=snapshot, measured=READINGS,
    )  # fmt: skip

    def make(run_id: str = "r0", measured: Mapping[str, float | None] = {}, **changes: object) -> RunResult:
        readings = {name: value for name, value in {**READINGS, **measured}.items() if value is not None}
        return replace(base, run_id=run_id, measured=readings, **changes)

    return make
