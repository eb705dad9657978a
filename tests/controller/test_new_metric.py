"""The changes that a new metric of the child needs on the controller."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SCHEMA_3 = ROOT / "tests" / "fixtures" / "databases" / "0.1.0-schema-3.db"
BEFORE = '    _reading("board_available_before_bytes"'
ENTRY = """    Column(
        "peak_uss_bytes", Kind.BIGINT, Origin.MEASURED, "the most memory that only this process had", Over.MEDIAN,
        cell=Cell("memory", "peak USS", "MiB", 1), compared=Compared("unique-memory", "unique memory"),
    ),
"""
MIGRATION = '''"""Schema 9: memory that only the child has."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.add_column("runs", sa.Column("peak_uss_bytes", sa.BigInteger(), nullable=True))
'''
# Reports a result to a database of schema 3 and to a new one, over the wire, and prints where its reading came out.
PROGRAM = """
import io, json, sys
from dataclasses import replace
from pathlib import Path
from efficientquant_controller.analysis.metrics import METRICS, metrics_listed
from efficientquant_controller.cli.results.result_table import print_result_tables
from efficientquant_controller.cli.results.results import si_rows
from efficientquant_controller.columns.document import with_tables
from efficientquant_controller.fleet.comparing import compared_results
from efficientquant_controller.model import Job, JobState, Run
from efficientquant_controller.server import convert
from efficientquant_controller.store.base import Lease, Report
from efficientquant_controller.store.sql import open_store
from rich.console import Console

old, new = (open_store(path) for path in sys.argv[1:3])
result, campaign = old.raw_result("fp32-0"), replace(old.campaign("c0"), campaign_id="c9")
new.register_device("d1", "bench-1", "0.1.0", 1, result.device, 1.0)
report = {"listed": metrics_listed(), "column": METRICS["unique-memory"].column}
report["documented"] = "peak_uss_bytes" in with_tables(Path(sys.argv[3]).read_text(encoding="utf-8"))
for name, store in (("old", old), ("new", new)):
    jobs = [Job("j9", "c9", "d1", "mobilevit_xxs", "fp32", JobState.QUEUED)]
    store.create_campaign(campaign, [], jobs, [Run("r9", "j9", 0, 0)])
    read = replace(result, run_id="r9", measured={**result.measured, "peak_uss_bytes": float(3 << 20)})
    store.lease_runs([Lease("r9", "lease-1")], 8.0)
    [answer] = store.commit_reports([Report(convert.result_from_wire(convert.result_to_wire(read)), "lease-1")], 9.0)
    assert answer.new, answer
    [run], [row] = store.run_rows("c9"), compared_results(store, "c9")
    console = Console(file=io.StringIO(), width=200)
    print_result_tables([row], console)
    sent = json.loads(convert.job_row_to_wire(row).columns_json)
    report[name] = {
        "run_results": run["peak_uss_bytes"],
        "results": store.results("c9")[0]["peak_uss_bytes"],
        "json": si_rows([sent])[0]["peak_uss_bytes"],
        "table": "peak USS" in console.file.getvalue(),
        "read back": store.raw_result("r9").measured["peak_uss_bytes"],
    }
print(json.dumps(report))
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what the program prints in a copy with one entry and one migration added."""
    folder = tmp_path_factory.mktemp("copy")
    package = folder / "efficientquant_controller"
    shutil.copytree(ROOT / "controller" / package.name, package, ignore=shutil.ignore_patterns("__pycache__"))
    entries = package / "columns" / "performance.py"
    text = entries.read_text(encoding="utf-8")
    assert text.count(BEFORE) == 1
    entries.write_text(text.replace(BEFORE, ENTRY + BEFORE), encoding="utf-8")
    (package / "store" / "migrations" / "versions" / "v0009_unique_memory.py").write_text(MIGRATION, encoding="utf-8")
    old, new = shutil.copy(SCHEMA_3, folder / "old.db"), folder / "new.db"
    path = os.pathsep.join(map(str, (folder, ROOT / "controller", ROOT / "protos")))
    command = [sys.executable, "-c", PROGRAM, old, new, ROOT / "docs" / "database.md"]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("database", ["old", "new"])
def test_a_reading_reaches_every_reader(report: dict[str, Any], database: str) -> None:
    """One entry and one migration bring a reading to every reader."""
    size = 3 << 20
    assert report[database] == {
        "run_results": size, "results": size, "json": size, "table": True, "read back": size
    }  # fmt: skip


def test_a_metric_is_offered_and_documented(report: dict[str, Any]) -> None:
    """The same entry adds the metric to `compare` and to docs/database.md."""
    assert report["column"] == "peak_uss_bytes"
    assert "unique-memory" in report["listed"]
    assert report["documented"]
