"""The program that writes tests/fixtures/databases/VERSION[-schema-N].db.

Run it once for each schema, before the schema changes:

    python tests/controller/store/make_fixture.py tests/fixtures/databases/0.1.0-schema-8.db

0.1.0.db and the databases of schema 2 to 7 are of the same, unreleased version. Schema 2 already had the view
`comparisons`. Schema 3 has a second campaign, c0, with what that schema added: an fp32 job, a variant, clock targets.
Schemas 4 to 7 have the same rows. Up to schema 4 no run was leased before its result.
"""

import sqlite3
import sys
from dataclasses import replace

from efficientquant_controller.model import (
    Agreement,
    Artifact,
    Backend,
    Build,
    BuildState,
    Campaign,
    CampaignState,
    DeviceSnapshot,
    Engine,
    Event,
    Finding,
    Job,
    JobState,
    Measurement,
    Run,
    RunResult,
    Series,
    StageTiming,
    Weights,
    Window,
)
from efficientquant_controller.store.base import Committed, Lease, Report
from efficientquant_controller.store.sql import SqlStore, open_store

MODEL = "mobilevit_xxs"
SNAPSHOT = DeviceSnapshot(board="bench", cpu_count=2, backends=(Backend("ort-cpu", "1.32.0", ("CPU",)),))
STAGES = (
    StageTiming("read", 0.125, 9, True),
    StageTiming("session_create", 0.25),
    StageTiming("first_inference", 1.0),
)
READINGS = {
    "peak_pss_bytes": 20, "board_available_before_bytes": 100, "board_available_min_bytes": 60,
    "swap_used_before_bytes": 0, "swap_used_max_bytes": 4, "sampler_cpu_s": 0.01, "sampler_wakeups": 3,
}  # fmt: skip
SERIES = (Series("child_pss_bytes", (0.0, 0.5), (10.0, 20.0)),)


def result(run_id: str, middle: float) -> RunResult:
    return RunResult(
        run_id, "d1", 1, "", "", ("ready",), 3.0, 4.0, 5.0, "0.1.0", 1, STAGES, True, (0.5,),
        (middle / 2, middle, middle * 2), SERIES, "ort-cpu", ("CPU",),
        {"onnxruntime": "1.32.0"}, {"intra_op_threads": "0"}, SNAPSHOT, measured=READINGS,
    )  # fmt: skip


def trusted_result(run_id: str, latency_s: float) -> RunResult:
    """Make the result of a run with what schema 3 added."""
    tenths = tuple(number / 10 for number in range(121))
    return replace(
        result(run_id, latency_s),
        protocol_version=2,
        latency_s=tuple(latency_s * (1 + n % 5 / 1000) for n in range(64)),
        device_latency_s=(latency_s * 0.9,) * 64,
        windows=(Window("idle_before", 0.0, 3.9), Window("measure", 4.0, 12.0)),
        conditions={
            "clocks": "locked", "power_mode": "MAXN", "rail_set": "POM_5V_IN",
        },
        findings=(Finding("sensor", "info", "one reading was late"),),
        series=(
            *SERIES,
            Series("power_pom_5v_in_w", tenths, (4.0,) * 121),
            Series("clock_gpu_hz", tenths, (921.6e6,) * 121),
        ),
        agreement=Agreement(0.25, 0.999, 7, 8),
        engine=Engine("cd" * 32, 2**20, True, 1 << 28, ("a note",), {"fp16": "on"}, {"int8": 35}, '[{"name": "conv"}]'),
        measured={
            **READINGS, "device_memory_bytes": 2**25, "clock_gpu_target_hz": 921.6e6, "clock_cpu_target_hz": 1.479e9,
        },
    )  # fmt: skip


def add_twins(store: SqlStore) -> None:
    """Add campaign c0 with fp32 and int8, three repeats each."""
    recipes = {"fp32": 0.2, "int8": 0.1}
    names = ((MODEL,), tuple(recipes), ("bench-1",))
    measurement = Measurement("demo", 1.0, 32, lock_clocks=True)
    store.create_campaign(
        Campaign("c0", CampaignState.RUNNING, 1.5, *names, Weights("random"), measurement, 3, 7),
        [Build("c0", MODEL, recipe) for recipe in recipes],
        [Job(f"j-{recipe}", "c0", "d1", MODEL, recipe, JobState.QUEUED, backend="trt") for recipe in recipes],
        [Run(f"{recipe}-{index}", f"j-{recipe}", index, index) for recipe in recipes for index in range(3)],
    )
    for recipe, latency_s in recipes.items():
        for index in range(3):
            measure(store, trusted_result(f"{recipe}-{index}", latency_s + index / 1000))


def measure(store: SqlStore, result: RunResult) -> None:
    """Lease a run and commit its result.

    Its job and campaign end with its last run.
    """
    lease = Lease(result.run_id, f"lease-of-{result.run_id}")
    store.lease_runs([lease], 5.0)
    [answer] = store.commit_reports([Report(result, lease.lease_id, "ef" * 32)], 6.0)
    assert isinstance(answer, Committed), answer


def main(path: str) -> None:
    store = open_store(path)
    store.register_device("d1", "bench-1", "0.1.0", 1, SNAPSHOT, 1.0)
    add_twins(store)
    store.add_artifact(Artifact("ab" * 32, 9, MODEL, "fp32", 1, "random", 1e-6, (), {"recipe": {}}, {}), "key")
    names = ((MODEL,), ("fp32",), ("bench-1",))
    campaign = Campaign(
        "c1", CampaignState.RUNNING, 2.0, *names, Weights("random"), Measurement("smoke", 6.0, 64), 2, 7
    )
    job = Job("j1", "c1", "d1", MODEL, "fp32", JobState.QUEUED)
    store.create_campaign(campaign, [Build("c1", MODEL, "fp32")], [job], [Run("r0", "j1", 0, 0), Run("r1", "j1", 1, 1)])
    store.move_build(Build("c1", MODEL, "fp32", BuildState.READY, artifact_sha256="ab" * 32), 3.0)
    for index, middle in enumerate((0.25, 0.75)):
        measure(store, result(f"r{index}", middle))
    store.add_event(Event(7.0, "c1", "d1", "note", "a note"))
    store.close()
    with sqlite3.connect(path) as connection:  # leaves one file to check in, without a -wal
        connection.execute("PRAGMA journal_mode = DELETE")
    connection.execute("VACUUM")


if __name__ == "__main__":
    main(sys.argv[1])
