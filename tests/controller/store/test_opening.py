"""The opening of databases: new, old, newer and damaged, and files of other kinds."""

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from efficientquant_controller.database_location import Location
from efficientquant_controller.errors import StoreError, StoreVersionError
from efficientquant_controller.model import BuildState, CampaignState, DeviceSnapshot, JobState, Run
from efficientquant_controller.store import migrations
from efficientquant_controller.store.opening import opening
from efficientquant_controller.store.sql import SqlStore, open_store
from efficientquant_controller.store.tables import metadata
from sqlalchemy import create_engine, text
from states import report

DATABASES = Path(__file__).parents[2] / "fixtures" / "databases"

# Records results one by one and prints the id of each that was acknowledged.
WRITER = """
import sys, itertools
from dataclasses import replace
from efficientquant_controller.model import Job, JobState, Run
from efficientquant_controller.store.base import Lease, Report
from efficientquant_controller.store.sql import open_store
store = open_store(sys.argv[1])
result, campaign = store.raw_result("r0"), store.campaign("c1")
jobs = [Job(f"k{n}", "c2", "d1", "m", "fp32", JobState.QUEUED, target=str(n)) for n in range(1000)]
runs = [Run(f"r-{job.job_id}", job.job_id, 0, n) for n, job in enumerate(jobs)]
store.create_campaign(replace(campaign, campaign_id="c2"), [], jobs, runs)
store.lease_runs([Lease(run.run_id, f"lease-{run.run_id}") for run in runs], 8.0)
for run in runs:
    [answer] = store.commit_reports([Report(replace(result, run_id=run.run_id), f"lease-{run.run_id}")], 9.0)
    assert answer.new
    print(run.run_id, flush=True)
"""


