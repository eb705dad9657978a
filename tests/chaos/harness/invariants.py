"""What must hold after any faults, once the fleet is quiet."""

import re
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from efficientquant_controller.store.series import unpack_series
from efficientquant_protos.v1 import fleet_pb2 as pb
from efficientquant_protos.v1 import fleet_pb2_grpc
from record import Record

ENDED = ("succeeded", "failed", "cancelled")
_CALL_S = 60.0
_TRACEBACK = "Traceback (most recent call last)"
_SHOWN = 5

Row = tuple[Any, ...]


def query(database: str | Path, sql: str) -> list[Row]:
    """Read rows of an SQLite file or of a PostgreSQL URL."""
    if str(database).startswith("postgresql"):
        import psycopg

        with psycopg.connect(re.sub(r"^postgresql\+\w+", "postgresql", str(database))) as connection:
            return connection.execute(sql).fetchall()
    uri = f"{Path(database).absolute().as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, timeout=_CALL_S)) as file:
        return file.execute(sql).fetchall()


def stored_results(database: str | Path) -> dict[str, tuple[str | None, float | None]]:
    """Return the hash and first latency of every stored result."""
    rows = query(database, "SELECT r.run_id, r.report_sha256, s.samples FROM runs r JOIN series s USING (run_id)")
    results = {}
    for run_id, sha256, samples in rows:
        latency_s = unpack_series(bytes(samples)).latency_s
        results[run_id] = (sha256, latency_s[0] if latency_s else None)
    return results


def unkept_promises(database: str | Path, record: Record) -> Iterator[str]:
    """Yield every acknowledged result that is not stored as sent."""
    results = stored_results(database)
    for run_id, run in list(record.runs.items()):
        if len(set(run.accepted)) > 1 or len(run.accepted) > 1:
            yield f"run {run_id} has {len(run.accepted)} reports that were answered as new"
        if not run.answered:
            continue
        if run_id not in results:
            yield f"the result of run {run_id} was acknowledged and is not in the database"
            continue
        sha256, latency_s = results[run_id]
        if run.accepted and sha256 != run.accepted[0]:
            yield f"run {run_id} has the report {sha256}, and {run.accepted[0]} was acknowledged as new"
        if sha256 not in run.sent:
            yield f"run {run_id} has the report {sha256}, which no agent sent"
        elif run.sent[sha256] != latency_s:
            yield f"run {run_id} has the first latency {latency_s}, and {run.sent[sha256]} was sent"
    yield from record.problems


def contradictions(database: str | Path) -> Iterator[str]:
    """Yield rows that contradict each other."""
    for run_id, state, reported, has_series in query(database, _RUN_PARTS):
        if (reported is not None) != bool(has_series):
            yield f"run {run_id} has {'no ' if not has_series else ''}samples, and reported_unix_s is {reported}"
        if state == "succeeded" and reported is None:
            yield f"run {run_id} succeeded without a result"
    for job_id, state in query(database, _ENDED_JOBS_WITH_OPEN_RUNS):
        yield f"job {job_id} is {state} and has open runs"
    for campaign_id, state in query(database, _ENDED_CAMPAIGNS_WITH_OPEN_JOBS):
        yield f"campaign {campaign_id} is {state} and has open jobs"


_RUN_PARTS = (
    "SELECT r.run_id, r.state, r.reported_unix_s, (SELECT count(*) FROM series s WHERE s.run_id = r.run_id) FROM runs r"
)
_ENDED_JOBS_WITH_OPEN_RUNS = (
    "SELECT DISTINCT j.job_id, j.state FROM jobs j JOIN runs r ON r.job_id = j.job_id "
    "WHERE j.state IN ('succeeded', 'failed', 'cancelled') AND r.state IN ('planned', 'leased')"
)
_ENDED_CAMPAIGNS_WITH_OPEN_JOBS = (
    "SELECT DISTINCT c.campaign_id, c.state FROM campaigns c JOIN jobs j ON j.campaign_id = c.campaign_id "
    "WHERE c.state IN ('succeeded', 'failed', 'cancelled') AND j.state NOT IN ('succeeded', 'failed', 'cancelled')"
)


