"""`efficientquant results`: the measured numbers as a table, JSON or CSV."""

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
from efficientquant_controller.cli.waiting import Waiting
from efficientquant_controller.columns import OF_ROWS, Column
from efficientquant_controller.database_location import check_location
from efficientquant_controller.errors import UserError

Rows = Sequence[Mapping[str, Any]]


def command(
    campaign: Annotated[
        str, typer.Option("--campaign", metavar="ID|latest|all", help="Whose results to show.")
    ] = "latest",
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, with SI units and every column.")] = False,
    db: Annotated[
        str | None,
        typer.Option("--db", metavar="FILE|URL", help="Read this database directly; needs no controller."),
    ] = None,
    controller: Controller = DEFAULT_CONTROLLER,
    as_json: Json = False,
) -> None:
    """Show the results, one row for each device, model and recipe."""
    if as_csv and as_json:
        raise UserError("--csv and --json were both given; choose one")
    campaign_id = "" if campaign == "all" else campaign
    rows = _rows_from_controller(controller, campaign_id) if db is None else rows_from_database(db, campaign_id)
    print_results(rows, as_csv=as_csv, as_json=as_json, controller=controller)


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


def print_results(
    rows: Rows, *, as_csv: bool = False, as_json: bool = False, controller: str = DEFAULT_CONTROLLER
) -> None:
    """Print rows on stdout as tables, CSV or JSON.

    `controller` is for the commands to type next.
    """
    if as_json:
        output.print_json(si_rows(rows))
    elif as_csv:
        _print_csv(si_rows(rows))
    else:
        _print_tables(rows, controller)


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


def _print_tables(rows: Rows, controller: str) -> None:
    from efficientquant_controller.cli.results.result_table import print_result_tables

    if not rows:
        output.print_line(f"no results yet; measure something: {command_line(FIRST_BENCH, controller)}")
        return
    print_result_tables(rows, output.stdout_console())