@pytest.fixture(params=sorted(DATABASES.glob("*.db")), ids=lambda path: path.name)
def old_database(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return Path(shutil.copy(request.param, tmp_path / "old.db"))


def _run_sql(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def test_fixtures_exist() -> None:
    """Exactly one database of each schema before the current schema is checked in."""
    schemas = []
    for path in DATABASES.glob("*.db"):
        with closing(sqlite3.connect(path)) as connection:
            schemas += [schema for (schema,) in connection.execute("SELECT version_num FROM alembic_version")]
    versions = Path(migrations.__file__).parent / "versions"
    assert sorted(schemas) == sorted(path.name[1:5] for path in versions.glob("v*.py"))[:-1]


def test_old_database(old_database: Path) -> None:
    """A database of an earlier release opens, with its numbers, raw samples and events."""
    store = open_store(old_database)
    row = store.results("latest")[0]
    assert (row["latency_p50_s"], row["load_s"], row["peak_pss_bytes"], row["artifact_bytes"]) == (0.5, 1.375, 20, 9)
    assert store.raw_result("r1").latency_s == (0.375, 0.75, 1.5)
    assert store.raw_result("r1").series[0].value == (10.0, 20.0)
    assert store.campaign("c1").state is CampaignState.SUCCEEDED
    assert [event.message for event in store.events("c1")] == ["a note"]
    assert [row["latency_p50_s"] for row in store.run_rows("c1")] == [0.25, 0.75]
    store.close()


@pytest.mark.parametrize("name", ["0.1.0.db", "0.1.0-schema-2.db"])
def test_old_results_know_nothing_of_what_came_later(tmp_path: Path, name: str) -> None:
    """What an earlier release did not record is absent after the migration, without zeros or a verdict."""
    store = open_store(shutil.copy(DATABASES / name, tmp_path / "old.db"))
    (row,), runs, result = store.results("c1"), store.run_rows("c1"), store.raw_result("r0")
    names = ("energy_per_inference_j", "latency_p99_bound_s", "output_cosine", "gpu_clock_min_hz", "engine_bytes")
    assert {row[name] for name in names} == {None}
    assert row["paper_latency_s"] == pytest.approx(1.75 / 3)  # follows from what was recorded
    assert (row["verdict"], row["verdict_reasons"], row["target"], row["paper"]) == ("", None, "", False)
    assert {run[name] for run in runs for name in (*names, "verdict", "findings", "throttled")} == {None}
    assert (result.windows, result.findings, result.conditions, result.agreement, result.engine) == (
        (),
        (),
        {},
        None,
        None,
    )
    store.close()


def test_old_campaign_goes_on(old_database: Path) -> None:
    """Builds, jobs, artifacts and measurements of an earlier release read as they were, with the current defaults."""
    store = open_store(old_database)
    assert [(build.target, build.state) for build in store.builds("c1")] == [("", BuildState.READY)]
    assert [(job.target, job.backend) for job in store.jobs("c1")] == [("", "")]
    artifact = store.artifact("ab" * 32)
    assert (artifact.target, artifact.builder_flags, artifact.reference_sha256) == ("", (), "")
    campaign = store.campaign("c1")
    assert (campaign.measurement.min_count, campaign.measurement.lock_clocks, campaign.paper) == (64, False, False)
    snapshot = store.device("d1").snapshot
    assert (snapshot.gpus, snapshot.jetpack, snapshot.cpu_dot_products) == ((), "", ())
    result = replace(store.raw_result("r0"), run_id="later", conditions={"clocks": "free"})
    job = replace(store.job("j1"), job_id="j2", campaign_id="c2", state=JobState.QUEUED)
    running = replace(campaign, campaign_id="c2", state=CampaignState.RUNNING)
    store.create_campaign(running, [], [job], [Run("later", "j2", 0, 0)])
    assert report(store, result, 9.0)
    assert store.raw_result("later") == result
    assert store.campaign("c2").state is CampaignState.SUCCEEDED
    store.close()


def columns_of(path: Path, view: str) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return [column[0] for column in connection.execute(f"SELECT * FROM {view}").description]


@pytest.mark.parametrize("view", ["results", "run_results", "comparisons"])
def test_views_keep_their_columns(tmp_path: Path, view: str) -> None:
    """A migration keeps every column of the last schema's views."""
    path = Path(shutil.copy(DATABASES / "0.1.0-schema-7.db", tmp_path / "old.db"))
    before = columns_of(path, view)
    open_store(path).close()
    after = columns_of(path, view)
    assert set(before) <= set(after)
    if view != "run_results":
        assert [name for name in after if name in before] == before


def test_targets_of_clocks_become_numbers(tmp_path: Path) -> None:
    """A migration moves clock targets from conditions to columns."""
    store = open_store(shutil.copy(DATABASES / "0.1.0-schema-3.db", tmp_path / "old.db"))
    names = ("clock_gpu_target_hz", "clock_cpu_target_hz", "clock_emc_target_hz")
    for row in (*store.run_rows("c0"), *store.results("c0")):
        assert [row[name] for name in names] == [921.6e6, 1.479e9, None]
        assert row["conditions"] == {"clocks": "locked", "power_mode": "MAXN", "rail_set": "POM_5V_IN"}
    measured = store.raw_result("int8-1").measured
    assert (measured["clock_gpu_target_hz"], measured["device_memory_bytes"]) == (921.6e6, 2**25)
    assert [row["clock_gpu_target_hz"] for row in store.run_rows("c1")] == [None, None]
    store.close()


def test_old_database_is_only_read_after_it_was_migrated(old_database: Path) -> None:
    """Reading an older database is refused until it was opened for writing, which adds the newer views."""
    with pytest.raises(StoreVersionError, match=r"schema 000[1-7].*open it once with `efficientquant serve --db`"):
        open_store(old_database, read_only=True)
    open_store(old_database).close()
    open_store(old_database, read_only=True).close()
    _run_sql(old_database, "SELECT * FROM comparisons")


def test_migrated_schema_is_the_tables(store: SqlStore, target: str) -> None:
    """The migrations make exactly the tables that the code reads and writes."""
    del store
    engine = create_engine(target if "://" in target else f"sqlite:///{target}")
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()


def test_newer_database(store: SqlStore, target: str) -> None:
    """A newer version's database is refused with both versions and what to do, and stays unchanged."""
    store.close()
    engine = create_engine(target if "://" in target else f"sqlite:///{target}")
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        connection.execute(text("UPDATE meta SET value = '7.8.9' WHERE key = 'product_version'"))
    for read_only in (False, True):
        with pytest.raises(StoreVersionError, match=r"7\.8\.9 \(schema 9999\) and this is .*upgrade efficientquant"):
            open_store(target, read_only=read_only)
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT value FROM meta")) == "7.8.9"
    engine.dispose()


def test_somebody_elses_database(tmp_path: Path) -> None:
    """A SQLite database of another program is refused and stays unchanged, byte by byte."""
    path = tmp_path / "other.db"
    _run_sql(path, "CREATE TABLE mine (x)")
    before = path.read_bytes()
    with pytest.raises(StoreError, match="not a results database"):
        open_store(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["other.db"]


def test_not_a_database(tmp_path: Path) -> None:
    """A file that is no database is refused and stays unchanged."""
    path = tmp_path / "notes.txt"
    path.write_text("these are my notes, and no database")
    with pytest.raises(StoreError, match=r"notes\.txt: it is not a SQLite database"):
        open_store(path)
    assert path.read_text() == "these are my notes, and no database"


def test_a_pipe_is_no_database(tmp_path: Path) -> None:
    """A pipe, on which a read would block, is refused at once."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StoreError, match="it is not a regular file"):
        open_store(tmp_path / "pipe")


def test_another_program_with_migrations(tmp_path: Path) -> None:
    """A database that has only Alembic's table is refused."""
    path = tmp_path / "other.db"
    _run_sql(path, "CREATE TABLE alembic_version (version_num)", "INSERT INTO alembic_version VALUES ('9')")
    with pytest.raises(StoreError, match="not a results database"):
        open_store(path)


@pytest.mark.parametrize("read_only", [False, True])
def test_an_empty_file(tmp_path: Path, read_only: bool) -> None:
    """An empty file, which may be the rest of a database, is refused and stays."""
    (tmp_path / "empty.db").touch()
    with pytest.raises(StoreError, match="the file is empty; name the file that 'efficientquant serve' writes, or a "):
        open_store(tmp_path / "empty.db", read_only=read_only)
    assert (tmp_path / "empty.db").read_bytes() == b""


def test_a_database_without_tables_holds_no_results(tmp_path: Path) -> None:
    """Reading a database without tables, as `cp` makes of a served database, says that it is empty."""
    path = tmp_path / "copied.db"
    _run_sql(path, "PRAGMA journal_mode = WAL")
    with pytest.raises(StoreError, match=r"is empty; .*copy that file with 'efficientquant backup'"):
        open_store(path, read_only=True)


def test_damaged_database(tmp_path: Path) -> None:
    """A damaged database raises a StoreError that names it."""
    path = tmp_path / "damaged.db"
    path.write_bytes(b"SQLite format 3\0" + b"\xff" * 4096)
    with pytest.raises(StoreError, match=r"damaged\.db.*restore it from a copy"):
        open_store(path)


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("missing/a.db", r"missing does not exist|there is no database"),
        ("", "is a directory"),
        ("x.db/a.db", r"x\.db does not exist|there is no database"),
        ("n" * 300, "File name too long"),
    ],
)
def test_bad_path(tmp_path: Path, name: str, problem: str, read_only: bool) -> None:
    """A path that cannot hold a database is named with the problem, and nothing is created."""
    with pytest.raises(StoreError, match=problem):
        open_store(tmp_path / name, read_only=read_only)
    assert os.listdir(tmp_path) == []


def test_not_writable() -> None:
    """A path where nobody can write, root included, is named with what to do."""
    with pytest.raises(StoreError, match=r"/proc/results\.db: .*check the path and its permissions"):
        open_store("/proc/results.db")


def test_unreachable_server(tmp_path: Path) -> None:
    """A server that does not answer raises a StoreError that hides the password."""
    with pytest.raises(StoreError, match="cannot open the database") as caught:
        open_store(f"postgresql+psycopg://me:secret@/x?host={tmp_path}")
    assert "secret" not in str(caught.value)


def test_read_only_needs_a_file(tmp_path: Path) -> None:
    """Reading a database that does not exist creates nothing."""
    with pytest.raises(StoreError, match=r"there is no database .*a\.db; name with --db the file"):
        open_store(tmp_path / "a.db", read_only=True)
    assert os.listdir(tmp_path) == []


def test_read_only_never_writes(store: SqlStore, target: str) -> None:
    """A store opened for reading refuses to write."""
    del store
    reader = open_store(target, read_only=True)
    with pytest.raises(StoreError, match="refused"):
        reader.register_device("d1", "bench-1", "0.1.0", 1, DeviceSnapshot(), 1.0)
    reader.close()


def test_durability_settings(tmp_path: Path) -> None:
    """SQLite runs with a write-ahead log, full synchronization and enforced foreign keys."""
    store = open_store(tmp_path / "a.db")
    with store._transactions.write() as sql:
        settings = [sql.scalar(text(f"PRAGMA {name}")) for name in ("journal_mode", "synchronous", "foreign_keys")]
    store.close()
    assert settings == ["wal", 2, 1]


def test_kill(tmp_path: Path) -> None:
    """Every result that was acknowledged before SIGKILL is complete afterwards."""
    path = shutil.copy(DATABASES / "0.1.0.db", tmp_path / "killed.db")
    with subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, text=True) as writer:
        acknowledged = [writer.stdout.readline().strip() for _ in range(50)]
        writer.kill()
        acknowledged += [line.strip() for line in writer.stdout if line.endswith("\n")]
    store = open_store(path)
    assert {store.raw_result(run_id).latency_s for run_id in acknowledged} == {store.raw_result("r0").latency_s}
    store.close()


def test_a_full_disk_asks_for_room(tmp_path: Path) -> None:
    """The advice for a full disk is to make room, without a word on permissions."""
    with (
        pytest.raises(StoreError, match=r"disk is full; make room there, or name another file with --db$"),
        opening(Location(tmp_path / "results.db")),
    ):
        raise sqlite3.OperationalError("database or disk is full")
