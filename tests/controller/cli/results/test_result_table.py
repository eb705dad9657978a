"""The exact text of the results table."""

import io

import pytest
from efficientquant_controller.cli.results.result_table import print_result_tables
from rich.console import Console


def printed(rows, width=160) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False, markup=False)
    print_result_tables(rows, console)
    return "".join(line.rstrip() + "\n" for line in console.file.getvalue().splitlines())


@pytest.fixture
def rows(messages):
    quantized = messages.row(
        "efficientquant",
        0.016,
        latency_ratio=1.25,
        artifact_bytes=2 << 20,
        board_memory_delta_bytes=96 << 20,
    )
    return [messages.row(), quantized]


# ruff: noqa: E501 – a table is as wide as it is
WIDE = """\
campaign c1 · tier smoke · weights random

                                        median      min–max  speed-up    p90    p99    load  transfer  peak RSS   USS  peak PSS  board Δ  artifact
device   model          recipe              ms           ms   vs fp32     ms     ms      ms        ms       MiB   MiB       MiB      MiB       MiB
──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
bench-1  mobilevit_xxs  fp32             20.00  19.00–21.00     1.00×  22.00  30.00  125.00      4.00      96.0  64.0      80.0        –      5.00
bench-1  mobilevit_xxs  efficientquant   16.00  15.20–16.80         –  17.60  24.00  125.00      4.00      96.0  64.0      80.0     96.0      2.00

median: of the repeats' medians, with their min–max; load: read + session create (or deserialize + create context) + first inference; peak RSS and USS: of the
measuring process; board Δ: drop of the whole board's available memory
"""
NARROW = """\
campaign c1 · tier smoke · weights random

bench-1 · mobilevit_xxs
                median      min–max  speed-up    p90    p99
recipe              ms           ms   vs fp32     ms     ms
───────────────────────────────────────────────────────────
fp32             20.00  19.00–21.00     1.00×  22.00  30.00
efficientquant   16.00  15.20–16.80         –  17.60  24.00

bench-1 · mobilevit_xxs
                  load  transfer  peak RSS   USS  peak PSS  board Δ  artifact
recipe              ms        ms       MiB   MiB       MiB      MiB       MiB
─────────────────────────────────────────────────────────────────────────────
fp32            125.00      4.00      96.0  64.0      80.0        –      5.00
efficientquant  125.00      4.00      96.0  64.0      80.0     96.0      2.00

median: of the repeats' medians, with their min–max; load: read + session create
(or deserialize + create context) + first inference; peak RSS and USS: of the
measuring process; board Δ: drop of the whole board's available memory
"""


def test_wide(rows):
    """A wide console gets one table in milliseconds and MiB, with a dash for a missing value."""
    assert printed(rows) == WIDE


def test_narrow(rows):
    """A narrow console gets two tables instead of folded numbers."""
    assert printed(rows, width=80) == NARROW


