"""`efficientquant compare`: the names of jobs, and the printed answers and refusals."""
# ruff: noqa: D102 – the methods of a fake are those of Runs

import json
import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import typer
from efficientquant_controller.analysis.metrics import METRICS
from efficientquant_controller.cli.app import app
from efficientquant_controller.cli.results.compare import LOOK_BACK, choose, find_sides
from efficientquant_controller.errors import UserError
from efficientquant_controller.model import (
    Backend,
    Build,
    Campaign,
    CampaignState,
    DeviceSnapshot,
    Job,
    Measurement,
    Run,
    RunResult,
    StageTiming,
    Weights,
)
from efficientquant_controller.store.sql import open_store
from states import report


def row(job_id: str, campaign: str, device: str, model: str, recipe: str, **changes: Any) -> dict[str, Any]:
    place = {"campaign_id": campaign, "device": device, "model": model, "recipe": recipe}
    return {"job_id": job_id, "run_id": f"{job_id}-0", "repeat_index": 0, "state": "succeeded", **place, **changes}


ROWS = [
    row("job-aaaa", "c-old", "nano", "mobilevit_xxs", "fp32"),
    row("job-bbbb", "c-new", "nano", "mobilevit_xxs", "fp32"),
    row("job-cccc", "c-new", "nano", "mobilevit_xxs", "fp16"),
    row("job-dddd", "c-new", "xavier", "mobilevit_xxs", "fp16"),
    row("job-eeee", "c-new", "nano", "mobilevit_xxs_v2", "fp16"),
]


@pytest.mark.parametrize(
    ("name", "job_id"),
    [
        ("job-cccc", "job-cccc"),
        ("c-old/nano/mobilevit_xxs/fp32", "job-aaaa"),
        ("latest/nano/mobilevit_xxs/fp32", "job-bbbb"),
        ("latest/fp32", "job-bbbb"),
        ("latest/nano/mobilevit_xxs/fp16", "job-cccc"),  # the full name precedes the beginning of mobilevit_xxs_v2
        ("xav", "job-dddd"),
        ("c-old", "job-aaaa"),
        ("mobilevit_xxs_", "job-eeee"),
        ("job-ee", "job-eeee"),
        ("latest//mobilevit_xxs/fp32", "job-bbbb"),
    ],
)
def test_names(name: str, job_id: str) -> None:
    """A job is named by its id, or by enough parts of its name to be unique."""
    assert choose(name, ROWS, "c-new")["job_id"] == job_id


def test_an_ambiguous_name_lists_what_it_may_mean() -> None:
    """A name of two jobs is an error with their full names and ids."""
    with pytest.raises(UserError) as refused:
        choose("nano/mobilevit_xxs/fp32", ROWS, "c-new")

    assert str(refused.value) == (
        "'nano/mobilevit_xxs/fp32' means several jobs: c-old/nano/mobilevit_xxs/fp32 (job-aaaa), "
        "c-new/nano/mobilevit_xxs/fp32 (job-bbbb); name more of it, or a job's id"
    )


@pytest.mark.parametrize("name", ["int8", "fp32/nano", "c-new/c-new"])
def test_a_name_of_nothing_lists_what_there_is(name: str) -> None:
    """An unknown name is an error that lists the first eight jobs."""
    many = [row(f"job-{n}", "c", "nano", "m", f"r{n}") for n in range(10)]

    with pytest.raises(UserError, match=r"there is no job '.*'; there are: c/nano/m/r0 \(job-0\), .* and 2 more$"):
        choose(name, many, "c")
    with pytest.raises(UserError, match="nothing was measured there yet"):
        choose(name, [], "c")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("c-new/nano/mobilevit_xsx/fp32", "; did you mean c-new/nano/mobilevit_xxs/fp32? There are: c-old/nano/"),
        ("a/b/c/d/e", "'a/b/c/d/e' has 5 parts; a job's name is CAMPAIGN/DEVICE/MODEL/RECIPE, or less of it"),
    ],
)
def test_a_misspelt_name_gets_what_was_meant(name: str, sentence: str) -> None:
    """A similar name is suggested, and a malformed name is explained."""
    with pytest.raises(UserError) as refused:
        choose(name, ROWS, "c-new")

    assert sentence in str(refused.value)


