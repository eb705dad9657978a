"""`efficientquant results`: JSON, CSV, and the source of the rows."""

import csv
import io
import json

import pytest
from efficientquant_controller.columns import OF_ROWS
from efficientquant_controller.store.sql import open_store
from efficientquant_protos.v1 import fleet_pb2 as pb

FIELDS = [column.exported for column in OF_ROWS]


@pytest.mark.parametrize(("asked", "sent"), [("latest", "latest"), ("c7", "c7"), ("all", "")])
def test_campaign_is_asked_for(command, control, asked, sent):
    """--campaign takes an id, latest or all."""
    command("results", "--campaign", asked)

    assert control.requests == [pb.QueryJobsRequest(campaign_id=sent)]


def test_json_is_si_with_nulls(command, control, messages):
    """--json prints every column in SI units, with null for a missing value."""
    control.rows = [messages.row(p50_s=0.0125)]

    (row,) = json.loads(command("results", "--json").out)

    assert list(row) == FIELDS
    assert (row["latency_p50_s"], row["peak_pss_bytes"], row["board_memory_delta_bytes"]) == (0.0125, 80 << 20, None)


def test_csv_is_si_with_empty_cells(command, control, messages):
    """--csv prints every column in SI units, with an empty cell for a missing value."""
    control.rows = [messages.row(failure_message='no, "really"\nnot')]

    table = list(csv.reader(io.StringIO(command("results", "--csv").out)))

    row = dict(zip(table[0], table[1], strict=True))
    assert table[0] == FIELDS
    assert (row["latency_p50_s"], row["board_memory_delta_bytes"]) == ("0.02", "")
    assert row["failure_message"] == 'no, "really"\nnot'


def test_lists_and_mappings_in_csv_are_json(command, control, messages):
    """A CSV cell with several values is JSON, and empty without a value."""
    judged = {"verdict": "B", "verdict_reasons": ['too "warm"', "5 % off"], "conditions": {"clocks": "free"}}
    control.rows = [messages.row(**judged), messages.row()]

    rows = list(csv.DictReader(io.StringIO(command("results", "--csv").out)))

    assert json.loads(rows[0]["verdict_reasons"]) == ['too "warm"', "5 % off"]
    assert json.loads(rows[0]["conditions"]) == {"clocks": "free"}
    assert [rows[1][name] for name in ("verdict", "verdict_reasons", "conditions")] == ["", "", ""]


@pytest.mark.parametrize("form", ["--json", "--csv"])
def test_times_are_iso_8601_in_utc(command, control, messages, form):
    """Exported times are ISO 8601 in UTC, and unknown ones are empty."""
    control.rows = [messages.row(started_unix_s=1_772_357_400.25), messages.row(started_unix_s=1e300)]

    out = command("results", form).out

    rows = json.loads(out) if form == "--json" else list(csv.DictReader(io.StringIO(out)))
    assert [row["started_utc"] or "" for row in rows] == ["2026-03-01T09:30:00.250Z", ""]
    assert not any(name.endswith("_unix_s") for name in rows[0])


def test_zero_is_not_absent(command, control, messages):
    """A measured zero stays a zero in every form."""
    control.rows = [messages.row(board_memory_delta_bytes=0)]

    assert json.loads(command("results", "--json").out)[0]["board_memory_delta_bytes"] == 0
    assert " 0.0 " in command("results", "--wide").out


def test_both_forms_is_an_error(command):
    """--json and --csv together are refused before the controller is asked."""
    outcome = command("results", "--csv", "--json", "--controller", "127.0.0.1:1")

    assert outcome.exit_code == 2
    assert outcome.err == "error: --csv and --json were both given; choose one\n"


@pytest.mark.usefixtures("control")
def test_no_rows(command):
    """Without results the command suggests what to do, and --json prints an empty list."""
    assert command("results").out.startswith("no results yet; measure something: efficientquant bench")
    assert command("results", "--json").out == "[]\n"


def test_missing_database_is_not_made(command, tmp_path):
    """A database file that does not exist is an error, and is not created."""
    outcome = command("results", "--db", str(tmp_path / "typo.db"))

    assert outcome.exit_code == 2
    assert "there is no database" in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_database_is_read_without_a_controller(command, tmp_path):
    """--db reads the rows of a database file without a controller."""
    path = tmp_path / "results.db"
    open_store(str(path)).close()

    assert command("results", "--db", str(path), "--campaign", "all", "--json").out == "[]\n"
    assert command("results", "--db", str(path), "--campaign", "all").out.startswith("no results yet")


def test_database_without_campaigns(command, tmp_path):
    """Asking an empty database for its latest campaign is a user's error."""
    path = tmp_path / "results.db"
    open_store(str(path)).close()

    outcome = command("results", "--db", str(path))

    assert (outcome.exit_code, outcome.out) == (2, "")
    assert outcome.err.startswith("error: ")
