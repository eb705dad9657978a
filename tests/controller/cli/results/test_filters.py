"""The filters of `results`."""

from datetime import UTC, datetime

import pytest
from campaign_rows import campaign_rows
from efficientquant_controller.cli.results.filters import read_since
from efficientquant_controller.errors import UserError


@pytest.fixture
def rows(control):
    """Return the rows that the controller answers with."""
    control.rows = [{**row, "label": "new driver" if row["device"] == "rtx-1" else ""} for row in campaign_rows()]
    return control.rows


@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize(
    ("words", "present", "absent"),
    [
        (("--device", "nano-1,rtx*"), {"nano-1", "rtx-1"}, {"xavier-1"}),
        (("--model", "mobilevitv2_*"), {"mobilevitv2_050"}, {"mobilevit_s"}),
        (("--recipe", "fp32,fp16"), {"fp32", "fp16"}, {"int8"}),
        (("--verdict", "b"), {"rtx-1"}, {"nano-1"}),
        (("--since", "2026-02-01"), {"nano-1", "rtx-1"}, set()),
        (("--label", "new*"), {"rtx-1"}, {"nano-1"}),
    ],
)
def test_only_the_rows_that_meet_the_filters_are_shown(command, words, present, absent):
    """Names may have wildcards, and several are separated by commas."""
    outcome = command("results", *words)
    shown = {*outcome.out.split("times better")[0].split()}
    assert outcome.exit_code == 0, outcome.err
    assert present <= shown
    assert not absent & shown


@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize("words", [("--recipe", "fp16"), ("--recipe", "fp16", "--wide"), ("--verdict", "A")])
def test_a_filter_leaves_the_gains(command, words):
    """Rows keep their gains where a filter leaves FP32 out, and none against an INVALID one."""
    outcome = command("results", "--model", "mobilevit_xxs,mobilevit_xs", "--device", "nano-1", *words).out
    assert "1.69×" in outcome
    assert "1.68×" not in outcome


def test_brackets_are_letters(command, control):
    """A label with brackets is found by its own text."""
    control.rows = [{**row, "label": "fan [new]"} for row in campaign_rows()]
    assert "fan [new]" in command("results", "--label", "fan [new]").out


def test_filters_hold_for_json_too(command, rows):
    """--json prints the same rows as the screen, and an empty list where none is left."""
    assert command("results", "--device", "nano-1", "--json").out.count('"job_id"') == len(rows) // 3
    assert command("results", "--verdict", "A", "--device", "rtx-1", "--json").out == "[]\n"


@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ("--device", "nano-2"),
            "--device nano-2: no row has this device; did you mean nano-1? There are nano-1, xavier-1",
        ),
        (("--model", "vit*"), "--model vit*: no row has this model; there are mobilevit_xxs, mobilevit_xs"),
        (("--label", "old"), "--label old: no row has this label; there are new driver"),
        (("--verdict", "C"), "--verdict C: there is no verdict 'C'; name some of A, B, INVALID"),
        (("--since", "lately"), "--since lately: this is no time; give a date such as 2026-01-31"),
        (("--since", "2027-01-01"), "no row meets --since (the newest is of 2026-02-25T"),
        (
            ("--device", "rtx-1", "--verdict", "A"),
            "no row meets --device rtx-1 and --verdict A; leave one of them out.",
        ),
        (("--why", "--wide"), "--why and --wide were both given; choose one"),
        (("--metric", "power"), "--metric power: there is no such metric; there are latency, p99, load"),
    ],
)
def test_what_does_not_exist_is_one_sentence(command, words, sentence):
    """The sentence says what was asked, what exists and what to do, with exit code 2."""
    outcome = command("results", *words)
    assert (outcome.exit_code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert outcome.err.startswith(f"error: {sentence}")


@pytest.mark.parametrize(
    ("words", "asked"), [((), "latest"), (("--since", "3d"), ""), (("--label", "x"), ""), (("--campaign", "c1"), "c1")]
)
def test_since_and_label_look_at_all_campaigns(command, control, words, asked):
    """--since and --label ask for all campaigns unless one is named."""
    command("results", *words)
    assert control.requests[-1].campaign_id == asked


def test_times():
    """A time is a date, a date with a time, or a time ago."""
    assert read_since("12h", now_unix_s=100_000.0) == 100_000 - 12 * 3600
    assert read_since("1.5 d", now_unix_s=200_000.0) == 200_000 - 1.5 * 86_400
    assert read_since("2026-03-01T09:30:00+00:00") == datetime(2026, 3, 1, 9, 30, tzinfo=UTC).timestamp()
    for text in ("", "12", "-1d", "2026-13-01", "h"):
        with pytest.raises(UserError, match="this is no time"):
            read_since(text)


@pytest.mark.usefixtures("rows")
def test_why_and_wide(command):
    """--why prints reasons only, and --wide has a row for each job."""
    assert "10 rows  unsupported_op" in command("results", "--why").out
    assert command("results", "--wide").out.count("mobilevit_xxs") > 12