def planned_runs(database: str | Path) -> dict[str, list[str]]:
    """Return the run ids of each device, the last run first."""
    planned: dict[str, list[str]] = {}
    sql = "SELECT j.device_id, r.run_id FROM runs r JOIN jobs j USING (job_id) JOIN campaigns c USING (campaign_id)"
    for device, run_id in query(database, f"{sql} ORDER BY c.number DESC, r.position DESC"):
        planned.setdefault(device, []).append(run_id)
    return planned


def open_devices(database: str | Path) -> list[str]:
    """Return the devices with open jobs."""
    sql = "SELECT DISTINCT device_id FROM jobs WHERE state IN ('pending', 'queued', 'leased')"
    return [device for (device,) in query(database, sql)]


def open_campaigns(database: str | Path) -> Iterator[str]:
    """Yield every open campaign."""
    for campaign_id, state in query(database, "SELECT campaign_id, state FROM campaigns"):
        if state not in ENDED:
            left = query(
                database,
                "SELECT r.state, r.attempt, j.device_id, count(*) FROM runs r JOIN jobs j USING (job_id) "
                f"WHERE j.campaign_id = '{campaign_id}' AND r.state IN ('planned', 'leased') GROUP BY 1, 2, 3",
            )
            yield f"campaign {campaign_id} is still {state} (state, attempt, device, runs: {left[:_SHOWN]})"


Tally = dict[str, tuple[int, int, int]]  # runs in total, ended and failed, by device


def tallies(database: str | Path) -> dict[str, Tally]:
    """Return the database's count of runs of each campaign."""
    states: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for campaign_id, name, state, count in query(database, _RUN_COUNTS):
        states[campaign_id, name][state] = count
    by_campaign: dict[str, Tally] = defaultdict(dict)
    for (campaign_id, name), counts in states.items():
        ended = sum(counts[state] for state in ENDED)
        by_campaign[campaign_id][name] = (counts.total(), ended, counts["failed"])
    return by_campaign


_RUN_COUNTS = (
    "SELECT j.campaign_id, coalesce(d.name, d.device_id), r.state, count(*) FROM runs r JOIN jobs j "
    "ON j.job_id = r.job_id JOIN devices d ON d.device_id = j.device_id GROUP BY 1, 2, 3"
)


def differences(database: str | Path, address: str) -> Iterator[str]:
    """Yield what the controller says otherwise than its database."""
    stored = dict(query(database, "SELECT campaign_id, state FROM campaigns"))
    counts = tallies(database)
    with grpc.insecure_channel(address) as channel:
        control = fleet_pb2_grpc.FleetControlStub(channel)
        listed = control.ListCampaigns(pb.ListCampaignsRequest(), timeout=_CALL_S).campaigns
        if {campaign.campaign_id: campaign.state for campaign in listed} != stored:
            yield f"ListCampaigns says {[(item.campaign_id, item.state) for item in listed]}, the database {stored}"
        for campaign_id, state in stored.items():
            status = next(control.WatchCampaign(pb.WatchCampaignRequest(campaign_id=campaign_id), timeout=_CALL_S))
            if status.campaign.state != state:
                yield f"campaign {campaign_id} is {status.campaign.state} in memory and {state} in the database"
            tally = {item.name: (item.runs_total, item.runs_done, item.runs_failed) for item in status.devices}
            for name in tally.keys() | counts[campaign_id].keys():
                if tally.get(name) != counts[campaign_id].get(name):
                    yield (
                        f"{name} in campaign {campaign_id} has {tally.get(name)} runs in memory (total, done, failed) "
                        f"and {counts[campaign_id].get(name)} in the database"
                    )


def tracebacks(logs: Sequence[Path]) -> Iterator[str]:
    """Yield the first lines of every traceback in the logs."""
    for log in logs:
        text = log.read_text(errors="replace")
        for start in [match.start() for match in re.finditer(re.escape(_TRACEBACK), text)][:_SHOWN]:
            yield f"{log.name} has a traceback:\n{text[max(0, start - 300) : start + 2500]}"


@dataclass
class Scene:
    """The parts that the invariants look at."""

    database: str | Path
    record: Record
    address: str
    logs: Sequence[Path]

    def problems(self, *, all_ended: bool = True) -> list[str]:
        """Return every violation, each as a sentence.

        Campaigns may be open when `all_ended` is false.
        """
        return [
            *unkept_promises(self.database, self.record),
            *contradictions(self.database),
            *(open_campaigns(self.database) if all_ended else ()),
            *differences(self.database, self.address),
            *tracebacks(self.logs),
        ]