POWER = {
    "energy_per_inference_j": 0.0371,
    "net_energy_per_inference_j": 0.0212,
    "mean_power_w": 4.126,
    "max_temperature_c": 51.5,
    "rail_set": "POM_5V_IN",
}
PAPER = {
    "paper": True,
    "paper_latency_s": 0.0212,
    "paper_load_s": 0.110,
    "paper_memory_bytes": 1834 << 20,
    "paper_memory_kind": "board used RAM",
}
FULL = """\
campaign c1 · tier smoke · weights random

bench-1 · mobilevit_xxs
                         median      min–max  speed-up    p90    p99
recipe          verdict      ms           ms   vs fp32     ms     ms
────────────────────────────────────────────────────────────────────
fp32            A         20.00  19.00–21.00     1.00×  22.00  30.00
efficientquant  B         16.00  15.20–16.80         –  17.60  24.00

bench-1 · mobilevit_xxs
                  load  transfer  peak RSS   USS  peak PSS  artifact
recipe              ms        ms       MiB   MiB       MiB       MiB
────────────────────────────────────────────────────────────────────
fp32            125.00      4.00      96.0  64.0      80.0      5.00
efficientquant  125.00      4.00      96.0  64.0      80.0      5.00

bench-1 · mobilevit_xxs
                energy  net of idle  power  hottest
recipe              mJ           mJ      W       °C
───────────────────────────────────────────────────
fp32             37.10        21.20   4.13     51.5
efficientquant   37.10        21.20   4.13     51.5

bench-1 · mobilevit_xxs
                paper latency  paper load  paper memory
recipe                     ms          ms           MiB  memory of
───────────────────────────────────────────────────────────────────────
fp32                    21.20      110.00          1834  board used RAM
efficientquant          21.20      110.00          1834  board used RAM

bench-1 · mobilevit_xxs · efficientquant: B, the spread is 4 % (at most 2.5 %)
bench-1: energy of POM_5V_IN
median: of the repeats' medians, with their min–max; load: read + session create
(or deserialize + create context) + first inference; peak RSS and USS: of the
measuring process; board Δ: drop of the whole board's available memory; paper:
its way, for its numbers alone: means over all repeats, load without the first
inference, memory of all that ran on the device; verdict: A steady and
undisturbed, B with a rule broken, which is named, INVALID not to be used; see
docs/measurement.md
"""


@pytest.fixture
def full_rows(messages):
    reasons = ["the spread is 4 % (at most 2.5 %)", "not checked: what the sampler cost"]
    quantized = messages.row(
        "efficientquant",
        0.016,
        latency_ratio=1.25,
        verdict="B",
        verdict_reasons=reasons,
        **POWER,
        **PAPER,
    )
    return [messages.row(verdict="A", **POWER, **PAPER), quantized]


def test_everything_on_a_narrow_console(full_rows):
    """Verdicts are next to the latency, then come energy with its rails and the paper's numbers."""
    assert printed(full_rows, width=80) == FULL


def test_tables_side_by_side_where_they_fit(full_rows):
    """A wide console gets as many groups of columns in one table as fit."""
    headings = [
        [line.split() for line in printed(full_rows, width).splitlines() if "recipe" in line and "·" not in line]
        for width in (80, 160, 240)
    ]
    assert [len(lines) for lines in headings] == [4, 2, 1]
    assert headings[1][0][:4] == ["device", "model", "recipe", "verdict"]
    assert "verdict" not in headings[1][1]


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ({}, set()),
        ({"mean_power_w": 4.0}, {"energy"}),
        ({"max_temperature_c": 40.0}, {"energy"}),
        ({**PAPER, "paper": False}, set()),
        (PAPER, {"paper"}),
        ({"paper": True}, set()),
        ({"verdict": "A"}, {"verdict"}),
    ],
)
def test_columns_only_where_there_is_something(messages, values, shown):
    """Energy, the paper's numbers and verdicts appear only if a row has them."""
    out = printed([messages.row(**values)], width=400)

    assert {name for name in ("energy", "paper", "verdict") if name in out} == shown


def test_invalid_is_a_sentence(messages):
    """Each row without verdict A has one line of reasons, without the rules that were not checked."""
    reasons = ["throttled: hardware slowdown", "the fan stood still", "not checked: drift"]
    rows = [messages.row(name, verdict="INVALID", verdict_reasons=reasons) for name in ("fp32", "int8")]

    assert [line for line in printed(rows, width=60).splitlines() if ": INVALID," in line] == [
        f"bench-1 · mobilevit_xxs · {name}: INVALID, throttled: hardware slowdown; the fan stood still"
        for name in ("fp32", "int8")
    ]


def test_names_fold_and_numbers_never(messages):
    """On a narrow console a long recipe is folded, but numbers are not."""
    row = messages.row("efficientquant:scope=conv+linear:softmax_bits=none:weight_bits=4", verdict="A", **POWER)

    words = printed([row], width=80).split()

    assert {"20.00", "19.00–21.00", "22.00", "30.00", "125.00", "80.0", "5.00", "37.10", "51.5"} <= set(words)


