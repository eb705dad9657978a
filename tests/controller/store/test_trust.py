"""The columns that say how far a run and a job can be trusted."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from efficientquant_controller.errors import NotFoundError, UnstorableError
from efficientquant_controller.model import Agreement, Campaign, Engine, Finding, RunResult, Series, Window
from efficientquant_controller.store.sql import SqlStore
from sqlalchemy import text
from states import report

TENTHS = tuple(number / 10 for number in range(121))
LAYERS = [{"name": "conv", "type": "Convolution", "precision": "int8", "mean_s": 1e-4}, {"name": "softmax"}]
ENGINE = Engine(
    "cd" * 32, 2**40, True, 1 << 28, ("128 MiB were enough",), {"fp16": "on", "tf32": "off"}, {"int8": 35, "fp16": 140},
    json.dumps(LAYERS),
)  # fmt: skip


def series(name: str, *values: float) -> Series:
    """Make a series of 121 readings, ten a second.

    It has one value throughout, or one value for each third of the run.
    """
    thirds = values * 3 if len(values) == 1 else values
    return Series(name, TENTHS, tuple(thirds[min(int(time_s // 4), 2)] for time_s in TENTHS))


@pytest.fixture
def make_trusted(make_result: Callable) -> Callable[..., RunResult]:
    """Make the result of a run with everything that a device can report, with changes.

    Unchanged, its verdict is A.


    12 s: 4 s idle at 2 W, 4 s (64 inferences of 1/16 s) at 6 W, 4 s idle at 2 W.
    """

    def make(run_id: str = "r0", **changes: Any) -> RunResult:
        facts: dict[str, Any] = {
            "latency_s": (0.1,) * 64,
            "device_latency_s": (0.09,) * 63 + (0.125,),
            "windows": (Window("idle_before", 0.0, 3.9), Window("measure", 4.0, 8.0), Window("idle_after", 8.1, 12.0)),
            "conditions": {
                "clocks": "locked", "power_mode": "MAXN", "rail_set": "POM_5V_IN",
            },
            "findings": (Finding("sensor", "info", "one reading was late"),),
            "series": (
                series("power_pom_5v_in_w", 2.0, 6.0, 2.0),
                series("temperature_gpu_c", 40.0, 50.5, 45.0),
                series("clock_gpu_hz", 1e9),
                series("throttle_bits", 0.0),
                series("board_used_bytes", 100.0, 300.0, 200.0),
                series("nvmap_process_bytes", 50.0, 70.0, 0.0),
            ),
            "backend": "trt",
            "agreement": Agreement(0.25, 0.999, 7, 8),
            "engine": ENGINE,
            "measured": {
                "sampler_cpu_s": 0.008, "device_memory_bytes": 2**33, "clock_gpu_target_hz": 1e9,
                "cpu_wait_share": 0.01, "peak_rss_bytes": 2**34, "uss_bytes": 2**32, "clock_offset_s": -0.5,
            },
        }  # fmt: skip
        return make_result(run_id, **{**facts, **changes})

    return make


def numbers(planned: SqlStore) -> dict[str, Any]:
    (row,) = [row for row in planned.run_rows("c1") if row["run_id"] == "r0"]
    return row


def test_everything_reads_back(planned: SqlStore, make_trusted: Callable) -> None:
    """Windows, series, device latencies, conditions, findings, agreement and engine read back equal."""
    report(planned, make_trusted(), 5.0)
    assert planned.raw_result("r0") == make_trusted()


def test_layers_are_kept_as_json(planned: SqlStore, make_trusted: Callable) -> None:
    """Layers are a list in the table `engines` and read back equal, however the agent wrote them."""
    compact = replace(ENGINE, layers_json=json.dumps(LAYERS, separators=(",", ":")))
    report(planned, make_trusted(engine=compact), 5.0)
    report(planned, make_trusted("r1", engine=replace(ENGINE, layers_json="")), 5.0)

    assert [json.loads(planned.raw_result(run).engine.layers_json) for run in ("r0", "r1")] == [LAYERS, []]
    with planned._transactions.read() as sql:
        rows = sql.rows(text("SELECT run_id, engine_sha256, size_bytes FROM engines ORDER BY run_id"))
    assert [tuple(row.values()) for row in rows] == [("r0", "cd" * 32, 2**40), ("r1", "cd" * 32, 2**40)]


def test_layers_that_are_no_json_are_refused_whole(planned: SqlStore, make_trusted: Callable) -> None:
    """Layers that are no JSON are refused, and nothing of the result is recorded."""
    with pytest.raises(UnstorableError, match="result of run r0 cannot be stored: Expecting value"):
        report(planned, make_trusted(engine=replace(ENGINE, layers_json="nonsense")), 5.0)
    assert planned.run("r0").state == "planned"
    with pytest.raises(NotFoundError, match="no result"):
        planned.raw_result("r0")


def test_a_broken_reading_costs_no_run(planned: SqlStore, make_trusted: Callable) -> None:
    """A reading that is no number is kept unchanged and left out of computed numbers."""
    good = make_trusted()
    power = good.series[0]
    broken = replace(power, value=(float("nan"), *power.value[1:]))
    report(planned, replace(good, series=(broken, *good.series[1:])), 5.0)

    assert numbers(planned)["mean_power_w"] == pytest.approx(6.0, abs=0.1)
    assert str(planned.raw_result("r0").series[0].value[0]) == "nan"


def test_columns_of_a_run(planned: SqlStore, make_trusted: Callable) -> None:
    """A run's row has what follows from its windows and series, in SI units."""
    report(planned, make_trusted(), 5.0)
    row = numbers(planned)

    known = {
        "verdict": "A", "throttled": False, "rail_set": "POM_5V_IN", "max_temperature_c": 50.5, "latency_drift": 0.0,
        "cpu_wait_share": 0.01, "peak_rss_bytes": 2**34, "uss_bytes": 2**32,
        "gpu_clock_min_hz": 1e9, "gpu_clock_max_hz": 1e9, "device_latency_p50_s": 0.09, "latency_p90_bound_s": 0.1,
        "latency_p99_bound_s": None, "gpu_process_peak_bytes": 70, "device_memory_bytes": 2**33,
        "paper_memory_kind": "board used RAM", "output_max_abs": 0.25, "output_cosine": 0.999,
        "output_argmax_matches": 7, "output_count": 8, "engine_sha256": "cd" * 32, "engine_bytes": 2**40,
        "target": "jetson-nano", "backend": "trt",
    }  # fmt: skip
    assert {name: row[name] for name in known} == known
    assert row["paper_memory_bytes"] == pytest.approx(300, abs=5)
    assert row["idle_power_w"] == pytest.approx(2.0, rel=0.02)
    assert row["energy_per_inference_j"] == pytest.approx(6.0 * 4 / 64, rel=0.02)
    assert row["net_energy_per_inference_j"] == pytest.approx((6.0 - 2.0) * 4 / 64, rel=0.03)


