"""`efficientquant compare`: two jobs, one answer, or the difference that forbids one."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from functools import cache
from itertools import combinations
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from efficientquant_controller.analysis.comparison import MIN_EFFECT
from efficientquant_controller.analysis.metrics import metrics_listed
from efficientquant_controller.analysis.report import readable
from efficientquant_controller.cli import output
from efficientquant_controller.cli.numbers import MinEffect
from efficientquant_controller.cli.options import DEFAULT_CONTROLLER, Controller, Json
from efficientquant_controller.cli.waiting import Waiting
from efficientquant_controller.database_location import check_location
from efficientquant_controller.errors import UserError

if TYPE_CHECKING:
    from efficientquant_controller.analysis.job_comparison import JobComparison
    from efficientquant_controller.analysis.metrics import Metric, Side
    from efficientquant_controller.cli.connection import Connection
    from efficientquant_controller.store.base import Store

Row = Mapping[str, Any]
LATEST = "latest"
# A job's name: these columns, joined by slashes.
_PARTS = ("campaign_id", "device", "model", "recipe")
_MAX_LISTED = 8
_MIN_ID_PREFIX = 6
_NAMED = "a job's id, or CAMPAIGN/DEVICE/MODEL/RECIPE or as much of it as tells it from the others"


def command(
    a: Annotated[str, typer.Argument(metavar="A", help=f"What to compare with: {_NAMED}; CAMPAIGN may be latest.")],
    b: Annotated[str, typer.Argument(metavar="B", help="What the answer is about, named likewise.")],
    metric: Annotated[
        str,
        typer.Option(
            "--metric",
            help=f"{metrics_listed()}.",
        ),
    ] = "latency",
    force: Annotated[
        bool, typer.Option("--force", help="Compare unlike jobs too; what differs becomes a footnote.")
    ] = False,
    min_effect: MinEffect = MIN_EFFECT * 100,
    db: Annotated[
        str | None,
        typer.Option("--db", metavar="FILE|URL", help="Read this database directly; needs no controller."),
    ] = None,
    controller: Controller = DEFAULT_CONTROLLER,
    as_json: Json = False,
) -> None:
    """Compare two jobs, of any campaigns and devices: whether B is faster, slower, the same, or there is too little."""
    from efficientquant_controller.analysis.job_comparison import compare_jobs

    chosen = _metric(metric)
    with _opened(db, controller) as runs:
        sides = find_sides(runs, a, b, with_samples=chosen.percent is not None)
    with Waiting("the comparison to be computed"):
        found = compare_jobs(*sides, chosen, force=force, min_effect=min_effect / 100)
    print_comparison(found, as_json=as_json)


def print_comparison(found: "JobComparison", *, as_json: bool = False) -> None:
    """Print an answer with its interval, counts and footnotes; raises UserError, or leaves with 2, for a refusal."""
    if as_json:
        output.print_json(found.to_dict())
        if found.refused:
            raise typer.Exit(2)
        return
    for label, name, value, repeats, samples in (
        ("A", found.a, found.value_a, found.repeats_a, found.samples_a),
        ("B", found.b, found.value_b, found.repeats_b, found.samples_b),
    ):
        counts = "" if found.refused else f" · {_counted(repeats, 'repeat')}"
        counts += f" · {_counted(samples, 'sample')}" if samples else ""
        output.print_line(f"{label}: {name}{'' if value is None else f' · {readable(value, found.unit)}'}{counts}")
    if not found.refused:
        output.print_line(found.sentence + (f", by {found.method}" if found.method else ""))
    for footnote in found.footnotes:
        output.print_line(f"  note: {footnote}")
    if found.refused:
        raise UserError(f"{found.sentence}; pass --force to compare them all the same, with this as a footnote")


class Runs(Protocol):
    """Where repeats come from: a database, or a controller."""

    def campaign_ids(self) -> Sequence[str]:
        """Every campaign, newest first."""

    def rows(self, campaign_id: str) -> Sequence[Row]:
        """The rows of the view `run_results` of one campaign, or of all when it is empty."""

    def latencies(self, repeats: Sequence[Row]) -> list[Sequence[float]]:
        """The raw latencies of some of those rows, which are of one job, in their order."""


def find_sides(runs: Runs, a: str, b: str, *, with_samples: bool) -> "tuple[Side, Side]":
    """Find the two jobs that names mean, with their succeeded repeats; raises UserError for a name that means none."""
    from efficientquant_controller.analysis.metrics import Side

    campaigns = runs.campaign_ids()
    latest = campaigns[0] if campaigns else ""
    read = cache(runs.rows)  # each campaign once
    sides = []
    for name in (a, b):
        rows = read(_campaign_of(name, campaigns))
        job = choose(name, rows, latest)
        mine = [row for row in rows if row["job_id"] == job["job_id"] and row["state"] == "succeeded"]
        repeats = sorted(mine, key=lambda row: int(row["repeat_index"]))
        samples = runs.latencies(repeats) if with_samples and repeats else []
        sides.append(Side(full_name(job), repeats, samples))
    return sides[0], sides[1]


def choose(name: str, rows: Sequence[Row], latest: str) -> Row:
    """The one job that a name means, as one of its rows; raises UserError where it means none or several.

    A name is a job's id, or parts of CAMPAIGN/DEVICE/MODEL/RECIPE in this order, each the beginning of what it names;
    one that is named in full goes before those that only begin so.
    """
    jobs = {str(row["job_id"]): row for row in rows}
    if name in jobs:
        return jobs[name]
    parts = name.split("/")
    ranks = {job_id: _rank(parts, row, latest) for job_id, row in jobs.items()}
    best = max(ranks.values(), default=-1)
    found = [jobs[job_id] for job_id, rank in ranks.items() if rank == best >= 0]
    if not found and len(name) >= _MIN_ID_PREFIX:
        found = [row for job_id, row in jobs.items() if job_id.startswith(name)]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"{name!r} means several jobs: {_listed(found)}; name more of it, or a job's id")
    raise _no_job(name, list(jobs.values()))


def _no_job(name: str, jobs: Sequence[Row]) -> UserError:
    if not jobs:
        return UserError(f"there is no job {name!r}: nothing was measured there yet")
    parts = name.count("/") + 1
    if parts > len(_PARTS):
        return UserError(f"{name!r} has {parts} parts; a job's name is CAMPAIGN/DEVICE/MODEL/RECIPE, or less of it")
    close = get_close_matches(name, [full_name(row) for row in jobs], n=1)
    meant = f"did you mean {close[0]}? There" if close else "there"
    return UserError(f"there is no job {name!r}; {meant} are: {_listed(jobs)}")


def full_name(row: Row) -> str:
    """A job's name in full."""
    return "/".join(str(row[part]) for part in _PARTS)