def test_energy_of_each_device_names_its_rails(messages):
    """Each device names the rails of its energy."""
    own = {**POWER, "rail_set": "GPU+CPU+SOC+CV+VDDRQ+SYS5V"}
    rows = [messages.row(**POWER), messages.row("int8", **POWER), messages.row(device="xavier", **own)]

    lines = [line for line in printed(rows).splitlines() if ": energy of " in line]

    assert lines == ["bench-1: energy of POM_5V_IN", "xavier: energy of GPU+CPU+SOC+CV+VDDRQ+SYS5V"]


def test_failure_is_a_sentence(messages):
    """A failed job has its state in the table and its reason below."""
    failed = messages.row(
        "efficientquant", state="failed", failure_type="load_failed", failure_message="the model has no input"
    )
    failed |= dict.fromkeys(("latency_p50_s", "latency_p50_min_s", "latency_p50_max_s"))

    lines = printed([failed]).splitlines()

    assert "bench-1 · mobilevit_xxs · efficientquant: failed (load_failed): the model has no input" in lines
    assert [line.split()[3:7] for line in lines if line.startswith("bench-1 ") and "·" not in line] == [
        ["failed", "–", "–", "–"]
    ]


def test_running_job_shows_how_far(messages):
    """A job that is not done shows how many of its runs are."""
    row = messages.row(state="queued", runs_done=1, runs_planned=3)

    assert "queued 1/3" in printed([row])


def test_campaigns_are_apart(messages):
    """Each campaign's rows have their own heading."""
    rows = [messages.row(campaign_id=name, tier=name) for name in ("c1", "c2")]

    assert [line for line in printed(rows).splitlines() if line.startswith("campaign")] == [
        "campaign c1 · tier c1 · weights random",
        "campaign c2 · tier c2 · weights random",
    ]


def test_a_gain_that_is_not_known_is_no_number(messages):
    """The speed-up is ≈ without a significant difference, and absent against an INVALID row."""
    unsure = {"latency_ratio": 1.02, "latency_answer": "not enough data"}
    rows = [messages.row(), messages.row("int8", 0.0196, **unsure)]
    invalid = [
        messages.row(verdict="INVALID"),
        messages.row("int8", 0.016, latency_ratio=1.25, latency_answer="faster"),
    ]

    shown = [printed(own).splitlines()[6].split() for own in (rows, invalid)]

    assert [words[5 + ("verdict" in printed(own))] for words, own in zip(shown, (rows, invalid), strict=True)] == [
        "≈",
        "–",
    ]


def test_the_grade_has_its_worst_number(messages):
    """The verdict's column says which number was worst."""
    row = messages.row(verdict="B", verdict_reasons=["the coefficient of variation is 39 % (at most 2.5 %)"])

    assert "B, CoV 39 %" in printed([row])


def test_speed_up_is_the_guards(messages):
    """The speed-up is the guard's ratio, absent where the guard forbids the comparison."""
    fp32, faster = (
        messages.row(),
        messages.row("int8", 0.016, latency_ratio=1.25, latency_answer="faster"),
    )
    refused = messages.row("fp16", 0.016, latency_answer="not comparable", not_compared="clocks: locked for fp32")

    lines = printed([fp32, faster, refused]).splitlines()

    shown = {words[2]: words[5] for line in lines if len(words := line.split()) > 5 and words[0] == "bench-1"}
    assert shown == {"fp32": "1.00×", "int8": "1.25×", "fp16": "–"}


def test_markup_in_names_is_text(messages):
    """Square brackets in a device's message are printed as they are."""
    row = messages.row(
        state="failed", failure_type="runtime_error", failure_message="[bold]tensor[/x] has shape [1, 3]"
    )

    assert "[bold]tensor[/x] has shape [1, 3]\n" in printed([row])