def test_every_column_is_filled(planned: SqlStore, make_trusted: Callable) -> None:
    """A run that has everything fills every column that applies."""
    report(planned, make_trusted(), 5.0)
    unknown = {name for name, value in numbers(planned).items() if value is None}
    assert unknown == {
        "artifact_bytes", "latency_p99_bound_s", "parse_s", "build_s", "deserialize_s", "create_context_s",
        "warm_load_s", "clock_emc_target_hz", "clock_cpu_target_hz", "other_readings", "other_cpu_share",
    }  # fmt: skip


def test_the_controller_finds_the_extremes(planned: SqlStore, make_result: Callable) -> None:
    """The controller finds memory's extremes, also of a failed run."""
    reported = (
        Series("child_pss_bytes", (0.0, 2.0, 4.0), (900.0, 500.0, 700.0)),
        Series("board_available_bytes", (0.0, 2.0, 4.0), (100.0, 800.0, 600.0)),
        Series("swap_used_bytes", (2.0, 4.0), (3.0, 9.0)),
    )
    readings = {
        **dict.fromkeys(("peak_pss_bytes", "board_available_min_bytes", "swap_used_max_bytes")),
        "board_available_before_bytes": 1000, "swap_used_before_bytes": 2,
    }  # fmt: skip
    windows, state = (Window("model", 1.0, 5.0),), {"failure_type": "runtime_oom", "protocol_version": 3}
    result = make_result(series=reported, windows=windows, measured=readings, **state)
    report(planned, result, 5.0)
    row = numbers(planned)
    names = ("peak_pss_bytes", "board_available_min_bytes", "board_memory_delta_bytes", "swap_used_max_bytes")
    assert [row[name] for name in (*names, "swap_delta_bytes")] == [700, 600, 400, 9, 7]
    assert planned.raw_result("r0") == result


