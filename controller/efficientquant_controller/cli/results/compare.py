"""`efficientquant compare`: two jobs and the difference between them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
DEFAULT_METRIC = "latency"
# A job's name: these columns, joined by slashes.
_PARTS = ("campaign_id", "device", "model", "recipe")
_MAX_LISTED = 8
# Reading many campaigns takes time, and old ones say little about a device of today.
LOOK_BACK = 50
_MIN_ID_PREFIX = 6
_NAMED = "a job's id, or CAMPAIGN/DEVICE/MODEL/RECIPE or as much of it as tells it from the others"


def command(
    first: Annotated[
        str, typer.Argument(metavar="FIRST", help=f"What to compare with: {_NAMED}; CAMPAIGN may be latest.")
    ],
    second: Annotated[str, typer.Argument(metavar="SECOND", help="What the answer is about, named likewise.")],
    metric: Annotated[
        str,
        typer.Option(
            "--metric",
            help=f"{metrics_listed()}.",
        ),
    ] = DEFAULT_METRIC,
    force: Annotated[
        bool, typer.Option("--force", help="Compare unlike jobs too; what differs becomes a footnote.")
    ] = False,
    rerun: Annotated[
        bool,
        typer.Option("--rerun", help="Measure both jobs again in one campaign, which can tell them apart."),
    ] = False,
    min_effect: MinEffect = MIN_EFFECT * 100,
    db: Annotated[
        str | None,
        typer.Option("--db", metavar="FILE|URL", help="Read this database directly; needs no controller."),
    ] = None,
    controller: Controller = DEFAULT_CONTROLLER,
    as_json: Json = False,
) -> None:
    """Compare two jobs of any campaigns and devices.

    The answer is that the second is faster, slower or the same, or that there is not enough data.
    """
    from efficientquant_controller.analysis.job_comparison import compare_jobs

    compared_metric = _metric(metric)
    if rerun:
        options = [] if metric == DEFAULT_METRIC else ["--metric", metric]
        _rerun((first, second), options, db, controller, as_json=as_json)
        return
    with _opened(db, controller) as runs:
        sides = find_sides(runs, first, second)
    with Waiting("the comparison to be computed"):
        comparison = compare_jobs(*sides, compared_metric, force=force, min_effect=min_effect / 100)
    print_comparison(comparison, as_json=as_json)


def _rerun(names: tuple[str, str], options: Sequence[str], db: str | None, controller: str, *, as_json: bool) -> None:
    from efficientquant_controller.cli.connection import Connection
    from efficientquant_controller.cli.results.rerun import rerun

    if db is not None:
        raise UserError("--rerun measures again, and --db reads a file without a controller; leave out one of them")
    with Connection(controller) as connection:
        rerun(connection, *find_sides(ControllerRuns(connection), *names), options, as_json=as_json)


def print_comparison(comparison: "JobComparison", *, as_json: bool = False) -> None:
    """Print an answer with its interval, counts and footnotes.

    Raises UserError for a refusal, or typer.Exit(2) with `as_json`.
    """
    if as_json:
        output.print_json(comparison.to_dict())
        if comparison.refused:
            raise typer.Exit(2)
        return
    for label, name, value, repeats in (
        ("first:  ", comparison.first, comparison.first_value, comparison.first_repeats),
        ("second: ", comparison.second, comparison.second_value, comparison.second_repeats),
    ):
        count = "" if comparison.refused else f" · {_counted(repeats, 'repeat')}"
        output.print_line(f"{label}{name}{'' if value is None else f' · {readable(value, comparison.unit)}'}{count}")
    if not comparison.refused:
        output.print_line(comparison.sentence + (f", by {comparison.method}" if comparison.method else ""))
    for footnote in comparison.footnotes:
        output.print_line(f"  note: {footnote}")
    if comparison.refused:
        raise UserError(f"{comparison.sentence}; pass --force to compare them all the same, with this as a footnote")


class Listed(Protocol):
    """What a list of campaigns says about each of them."""

    @property
    def campaign_id(self) -> str:
        """The campaign's id."""

    @property
    def models(self) -> tuple[str, ...]:
        """The models that it measures."""

    @property
    def recipes(self) -> tuple[str, ...]:
        """The recipes that it measures."""


class Runs(Protocol):
    """The source of repeats, a database or a controller."""

    def campaigns(self) -> Sequence[Listed]:
        """Return every campaign, newest first."""

    def rows(self, campaign_id: str) -> Sequence[Row]:
        """Return one campaign's rows of the view `run_results`.

        An empty `campaign_id` means all campaigns.
        """


