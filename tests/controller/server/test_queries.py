"""Tests that a client gets the results and runs that the database holds."""

import asyncio
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from shutil import copy

import grpc
import pytest
from efficientquant_controller.cli.connection import Connection
from efficientquant_controller.cli.results.results import rows_from_database, si_rows
from efficientquant_controller.errors import UserError
from efficientquant_controller.model import Agreement, Finding, JobState, RunResult
from efficientquant_controller.server.errors import ErrorInterceptor
from efficientquant_controller.server.fleet_control import FleetControl
from efficientquant_controller.store.sql import SqlStore, open_store
from efficientquant_protos.v1 import fleet_pb2_grpc
from states import report

OLD = Path(__file__).parents[2] / "fixtures" / "databases" / "0.1.0-schema-2.db"


@pytest.fixture
def database(tmp_path: Path) -> str:
    """Return a migrated database.

    Campaign c1 has one job with two runs of an earlier release. Campaign c2 has one job with a new result, and one
    without.
    """
    path = str(copy(OLD, tmp_path / "results.db"))
    store = open_store(path)
    _add_campaign(store)
    store.close()
    return path


def _add_campaign(store: SqlStore) -> None:
    campaign, job, run = store.campaign("c1"), store.job("j1"), store.run("r0")
    jobs = [
        replace(job, job_id=name, campaign_id="c2", recipe=name, target="jetson-nano", state=JobState.QUEUED)
        for name in ("fp32", "int8")
    ]
    runs = [replace(run, run_id=f"new-{job.job_id}", job_id=job.job_id, state="planned") for job in jobs]
    store.create_campaign(replace(campaign, campaign_id="c2", paper=True), [], jobs, runs)
    result: RunResult = replace(
        store.raw_result("r0"), run_id="new-fp32", conditions={"clocks": "free"}, agreement=Agreement(0.5, 0.9, 7, 8),
        findings=(Finding("processes", "invalid", "another process was on the GPU"),),
    )  # fmt: skip
    report(store, result, 9.0)


@pytest.fixture
def connection(database: str) -> Iterator[Connection]:
    """Connect a client to a controller that serves the database."""
    store, ports = open_store(database), []
    loop, ready = asyncio.new_event_loop(), threading.Event()
    stop = asyncio.Event()

    async def serve() -> None:
        server = grpc.aio.server(interceptors=[ErrorInterceptor()])
        fleet_pb2_grpc.add_FleetControlServicer_to_server(FleetControl(None, None, store, None), server)
        ports.append(server.add_insecure_port("127.0.0.1:0"))
        await server.start()
        ready.set()
        await stop.wait()
        await server.stop(None)

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    ready.wait(20)
    with Connection(f"127.0.0.1:{ports[0]}") as client:
        yield client
    loop.call_soon_threadsafe(stop.set)
    thread.join()
    loop.close()
    store.close()


def test_runs_have_the_columns_of_the_view(connection: Connection, database: str) -> None:
    """Each run has the columns of the database."""
    store = open_store(database, read_only=True)
    rows = {row["run_id"]: json.loads(json.dumps(dict(row))) for row in store.run_rows()}
    store.close()

    runs = connection.runs("")

    assert {row["run_id"]: row for row in runs} == rows
    assert sorted(rows) == ["new-fp32", "new-int8", "r0", "r1"]


@pytest.mark.parametrize(
    ("asked", "runs"), [("c1", {"r0", "r1"}), ("c2", {"new-fp32", "new-int8"}), ("latest", {"new-fp32", "new-int8"})]
)
def test_runs_of_one_campaign(connection: Connection, asked: str, runs: set[str]) -> None:
    """An id or "latest" selects the campaign whose runs are sent."""
    assert {row["run_id"] for row in connection.runs(asked)} == runs


def test_runs_of_no_campaign(connection: Connection) -> None:
    """A campaign that does not exist is the user's error."""
    with pytest.raises(UserError, match="there is no campaign 'c9'"):
        connection.runs("c9")


def test_a_very_long_name_gets_the_same_sentence(connection: Connection) -> None:
    """A sentence that repeats a long argument arrives shortened."""
    with pytest.raises(UserError, match="there is no campaign 'cc") as refused:
        connection.runs("c" * (1 << 20))
    assert len(str(refused.value)) < 2000


@pytest.mark.parametrize("campaign_id", ["c1", "c2", ""])
def test_rows_are_the_same_with_and_without_a_controller(
    connection: Connection, database: str, campaign_id: str
) -> None:
    """`results` shows the same rows from a controller and from its database, in every column."""
    assert si_rows(connection.results(campaign_id)) == si_rows(rows_from_database(database, campaign_id))


def test_a_verdict_travels(connection: Connection) -> None:
    """Verdict, reasons and conditions arrive as recorded, and are empty for a job without results."""
    fp32, int8 = sorted(connection.results("c2"), key=lambda row: row["recipe"])
    assert (fp32["verdict"], fp32["conditions"], fp32["target"]) == ("INVALID", {"clocks": "free"}, "jetson-nano")
    assert "another process was on the GPU" in fp32["verdict_reasons"]
    assert (fp32["paper"], fp32["output_argmax_agreement"]) == (True, 0.875)
    assert (int8["verdict"], int8["verdict_reasons"], int8["conditions"]) == ("", None, None)


def test_a_call_of_another_release_is_refused_in_a_sentence(connection: Connection) -> None:
    """An unknown call is refused with the advice to install the same release."""
    call = connection._channel.unary_unary("/efficientquant.v1.FleetControl/QueryResults")

    with pytest.raises(UserError, match=r"is efficientquant \S+ and has no QueryResults; install the same release"):
        connection._answer(call, b"", 5.0)