def _rank(parts: Sequence[str], row: Row, latest: str) -> int:
    """How many parts name their columns in full, in the best way to share them out; -1 where there is none."""
    ways = combinations(_PARTS, len(parts))
    return max((_rank_of(zip(columns, parts, strict=True), row, latest) for columns in ways), default=-1)


def _rank_of(pairs: Iterable[tuple[str, str]], row: Row, latest: str) -> int:
    rank = 0
    for column, part in pairs:
        value = str(row[column])
        whole = value == part or (column == "campaign_id" and part == LATEST and value == latest)
        if not whole and not value.startswith(part):
            return -1
        rank += whole
    return rank


def _campaign_of(name: str, campaigns: Sequence[str]) -> str:
    """The campaign that a name begins with, so that no other needs to be read; empty for all."""
    first = name.partition("/")[0]
    if first == LATEST and campaigns:
        return campaigns[0]
    return first if first in campaigns else ""


def _listed(jobs: Sequence[Row]) -> str:
    names = [f"{full_name(row)} ({row['job_id']})" for row in jobs]
    more = len(names) - _MAX_LISTED
    return ", ".join(names[:_MAX_LISTED]) + (f" and {more} more" if more > 0 else "")


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _metric(name: str) -> "Metric":
    from efficientquant_controller.analysis.metrics import METRICS

    if name not in METRICS:
        close = get_close_matches(name, list(METRICS), n=1)
        meant = f", did you mean {close[0]}?" if close else ""
        raise UserError(f"there is no metric {name!r} to compare{meant} (there are: {', '.join(METRICS)})")
    return METRICS[name]


@contextmanager
def _opened(db: str | None, controller: str) -> Iterator[Runs]:
    if db is None:
        from efficientquant_controller.cli.connection import Connection

        with Connection(controller) as connection:
            yield ControllerRuns(connection)
        return
    check_location(db, writing=False)
    from efficientquant_controller.store.sql import open_store

    store = open_store(db, read_only=True)
    try:
        with Waiting(f"runs from {db}"):
            yield DatabaseRuns(store)
    finally:
        store.close()


class DatabaseRuns:
    """Repeats out of a database."""

    def __init__(self, store: "Store") -> None:
        self._store = store

    def campaign_ids(self) -> Sequence[str]:
        """Every campaign, newest first."""
        return [one.campaign_id for one in self._store.campaigns()]

    def rows(self, campaign_id: str) -> Sequence[Row]:
        """The view's rows."""
        return self._store.run_rows(campaign_id or None)

    def latencies(self, repeats: Sequence[Row]) -> list[Sequence[float]]:
        """The raw latencies of some of them."""
        return [self._store.raw_result(row["run_id"]).latency_s for row in repeats]


class ControllerRuns:
    """Repeats from a controller, by QueryRuns."""

    def __init__(self, connection: "Connection") -> None:
        self._connection = connection

    def campaign_ids(self) -> Sequence[str]:
        """Every campaign, newest first."""
        return [one.campaign_id for one in self._connection.campaigns()]

    def rows(self, campaign_id: str) -> Sequence[Row]:
        """The view's rows, without samples."""
        return [row for row, _ in self._connection.runs(campaign_id)]

    def latencies(self, repeats: Sequence[Row]) -> list[Sequence[float]]:
        """The raw latencies of some of them."""
        answer = self._connection.runs(repeats[0]["campaign_id"], latencies_of_jobs=[repeats[0]["job_id"]])
        samples = {row["run_id"]: latency_s for row, latency_s in answer}
        if gone := [str(row["run_id"]) for row in repeats if row["run_id"] not in samples]:
            raise UserError(f"the controller no longer has the run {gone[0]!r}; look at 'efficientquant results'")
        return [samples[row["run_id"]] for row in repeats]