def test_what_an_older_agent_found_goes_before(planned: SqlStore, make_result: Callable) -> None:
    """The extremes that an agent of protocol 2 reported stand."""
    reported = (Series("child_pss_bytes", (0.0,), (5.0,)),)
    report(planned, make_result(series=reported, protocol_version=2), 5.0)
    assert numbers(planned)["peak_pss_bytes"] == 1000
    assert planned.raw_result("r0").measured["peak_pss_bytes"] == 1000


def test_json_and_truths_are_alike_on_both_databases(planned: SqlStore, make_trusted: Callable) -> None:
    """JSON columns and booleans of the views are decoded alike on both databases."""
    report(planned, make_trusted(), 5.0)
    run, (row,) = numbers(planned), planned.results("c1")

    assert run["conditions"] == row["conditions"] == dict(make_trusted().conditions)
    assert run["realised_precision"] == row["realised_precision"] == {"int8": 35, "fp16": 140}
    assert run["findings"] == [{"check": "sensor", "severity": "info", "message": "one reading was late"}]
    assert run["library_versions"] == {"onnxruntime": "1.32.0"}
    assert (run["verdict_reasons"], row["verdict_reasons"]) == ([], [])
    truths = (run["warmup_converged"], run["load_cold"], run["throttled"], row["paper"])
    assert [type(value) for value in truths] == [bool] * 4
    json.dumps([run, row])  # rows travel as JSON


def test_a_run_that_failed_has_no_verdict(planned: SqlStore, make_trusted: Callable) -> None:
    """A failed run gets no verdict, and what it reported is kept."""
    failed = make_trusted(failure_type="wrong_outputs", agreement=Agreement(9.0, 0.1, 0, 8))
    report(planned, failed, 5.0)
    row = numbers(planned)
    assert (row["verdict"], row["statistics_version"], row["energy_per_inference_j"]) == (None, None, None)
    assert (row["output_cosine"], planned.raw_result("r0")) == (0.1, failed)
    (job,) = planned.results("c1")
    assert (job["verdict"], job["output_cosine"]) == ("", None)


SOFT, HARD = (Finding("processes", kind, f"{kind} thing") for kind in ("soft", "invalid"))


@pytest.mark.parametrize(
    ("of_repeats", "verdict", "reason"),
    [
        ([(), ()], "A", None),
        ([(), (SOFT,)], "B", "soft thing"),
        ([(SOFT,), (HARD,), ()], "INVALID", "invalid thing"),
        ([(HARD,), (SOFT,)], "INVALID", "invalid thing"),
    ],
)
def test_the_worst_repeat_is_the_verdict(
    planned: SqlStore, make_trusted: Callable, of_repeats: list, verdict: str, reason: str | None
) -> None:
    """A job's row has the worst verdict of its repeats, with that repeat's reasons."""
    for index, findings in enumerate(of_repeats):
        report(planned, make_trusted(f"r{index}", findings=findings), 5.0)
    (row,) = planned.results("c1")
    assert (row["verdict"], row["verdict_reasons"]) == (verdict, [reason] if reason else [])


def test_repeats_without_a_verdict_do_not_make_one(planned: SqlStore, make_trusted: Callable) -> None:
    """A repeat without a verdict, of an earlier release, leaves the other repeats' verdict."""
    for name in ("r0", "r1"):
        report(planned, make_trusted(name), 5.0)
    with planned._transactions.write() as sql:
        sql.execute(text("UPDATE runs SET verdict = NULL, verdict_reasons = NULL WHERE run_id = 'r0'"))
    assert planned.results("c1")[0]["verdict"] == "A"


