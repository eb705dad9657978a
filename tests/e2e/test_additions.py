"""The edits that additions need, made in copies of the packages.

The additions are a backend, a sampler, a metric, a recipe and a verb.
"""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from additions import Copies
from efficientquant_controller.store.series import RawSamples, unpack_series
from fleet import Fleet

TINY = "test_efficientnet"
AGENT, CONTROLLER = "agent/efficientquant_agent/", "controller/efficientquant_controller/"
BACKEND, VARIANTS = AGENT + "backends/toy.py", CONTROLLER + "fleet/variants.py"
TOY = '''"""A runtime that computes as ONNX Runtime does, from files of its own form."""

from efficientquant_agent.backends.base import Form
from efficientquant_agent.backends.ort import OrtCpu


class Toy(OrtCpu):
    """Preferred to all others."""

    name = "toy"
    preference = 1
    forms = (Form((1, 0), "toy", 13),)


BACKENDS = (Toy,)
'''
SAMPLER, DISCOVERY = AGENT + "samplers/fan.py", AGENT + "samplers/discovery.py"
FAN = '''"""A fan that always turns."""

from efficientquant_agent.samplers.base import Sampler


class Fan(Sampler):
    name = "fan_rpm"

    def sample(self):
        return 1200.0

    def close(self):
        pass


BOARD_PARTS = (lambda roots: [Fan()],)
'''
RECIPE = "controller/efficientquant/methods/plain.py"
PLAIN = '''"""The model as it is, under another name."""

from efficientquant.methods.fp32 import Fp32
from efficientquant.recipe import register


class Plain(Fp32):
    """Nothing is quantized."""

    method = "plain"


register(Plain(name="plain"))
'''
VERB, APP = CONTROLLER + "cli/library/greet.py", CONTROLLER + "cli/app.py"
GREET = '''"""`efficientquant greet`."""


def command() -> None:
    """Say hello."""
    print("hello")
'''
CHILD, RECORDS = AGENT + "child/measure.py", AGENT + "records.py"
ENTRIES, MIGRATION = CONTROLLER + "columns/performance.py", CONTROLLER + "store/migrations/versions/v0009_luck.py"
LUCK = '_reading("luck_bytes", "a lucky number"),'
ADD_LUCK = '''"""Schema 6: luck."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.add_column("runs", sa.Column("luck_bytes", sa.BigInteger(), nullable=True))
'''
# Files to write and lines to insert for each addition, counted by path.
COUNTS = {
    "backend": {BACKEND: 1, VARIANTS: 1},
    "sampler": {SAMPLER: 1, DISCOVERY: 1},
    "metric of the child": {CHILD: 1, RECORDS: 1, ENTRIES: 1, MIGRATION: 1},
    "recipe": {RECIPE: 1},
    "verb": {VERB: 1, APP: 1},
}


@pytest.fixture
def copies(tmp_path: Path) -> Copies:
    """Copy the sources and add the toy backend to the agent."""
    copies = Copies(tmp_path / "sources")
    copies.add_file(BACKEND, TOY)
    return copies


@pytest.fixture
def fleet(tmp_path: Path, copies: Copies) -> Iterator[Fleet]:
    """Return a fleet that runs the copies, with nothing started."""
    fleet = Fleet(tmp_path, copies.environment)
    yield fleet
    fleet.close()


def add_all(copies: Copies) -> None:
    """Make the other additions."""
    copies.insert_after(VARIANTS, "FORMS = (", '    Form("toy", 13, "onnxruntime-1.10"),')
    copies.add_file(SAMPLER, FAN)
    copies.insert_after(DISCOVERY, "MODULES = (", '    "fan",')
    copies.add_file(RECIPE, PLAIN)
    copies.add_file(VERB, GREET)
    copies.insert_after(APP, "VERBS = (", '    "library.greet",')
    copies.insert_after(CHILD, "readings=Readings(", "                luck_bytes=7.0,")
    copies.insert_after(RECORDS, "class Readings(NamedTuple):", "    luck_bytes: Optional[float] = None")
    copies.insert_after(ENTRIES, "MEMORY = (", f"    {LUCK}")
    copies.add_file(MIGRATION, ADD_LUCK)


def test_each_addition_takes_the_counted_files(fleet: Fleet, copies: Copies) -> None:
    """A campaign runs with all additions and no other edits, as docs/architecture.md counts them."""
    add_all(copies)
    fleet.start_controller()
    fleet.connect_agent("desk")

    done = fleet.run(
        *("bench", TINY, "--recipes", "plain", "--no-twin", "--weights", "random", "--tier", "demo", "--repeats", "1"),
        "--json",
    )
    [row] = json.loads(done.stdout)["results"]
    run, samples = only_run(fleet)
    greeted = fleet.run("greet")

    assert (row["state"], row["backend"], row["target"]) == ("succeeded", "toy", "onnxruntime-1.10")
    assert (row["recipe"], greeted.stdout, run["luck_bytes"]) == ("plain", "hello\n", 7)
    assert "fan_rpm" in [series.name for series in samples.series]
    assert copies.added == {path: count for counts in COUNTS.values() for path, count in counts.items()}


def only_run(fleet: Fleet) -> tuple[dict[str, Any], RawSamples]:
    """Return the only run with its samples, read by SQL.

    The store of this process does not know schema 5.
    """
    with closing(sqlite3.connect(fleet.db)) as connection:
        connection.row_factory = sqlite3.Row
        [run] = connection.execute("SELECT * FROM run_results")
        [(blob,)] = connection.execute("SELECT samples FROM series")
    return dict(run), unpack_series(blob)


def test_a_controller_without_the_row_refuses_it(fleet: Fleet, copies: Copies) -> None:
    """An agent with an unknown backend may connect, and only campaigns on that backend are refused.

    A helper module among the backends changes nothing.
    """
    copies.add_file(AGENT + "backends/toy_building.py", "LIMIT = 3\n")
    fleet.start_controller()
    fleet.connect_agent("desk")

    [device] = fleet.json("devices")
    refused = fleet.run("bench", TINY, "--recipes", "fp32", "--weights", "random", "--tier", "demo")

    assert [backend["name"] for backend in device["snapshot"]["backends"]][:2] == ["toy", "ort-cpu"]
    assert refused.returncode == 2
    assert "device 'desk' would run 'toy', which builds from the form 'toy' (opset 13, no" in refused.stderr
    assert "name another of its backends with --backend (it has: toy, ort-cpu" in refused.stderr
    assert fleet.submit(TINY, backend="ort-cpu")
