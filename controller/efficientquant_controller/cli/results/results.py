"""`efficientquant results`: the measured numbers for people, or as JSON or CSV."""

import csv
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from efficientquant_controller.cli import output
from efficientquant_controller.cli.durations import utc_time
from efficientquant_controller.cli.next_commands import FIRST_BENCH, command_line
from efficientquant_controller.cli.options import DEFAULT_CONTROLLER, Controller, Json
from efficientquant_controller.cli.results.filters import Filters, read_since
from efficientquant_controller.cli.tables.gains import with_twins
from efficientquant_controller.cli.tables.measures import MEASURES
from efficientquant_controller.cli.tables.view import SORTS, View, choose_view
from efficientquant_controller.cli.waiting import Waiting
from efficientquant_controller.columns import OF_ROWS, Column
from efficientquant_controller.database_location import check_location
from efficientquant_controller.errors import UserError

Rows = Sequence[Mapping[str, Any]]


def _names(option: str, what: str) -> Any:
    return typer.Option(option, metavar="NAME,NAME", help=f"Show only rows of these {what}.")


def command(
    campaign: Annotated[
        str,
        typer.Option(
            "--campaign",
            metavar="ID|latest|all",
            help="Whose results to show. The default is latest, or all with --since or --label.",
        ),
    ] = "",
    metric: Annotated[
        str, typer.Option("--metric", metavar="NAME", help=f"What the table shows: {', '.join(MEASURES)}.")
    ] = "latency",
    gains: Annotated[
        bool, typer.Option("--gains", help="Show each gain over fp32 with its 90 % interval instead of the value.")
    ] = False,
    device: Annotated[str, _names("--device", "devices")] = "",
    model: Annotated[str, _names("--model", "models")] = "",
    recipe: Annotated[str, _names("--recipe", "recipes")] = "",
    label: Annotated[str, _names("--label", "labels, which bench --label gives")] = "",
    verdict: Annotated[
        str, typer.Option("--verdict", metavar="A,B,INVALID", help="Show only rows with one of these verdicts.")
    ] = "",
    since: Annotated[
        str,
        typer.Option(
            "--since", metavar="TIME", help="Show only rows reported since a date, or since a time ago such as 12h."
        ),
    ] = "",
    down: Annotated[
        str, typer.Option("--rows", metavar="NAMES", help="What goes down the table: model, device or recipe.")
    ] = "",
    across: Annotated[
        str, typer.Option("--columns", metavar="NAMES", help="What goes across it, the outer heading first.")
    ] = "",
    sort: Annotated[str, typer.Option("--sort", metavar="|".join(SORTS), help="What the rows are sorted by.")] = SORTS[
        0
    ],
    why: Annotated[
        bool, typer.Option("--why", help="Print each distinct reason once, with how many rows it holds for.")
    ] = False,
    wide: Annotated[
        bool, typer.Option("--wide", help="Print every number of every row, and what each recipe bought in words.")
    ] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, with SI units and every column.")] = False,
    no_pager: Annotated[
        bool, typer.Option("--no-pager", help="Print long output at once. Otherwise $PAGER shows it, or less.")
    ] = False,
    db: Annotated[
        str | None,
        typer.Option("--db", metavar="FILE|URL", help="Read this database directly; needs no controller."),
    ] = None,
    controller: Controller = DEFAULT_CONTROLLER,
    as_json: Json = False,
) -> None:
    """Show the results: models down, devices and recipes across.

    The best recipe of each model on each device is marked, and a line says what each recipe bought over fp32. Names in
    --device, --model, --recipe and --label are separated by commas and may have * and ?. --json and --csv print the
    same rows.
    """
    forms = {"--why": why, "--wide": wide, "--csv": as_csv, "--json": as_json}
    if len(given := [name for name, is_given in forms.items() if is_given]) > 1:
        raise UserError(f"{' and '.join(given)} were {'both' if len(given) == 2 else 'all'} given; choose one")
    view = choose_view(metric, down, across, sort, gains=gains)
    filters = Filters(device, model, recipe, label, verdict, read_since(since) if since else None)
    filters.check()
    wanted = campaign or ("all" if since or label else "latest")
    campaign_id = "" if wanted == "all" else wanted
    rows = _rows_from_controller(controller, campaign_id) if db is None else rows_from_database(db, campaign_id)
    shown = filters.apply(with_twins(rows))
    if as_json or as_csv:
        print_rows(shown, as_csv=as_csv)
    elif not rows:
        output.print_line(f"no results yet; measure something: {command_line(FIRST_BENCH, controller)}")
    elif not shown:
        raise filters.explain(rows)
    else:
        print_for_people(shown, view, form="why" if why else "wide" if wide else "", may_page=not no_pager)


def _rows_from_controller(controller: str, campaign_id: str) -> Rows:
    from efficientquant_controller.cli.connection import Connection

    with Connection(controller) as connection:
        return connection.results(campaign_id)


def rows_from_database(db: str, campaign_id: str) -> Rows:
    """Return result rows from a database, without a controller.

    `campaign_id` is an id, "latest", or empty for all campaigns. Raises StoreError when the database cannot be read.
    """
    check_location(db, writing=False)  # importing SQLAlchemy takes longer than finding a mistyped path
    from efficientquant_controller.fleet.comparing import compared_results
    from efficientquant_controller.store.sql import open_store

    with Waiting(f"results from {db}"):
        store = open_store(db, read_only=True)
        try:
            return compared_results(store, store.campaign(campaign_id).campaign_id if campaign_id else None)
        finally:
            store.close()


def print_rows(rows: Rows, *, as_csv: bool) -> None:
    """Print rows on stdout as CSV or JSON."""
    if as_csv:
        _print_csv(si_rows(rows))
    else:
        output.print_json(si_rows(rows))


def print_for_people(rows: Rows, view: View | None = None, *, form: str = "", may_page: bool = False) -> None:
    """Print rows on stdout as a screen.

    The `form` why prints their reasons, and wide every number. `may_page` allows a pager for long output.
    """
    from efficientquant_controller.cli.paging import paged
    from efficientquant_controller.cli.results.result_table import print_result_tables
    from efficientquant_controller.cli.tables.screen import print_screen
    from efficientquant_controller.cli.tables.why import print_reasons

    console = output.stdout_console()
    with paged(console, allowed=may_page):
        if form == "why":
            print_reasons(rows, console)
        elif form == "wide":
            print_result_tables(rows, console)
        else:
            print_screen(rows, console, view)


def si_rows(rows: Rows) -> list[dict[str, Any]]:
    """Return the rows with exactly the documented columns, in their order.

    A time is ISO 8601 in UTC, under its exported name. A missing value is None.
    """
    return [{column.exported: _exported(column, row.get(column.name)) for column in OF_ROWS} for row in rows]


def _exported(column: Column, value: Any) -> Any:
    return value if column.exported == column.name else utc_time(value)


def _print_csv(rows: list[dict[str, Any]]) -> None:
    writer = csv.DictWriter(sys.stdout, fieldnames=[column.exported for column in OF_ROWS], lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _csv_cell(value) for name, value in row.items()} for row in rows)


def _csv_cell(value: Any) -> Any:
    """Return a cell's value, with lists and mappings as JSON."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value
