"""Kills, lost connections and damaged files, without lost or duplicate results."""

import hashlib
import json
import os
import select
import signal
from pathlib import Path

import grpc
from efficientquant_controller.server.convert import result_to_wire
from efficientquant_controller.store.sql import open_store
from efficientquant_protos.v1 import fleet_pb2 as pb
from efficientquant_protos.v1 import fleet_pb2_grpc
from fleet import Fleet

TINY = "test_efficientnet"


def one_row_per_run(fleet: Fleet, runs: int) -> None:
    """Check that every run succeeded once and left one set of raw samples."""
    assert fleet.query("select state, count(*) from runs group by state") == [("succeeded", runs)]
    assert fleet.query("select count(distinct run_id), count(*) from series") == [(runs, runs)]


def test_a_killed_agent_costs_only_its_run(fleet: Fleet) -> None:
    """A run whose agent is killed goes back to the queue and waits for its device."""
    agent = fleet.connect_agent("desk")
    campaign = fleet.submit(TINY, tier="smoke", repeats=2)
    fleet.wait_until_measuring(campaign, "desk")
    agent.kill(signal.SIGKILL)
    fleet.watch(campaign, lambda status: any("waits" in notice.message for notice in status.notices))

    fleet.connect_agent("desk")

    assert fleet.watch_to_end(campaign).campaign.state == "succeeded"
    one_row_per_run(fleet, 2)
    assert fleet.query("select max(attempt) from runs") == [(2,)]


def test_a_killed_agent_leaves_no_child_behind(fleet: Fleet) -> None:
    """The measuring process exits with its agent, because it would disturb the next measurement."""
    agent = fleet.connect_agent("desk")
    fleet.wait_until_measuring(fleet.submit(TINY, tier="smoke"), "desk")
    children = children_of(agent.popen.pid)

    agent.kill(signal.SIGKILL)

    assert children
    assert all(wait_gone(child) for child in children)


def test_a_killed_controller_goes_on_where_it_was(fleet: Fleet) -> None:
    """A run continues while the controller is down, and its result is delivered afterwards."""
    fleet.connect_agent("desk")
    campaign = fleet.submit(TINY, tier="smoke", repeats=2)
    fleet.wait_until_measuring(campaign, "desk")
    assert fleet.controller is not None
    fleet.controller.kill(signal.SIGKILL)

    fleet.start_controller(listen=fleet.address)

    assert fleet.watch_to_end(campaign).campaign.state == "succeeded"
    one_row_per_run(fleet, 2)
    assert fleet.query("select max(attempt) from runs") == [(1,)]


def test_a_controller_killed_while_building_builds_on(fleet: Fleet) -> None:
    """A campaign whose artifacts were not built yet continues after a restart."""
    fleet.connect_agent("desk")
    campaign = fleet.submit(TINY, recipes=["fp32", "efficientquant"])
    fleet.watch(campaign, lambda status: any(build.state == "building" for build in status.builds))
    assert fleet.controller is not None
    fleet.controller.kill(signal.SIGKILL)

    fleet.start_controller(listen=fleet.address)

    assert fleet.watch_to_end(campaign).campaign.state == "succeeded"
    one_row_per_run(fleet, 2)


def test_a_result_reported_twice_counts_once(fleet: Fleet) -> None:
    """The second report of a run is answered and changes nothing in the database."""
    fleet.connect_agent("desk")
    fleet.watch_to_end(fleet.submit(TINY))
    [(run_id, leases)] = fleet.query("select run_id, lease_ids from runs")
    before = fleet.query("select * from results")
    result = result_to_wire(open_store(fleet.db, read_only=True).raw_result(run_id))
    [result.lease_id] = json.loads(leases)
    encoded = result.SerializeToString()
    report = pb.ReportRunRequest(
        encoded_result=encoded, size_bytes=len(encoded), sha256=hashlib.sha256(encoded).hexdigest()
    )

    with grpc.insecure_channel(fleet.address) as channel:
        answer = fleet_pb2_grpc.AgentGatewayStub(channel).ReportRun(report, timeout=30)

    assert (answer.committed, answer.duplicate) == (True, True)
    assert fleet.query("select * from results") == before
    one_row_per_run(fleet, 1)


def test_a_damaged_cached_artifact_is_fetched_again(fleet: Fleet) -> None:
    """A cached artifact with one flipped byte is dropped and fetched again."""
    fleet.connect_agent("desk")
    fleet.watch_to_end(fleet.submit(TINY))
    [(sha256, size)] = fleet.query("select artifact_sha256, size_bytes from artifacts")
    [cached] = [path for path in (fleet.folder / "desk").rglob(f"{sha256}*") if path.is_file()]
    content = bytearray(cached.read_bytes())
    content[size // 2] ^= 1
    cached.write_bytes(content)

    assert fleet.watch_to_end(fleet.submit(TINY)).campaign.state == "succeeded"

    assert fleet.query("select transfer_bytes from runs") == [(size,), (size,)]


def test_cancelling_stops_the_run_on_the_device(fleet: Fleet) -> None:
    """A cancelled campaign frees its device at once, and the next campaign runs."""
    fleet.connect_agent("desk")
    campaign = fleet.submit(TINY, tier="standard")
    fleet.wait_until_measuring(campaign, "desk")

    assert fleet.json("cancel", campaign)

    assert fleet.watch_to_end(campaign).campaign.state == "cancelled"
    assert fleet.watch_to_end(fleet.submit(TINY)).campaign.state == "succeeded"


def children_of(pid: int) -> list[int]:
    """Return the child processes that any thread of a process started."""
    by_thread = [(task / "children").read_text().split() for task in Path(f"/proc/{pid}/task").iterdir()]
    return [int(child) for children in by_thread for child in children]


def wait_gone(pid: int) -> bool:
    """Wait for a process to exit, and tell whether it did within 10 s.

    A pidfd needs no polling.
    """
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], 10)[0])
    finally:
        os.close(handle)