def test_numbers_over_the_repeats(planned: SqlStore, make_trusted: Callable) -> None:
    """Energy is a median, temperature and agreement are the worst repeat's, and clocks the whole range."""
    for index, (power_w, heat_c, hz, wrong) in enumerate([(4, 40, 9e8, 0), (5, 60, 1e9, 1), (9, 50, 1e9, 4)]):
        reported = (
            series("power_pom_5v_in_w", 2.0, power_w, 2.0),
            series("temperature_gpu_c", heat_c),
            series("clock_gpu_hz", hz),
        )
        agreement = Agreement(wrong / 8, 1 - wrong / 16, 8 - wrong, 8)
        report(planned, make_trusted(f"r{index}", series=reported, agreement=agreement), 5.0)
    (row,) = planned.results("c1")

    assert row["energy_per_inference_j"] == pytest.approx(5 * 4 / 64, rel=0.02)
    assert row["mean_power_w"] == pytest.approx(5, rel=0.02)
    assert (row["max_temperature_c"], row["gpu_clock_min_hz"], row["gpu_clock_max_hz"]) == (60.0, 9e8, 1e9)
    assert (row["output_max_abs"], row["output_cosine"], row["output_argmax_agreement"]) == (0.5, 0.75, 0.5)
    assert (row["engine_bytes"], row["device_latency_p50_s"]) == (2**40, 0.09)


def test_the_papers_numbers_are_averages(planned: SqlStore, make_trusted: Callable) -> None:
    """Latency is the mean over all inferences of all repeats, load and memory the mean over the repeats."""
    loading = {stage.stage: stage for stage in make_trusted().stages}
    for index, (count, latency_s, used) in enumerate([(64, 0.1, 100.0), (128, 0.4, 400.0), (64, 0.1, 700.0)]):
        read = replace(loading["read"], duration_s=index * 0.5)
        report(planned,
            make_trusted(
                f"r{index}", latency_s=(latency_s,) * count, stages=(read, loading["session_create"]),
                series=(series("board_used_bytes", used),),
            ),
            5.0,
        )  # fmt: skip
    (row,) = planned.results("c1")

    assert row["paper_latency_s"] == pytest.approx((64 * 0.1 + 128 * 0.4 + 64 * 0.1) / 256)
    assert (row["paper_load_s"], row["paper_memory_bytes"]) == (0.75, 400)
    assert (row["latency_p50_s"], row["load_s"]) == (0.1, None)  # the first inference belongs to our load time
    assert (row["paper_memory_kind"], row["paper"]) == ("board used RAM", True)


def test_loading_an_engine(planned: SqlStore, make_trusted: Callable) -> None:
    """With an engine, loading is read + deserialize + create context + first inference, without the warm stages."""
    names = ("read", "deserialize", "create_context", "first_inference", "warm_read", "warm_deserialize")
    stage = make_trusted().stages[1]
    stages = [replace(stage, stage=name, duration_s=2.0**-n) for n, name in enumerate((*names, "warm_create_context"))]
    report(planned, make_trusted(stages=(replace(stage, stage="build", duration_s=30.0), *stages)), 5.0)
    (row,) = planned.results("c1")
    assert (row["load_s"], row["paper_load_s"], row["build_s"]) == (1.875, 1.75, 30.0)
    assert row["warm_load_s"] == 2.0**-4 + 2.0**-5 + 2.0**-6


def test_a_full_row(planned: SqlStore, make_trusted: Callable, campaign: Campaign) -> None:
    """A full row lacks only what this run could not have."""
    report(planned, make_trusted(), 5.0)
    (row,) = planned.results(campaign.campaign_id)
    unknown = {"artifact_bytes", "latency_p99_bound_s", "build_s", "warm_load_s"}
    unknown |= {"clock_emc_target_hz", "clock_cpu_target_hz", "other_cpu_share"}
    assert {name for name, value in row.items() if value is None} == unknown