@dataclass
class Listing:
    """A campaign with what it measures."""

    campaign_id: str
    models: tuple[str, ...] = ("mobilevit_xxs",)
    recipes: tuple[str, ...] = ("fp32", "fp16")


class FakeRuns:
    """Scripted repeats that record the campaigns that were read."""

    def __init__(self, rows: Sequence[dict[str, Any]], listings: Sequence[Listing] = ()) -> None:
        self.asked: list[str] = []
        self._rows = rows
        self._listings = listings or [Listing("c-new"), Listing("c-old")]

    def campaigns(self) -> Sequence[Listing]:
        return self._listings

    def rows(self, campaign_id: str) -> Sequence[dict[str, Any]]:
        self.asked.append(campaign_id)
        return [row for row in self._rows if campaign_id in ("", row["campaign_id"])]


def test_only_named_campaigns_are_read() -> None:
    """Only the named campaign is read, once for both sides."""
    runs = FakeRuns(ROWS)

    sides = find_sides(runs, "latest/nano/fp32", "c-new/xavier")

    assert ([side.name for side in sides], runs.asked) == (
        ["c-new/nano/mobilevit_xxs/fp32", "c-new/xavier/mobilevit_xxs/fp16"],
        ["c-new"],
    )
    assert [side.others for side in sides] == [(), ()]


def test_sides_hold_succeeded_repeats_in_order() -> None:
    """Failed repeats are left out."""
    repeats = [row("j", "c-new", "nano", "m", "fp32", repeat_index=n, run_id=f"r{n}") for n in (2, 0, 1)]
    repeats[2]["state"] = "failed"

    side, _ = find_sides(FakeRuns([*repeats, *ROWS]), "j", "job-aaaa")

    assert [repeat["repeat_index"] for repeat in side.repeats] == [0, 2]


def test_jobs_of_two_campaigns_come_with_others_of_the_same() -> None:
    """The other campaigns of each job are read, and no campaign of another model or recipe."""
    place = ("nano", "mobilevit_xxs", "fp32")
    rows = [row(f"job-{name}", name, *place) for name in ("new", "mid", "old")]
    rows += [row("job-x", "mid", "xavier", *place[1:]), row("job-f", "failed", *place, state="failed")]
    names = ("new", "mid", "failed", "old")
    listings = [*map(Listing, names), Listing("model", ("m",)), Listing("recipe", recipes=("int8",))]
    runs = FakeRuns(rows, listings)

    side, other = find_sides(runs, "new/fp32", "old/fp32")

    assert [[repeat["run_id"] for repeat in repeats] for repeats in side.others] == [["job-mid-0"], ["job-old-0"]]
    assert [[repeat["run_id"] for repeat in repeats] for repeats in other.others] == [["job-new-0"], ["job-mid-0"]]
    assert sorted(runs.asked) == ["failed", "mid", "new", "old"]


