"""Write tests/fixtures/databases/VERSION[-schema-N].db: run once for each schema, before it changes.

python tests/controller/store/make_fixture.py tests/fixtures/databases/0.1.0.db

0.1.0-schema-2.db is of the same, unreleased version: its schema 2 had the view `comparisons` already.
"""

import sqlite3
import sys

from efficientquant_controller.model import (
    Artifact,
    Backend,
    Build,
    BuildState,
    Campaign,
    CampaignState,
    DeviceSnapshot,
    Event,
    Job,
    JobState,
    Measurement,
    Run,
    RunResult,
    Series,
    StageTiming,
    Weights,
)
from efficientquant_controller.store.sql import open_store

MODEL = "mobilevit_xxs"


def main(path: str) -> None:
    store = open_store(path)
    snapshot = DeviceSnapshot(board="bench", cpu_count=2, backends=(Backend("ort-cpu", "1.32.0", ("CPU",)),))
    store.register_device("d1", "bench-1", "0.1.0", 1, snapshot, 1.0)
    store.add_artifact(Artifact("ab" * 32, 9, MODEL, "fp32", 1, "random", 1e-6, (), {"recipe": {}}, {}), "key")
    names = ((MODEL,), ("fp32",), ("bench-1",))
    campaign = Campaign(
        "c1", CampaignState.RUNNING, 2.0, *names, Weights("random"), Measurement("smoke", 6.0, 64), 2, 7
    )
    job = Job("j1", "c1", "d1", MODEL, "fp32", JobState.QUEUED)
    store.create_campaign(campaign, [Build("c1", MODEL, "fp32")], [job], [Run("r0", "j1", 0, 0), Run("r1", "j1", 1, 1)])
    store.set_build_state("c1", MODEL, "fp32", "", BuildState.READY, "", "ab" * 32)
    stages = (
        StageTiming("read", 0.125, 9, True),
        StageTiming("session_create", 0.25),
        StageTiming("first_inference", 1.0),
    )
    series = (Series("child_pss_bytes", (0.0, 0.5), (10.0, 20.0)),)
    for index, middle in enumerate((0.25, 0.75)):
        store.record_result(
            RunResult(
                f"r{index}", "d1", 1, "", "", ("ready",), 3.0, 4.0, 5.0, "0.1.0", 1, stages, True, (0.5,),
                (middle / 2, middle, middle * 2), series, 20, 100, 60, 0, 4, "ort-cpu", ("CPU",),
                {"onnxruntime": "1.32.0"}, {"intra_op_threads": "0"}, 0.01, 3, snapshot,
            ),
            6.0,
        )  # fmt: skip
    store.set_job_state("j1", JobState.SUCCEEDED)
    store.set_campaign_state("c1", CampaignState.SUCCEEDED, 8.0)
    store.add_event(Event(7.0, "c1", "d1", "note", "a note"))
    store.close()
    with sqlite3.connect(path) as connection:  # one file to check in: no -wal beside it
        connection.execute("PRAGMA journal_mode = DELETE")
    connection.execute("VACUUM")


if __name__ == "__main__":
    main(sys.argv[1])