def find_sides(runs: Runs, first: str, second: str) -> "tuple[Side, Side]":
    """Return the two named jobs with their succeeded repeats.

    Jobs of different campaigns come with those of other campaigns, among the newest LOOK_BACK that measured the same.
    Raises UserError for a name that means no job or several.
    """
    from efficientquant_controller.analysis.metrics import Side

    campaigns = runs.campaigns()
    ids = [campaign.campaign_id for campaign in campaigns]
    read = cache(runs.rows)  # each campaign once
    tables = [read(_campaign_of(name, ids)) for name in (first, second)]
    latest = ids[0] if ids else ""
    jobs = [(rows, choose(name, rows, latest)) for name, rows in zip((first, second), tables, strict=True)]
    is_apart = len({job["campaign_id"] for _, job in jobs}) > 1
    sides = [
        Side(full_name(job), _succeeded(rows, job), _others(job, campaigns, read) if is_apart else ())
        for rows, job in jobs
    ]
    return sides[0], sides[1]


def _succeeded(rows: Sequence[Row], job: Row) -> list[Row]:
    """Return the succeeded repeats of a job, in their order."""
    repeats = [row for row in rows if row["job_id"] == job["job_id"] and row["state"] == "succeeded"]
    return sorted(repeats, key=lambda row: int(row["repeat_index"]))


def _others(job: Row, campaigns: Sequence[Listed], read: Callable[[str], Sequence[Row]]) -> list[list[Row]]:
    """Return the succeeded repeats of each other campaign of a job."""
    alike = [
        campaign.campaign_id
        for campaign in campaigns
        if job["model"] in campaign.models
        and job["recipe"] in campaign.recipes
        and campaign.campaign_id != job["campaign_id"]
    ]
    others = []
    for campaign_id in alike[:LOOK_BACK]:
        rows = read(campaign_id)
        jobs = [row for row in rows if all(row[part] == job[part] for part in _PARTS[1:])]
        if repeats := [repeat for row in jobs[:1] for repeat in _succeeded(rows, row)]:
            others.append(repeats)
    return others


def choose(name: str, rows: Sequence[Row], latest: str) -> Row:
    """Return the job that a name means, as one of its rows.

    A name is a job's id, or parts of CAMPAIGN/DEVICE/MODEL/RECIPE in this order. Each part may be shortened to its
    beginning. The job with the most parts named in full wins. If no job fits, the name may be the beginning of a job's
    id. Raises UserError when it means no job or several.
    """
    jobs = {str(row["job_id"]): row for row in rows}
    if name in jobs:
        return jobs[name]
    parts = name.split("/")
    ranks = {job_id: _rank(parts, row, latest) for job_id, row in jobs.items()}
    best = max(ranks.values(), default=-1)
    matches = [jobs[job_id] for job_id, rank in ranks.items() if rank == best >= 0]
    if not matches and len(name) >= _MIN_ID_PREFIX:
        matches = [row for job_id, row in jobs.items() if job_id.startswith(name)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise UserError(f"{name!r} means several jobs: {_listed(matches)}; name more of it, or a job's id")
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
    """Return a job's full name."""
    return "/".join(str(row[part]) for part in _PARTS)


def _rank(parts: Sequence[str], row: Row, latest: str) -> int:
    """Return how many parts name their columns in full.

    The best assignment of parts to columns counts. Returns -1 when none fits.
    """
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
    """Return the campaign that a name begins with.

    Only that campaign has to be read. An empty text means all campaigns.
    """
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
    """The repeats in a database."""

    def __init__(self, store: "Store") -> None:
        self._store = store

    def campaigns(self) -> Sequence[Listed]:
        """Return every campaign, newest first."""
        return self._store.campaigns()

    def rows(self, campaign_id: str) -> Sequence[Row]:
        """Return rows of the view `run_results`."""
        return self._store.run_rows(campaign_id or None)


class ControllerRuns:
    """The repeats of a controller, read by QueryRuns."""

    def __init__(self, connection: "Connection") -> None:
        self._connection = connection

    def campaigns(self) -> Sequence[Listed]:
        """Return every campaign, newest first."""
        return self._connection.campaigns()

    def rows(self, campaign_id: str) -> Sequence[Row]:
        """Return rows of the view `run_results`."""
        return self._connection.runs(campaign_id)