def test_old_campaigns_are_not_read() -> None:
    """Of many other campaigns the newest are read."""
    names = [f"c{number}" for number in range(LOOK_BACK + 10)]
    rows = [row(f"job-{name}", name, "nano", "mobilevit_xxs", "fp32") for name in names]
    runs = FakeRuns(rows, [Listing(name) for name in names])

    side, _ = find_sides(runs, "c0/fp32", f"{names[-1]}/fp32")

    assert len(side.others) == LOOK_BACK
    assert len(runs.asked) == LOOK_BACK + 2


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a database with campaign c1 on device nano.

    fp32 and w4a8 take 20 ms and fp16 10 ms with three repeats each, int8 5 ms with one.
    """
    path = tmp_path_factory.mktemp("measured") / "results.db"
    store = open_store(path)
    snapshot = DeviceSnapshot(board="bench", backends=(Backend("ort-cpu", "1.32.0", ("CPU",)),))
    store.register_device("d1", "nano", "0.1.0", 1, snapshot, 1.0)
    recipes = {"fp32": (0.020, 3), "fp16": (0.010, 3), "int8": (0.005, 1), "w4a8": (0.020, 3)}
    names = (("m",), tuple(recipes), ("nano",))
    measurement = Measurement("demo", 0.3, 64)
    campaign = Campaign("c1", CampaignState.RUNNING, 1.0, *names, Weights("random"), measurement, 3, 0)
    builds = [Build("c1", "m", recipe) for recipe in recipes]
    jobs = [Job(f"j-{recipe}", "c1", "d1", "m", recipe) for recipe in recipes]
    runs = [Run(f"{name}-{k}", f"j-{name}", k, k) for name, (_, count) in recipes.items() for k in range(count)]
    store.create_campaign(campaign, builds, jobs, runs)
    for run in runs:
        report(store, result(run.run_id, recipes[run.run_id.partition("-")[0]][0], snapshot), 2.0)
    store.close()
    return path


@pytest.fixture
def database(measured: Path, tmp_path: Path) -> str:
    """Return a copy of the measured campaign that a test may change."""
    return str(shutil.copy(measured, tmp_path))


def result(run_id: str, latency_s: float, snapshot: DeviceSnapshot, **changes: Any) -> RunResult:
    """Return a steady run of a hundred inferences."""
    stages = tuple(StageTiming(name, 0.1, cold=True) for name in ("read", "session_create", "first_inference"))
    latencies = tuple(latency_s * (1 + 0.002 * (n * 7 % 11) / 11) for n in range(100))
    made = RunResult(
        run_id=run_id, device_id="d1", attempt=1, failure_type="", failure_message="", log_tail=(),
        started_unix_s=1.0, started_monotonic_s=1.0, duration_s=3.0, agent_version="0.1.0", protocol_version=1,
        stages=stages, warmup_converged=True, warmup_latency_s=(0.1,), latency_s=latencies, series=(),
        backend="ort-cpu", providers=("CPU",), library_versions={}, session_options={"intra_op_threads": "0"},
        device=snapshot,
        measured={"peak_rss_bytes": 100 << 20, "cpu_wait_share": 0.0, "sampler_cpu_s": 0.001, "sampler_wakeups": 30},
    )  # fmt: skip
    return replace(made, **changes)


def test_one_answer(command, database):
    """The output is both jobs with value and counts, then the answer with its interval."""
    outcome = command("compare", "latest/fp32", "fp16", "--db", database)

    assert (outcome.exit_code, outcome.err) == (0, "")
    assert outcome.out.splitlines() == [
        "first:  c1/nano/m/fp32 · 20.02 ms · 3 repeats",
        "second: c1/nano/m/fp16 · 10.01 ms · 3 repeats",
        "the second is 2.00× faster than the first in median latency (90 % interval 2.00–2.00), by Mann-Whitney over "
        "repeats",
    ]


def test_one_process_answers_nothing(command, database):
    """With one repeat there is not enough data, and the sentence says what is needed."""
    outcome = command("compare", "fp32", "int8", "--db", database)

    assert outcome.out.splitlines()[1:] == [
        "second: c1/nano/m/int8 · 5.005 ms · 1 repeat",
        "not enough data in median latency: first over second is 4.00 (no interval); 3 and 1 repeats allow none, "
        "three each do",
    ]


@pytest.mark.parametrize(
    ("metric", "answer"),
    [("load", "same"), ("memory", "same"), ("latency-p99", "faster"), ("energy", "not enough data")],
)
def test_other_metrics(command, database, metric, answer):
    """Every metric exits with 0 and an answer, even if there is not enough data."""
    outcome = command("compare", "fp32", "fp16", "--db", database, "--metric", metric, "--json")

    comparison = json.loads(outcome.out)
    assert (outcome.exit_code, comparison["metric"], comparison["answer"]) == (0, metric, answer)


def test_the_least_effect_may_be_chosen(command, database):
    """--min-effect sets the least difference that counts, and other values than percentages are refused."""
    names = ("compare", "fp32", "w4a8", "--db", database, "--min-effect")

    same, counted, nonsense = (command(*names, percent) for percent in ("12.5", "0.2", "0"))

    assert "the same in median latency, within 12.5 %" in same.out
    assert json.loads(command(*names, "12.5", "--json").out)["min_effect"] == 0.125
    assert "within 0.2 %" in counted.out
    assert (nonsense.exit_code, nonsense.err) == (2, "error: --min-effect 0: give a number from 0.1 to 100 percent\n")


def test_a_refusal_names_the_difference_and_leaves_with_2(command, database):
    """Unlike jobs are refused, also with --json, and --force turns the refusal into a footnote."""
    add_campaign(database, "quick")

    refused = command("compare", "c1/fp32", "c2/fp32", "--db", database)
    as_json = command("compare", "c1/fp32", "c2/fp32", "--db", database, "--json")
    forced = command("compare", "c1/fp32", "c2/fp32", "--db", database, "--force")

    assert (refused.exit_code, as_json.exit_code, forced.exit_code) == (2, 2, 0)
    assert refused.out.splitlines() == ["first:  c1/nano/m/fp32", "second: c2/nano/m/fp32"]
    assert refused.err == (
        "error: not comparable in median latency: tier: demo for the first, quick for the second; "
        "pass --force to compare them all the same, with this as a footnote\n"
    )
    assert json.loads(as_json.out)["refusals"] == ["tier: demo for the first, quick for the second"]
    assert "  note: tier: demo for the first, quick for the second" in forced.out.splitlines()


def test_a_verdict_stands_below(command, database):
    """The answer has a note for doubtful or invalid runs of a side."""
    add_campaign(database, "demo", warmup_converged=False)

    lines = command("compare", "c1/fp32", "c2/fp32", "--db", database).out.splitlines()

    reason = "the warm-up ended by its time limit, before three windows agreed within 5 %"
    assert lines[2] == "not enough data in median latency: first over second is 1.00 (no interval)"
    assert lines[3] == (
        "  note: measured in different campaigns, with 0 other steady campaigns of this job, where 5 are needed; "
        "another campaign of this job adds to what is known"
    )
    assert lines[4] == f"  note: 3 of 3 repeats of the second graded B ({reason})"


def add_campaign(database: str, tier: str, **changes: Any) -> None:
    """Add campaign c2, which measures fp32 again."""
    store = open_store(database)
    names = (("m",), ("fp32",), ("nano",))
    asked = Campaign("c2", CampaignState.RUNNING, 3.0, *names, Weights("random"), Measurement(tier, 0.3, 64), 3, 0)
    runs = [Run(f"again-{k}", "j-again", k, k) for k in range(3)]
    store.create_campaign(asked, [Build("c2", "m", "fp32")], [Job("j-again", "c2", "d1", "m", "fp32")], runs)
    snapshot = store.device("d1").snapshot
    for run in runs:
        report(store, result(run.run_id, 0.020, snapshot, **changes), 4.0)
    store.close()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("fp32", "int4"), "there is no job 'int4'; there are: c1/nano/m/fp32 (j-fp32), "),
        (("fp32", "fp"), "'fp' means several jobs: "),
        (("fp32", "fp32"), "not comparable in median latency: both are job j-fp32"),
        (("fp32", "fp16", "--metric", "beauty"), "there is no metric 'beauty' to compare (there are: latency, "),
    ],
)
def test_what_cannot_be_done_is_one_sentence(command, database, words, sentence):
    """A wrong name or metric is one line on stderr and exit code 2."""
    outcome = command("compare", *words, "--db", database)

    assert outcome.exit_code == 2
    assert outcome.err.startswith(f"error: {sentence}")
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        ("delete from jobs where job_id = 'j-fp16'", "there is no job 'fp16'; "),
        ("delete from runs", "there is no job 'fp32': nothing was measured there yet"),
        ("delete from campaigns", "there is no job 'fp32': nothing was measured there yet"),
    ],
)
def test_what_is_gone_from_a_database_is_one_sentence(command, database, damage, sentence):
    """Rows that were deleted from the database are named, with exit code 2."""
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(damage)

    outcome = command("compare", "fp32", "fp16", "--db", database)

    assert (outcome.exit_code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert outcome.err.startswith(f"error: {sentence}")


def test_a_side_without_a_succeeded_run_is_refused(command, database):
    """A job without a succeeded repeat is refused as having nothing to compare."""
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("update runs set state = 'failed' where job_id = 'j-fp16'")

    outcome = command("compare", "fp32", "fp16", "--db", database)

    assert outcome.exit_code == 2
    assert outcome.err.startswith("error: not comparable in median latency: no repeat of the second has succeeded")


def test_a_missing_database_is_not_made(command, tmp_path):
    """A database file that does not exist is an error, and is not created."""
    outcome = command("compare", "a", "b", "--db", str(tmp_path / "typo.db"))

    assert (outcome.exit_code, list(tmp_path.iterdir())) == (2, [])
    assert "there is no database" in outcome.err


def test_help_names_every_metric():
    """The help of --metric lists every metric."""
    parameters = typer.main.get_command(app).commands["compare"].params
    [option] = [parameter for parameter in parameters if parameter.name == "metric"]

    assert all(name in option.help for name in METRICS)
