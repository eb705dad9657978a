"""Recorded results, and the numbers of the views computed by hand."""

import json
import math
import struct
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from shutil import copy

import pytest
from efficientquant_controller.errors import NotFoundError, UnstorableError, UserError
from efficientquant_controller.model import (
    Agreement,
    Build,
    Job,
    JobState,
    Measurement,
    Run,
    RunState,
    Series,
    StageTiming,
    Window,
)
from efficientquant_controller.store import records, tables
from efficientquant_controller.store.base import Lease
from efficientquant_controller.store.series import RawSamples, pack_series, unpack_series
from efficientquant_controller.store.sql import SqlStore, open_store
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select, text
from states import assign, commit, report

SCHEMA_3 = Path(__file__).parents[2] / "fixtures" / "databases" / "0.1.0-schema-3.db"
floats = st.lists(st.floats(), max_size=20).map(tuple)
windows = st.lists(st.builds(Window, st.text(), *[st.floats(allow_nan=False)] * 2), max_size=3).map(tuple)
NUMBERS = [
    "latency_count", "latency_p50_s", "latency_p50_min_s", "latency_p50_max_s", "latency_p90_s", "latency_p99_s",
    "transfer_s", "load_s", "read_s", "session_create_s", "first_inference_s", "peak_pss_bytes",
    "board_memory_delta_bytes",
]  # fmt: skip


def test_round_trip(planned: SqlStore, make_result: Callable) -> None:
    """Everything that was reported reads back equal, and the run has succeeded."""
    assert report(planned, make_result(), 5.0) is True
    assert planned.raw_result("r0") == make_result()
    assert planned.run("r0").state is RunState.SUCCEEDED


def test_round_trip_of_nothing_known(planned: SqlStore, make_result: Callable) -> None:
    """What a device could not measure stays unknown, and NUL in a message is replaced."""
    unknown = dict.fromkeys(make_result().measured)
    empty = {"stages": (), "latency_s": (), "warmup_latency_s": (), "series": (), "providers": (), "log_tail": ("\0",)}
    result = make_result(failure_type="load_failed", failure_message="a\0b", measured=unknown, **empty)
    report(planned, result, 5.0)
    assert planned.raw_result("r0") == replace(result, failure_message="a\ufffdb")
    assert planned.run("r0").state is RunState.FAILED


@given(floats, floats, floats, st.lists(st.tuples(st.text(), floats, floats), max_size=3), windows)
def test_samples_bit_exact(latency_s: tuple, warmup_s: tuple, device_s: tuple, series: list, windows: tuple) -> None:
    """Samples come back bit by bit, NaN, infinity and minus zero included, and windows come back equal."""
    given_samples = RawSamples(latency_s, warmup_s, tuple(Series(*fields) for fields in series), device_s, windows)
    unpacked = unpack_series(pack_series(given_samples))

    def bits(samples: RawSamples) -> list[bytes]:
        arrays = [samples.latency_s, samples.warmup_latency_s, samples.device_latency_s]
        arrays += [array for entry in samples.series for array in (entry.time_s, entry.value)]
        return [struct.pack(f"<{len(array)}d", *array) for array in arrays]

    assert bits(unpacked) == bits(given_samples)
    assert [entry.name for entry in unpacked.series] == [name for name, _, _ in series]
    assert unpacked.windows == windows


def blob(version: int, *arrays: float, **header: object) -> bytes:
    encoded = json.dumps({"version": version, **header}).encode()
    return zlib.compress(struct.pack("<I", len(encoded)) + encoded + struct.pack(f"<{len(arrays)}d", *arrays))


def test_samples_of_the_first_format() -> None:
    """A blob of format 1 reads as a blob without device latencies and windows."""
    series = [{"name": "child_pss_bytes", "time_s": 1, "value": 1}]
    old = blob(1, 0.1, 0.2, 0.3, 0.0, 9.0, latency_s=2, warmup_latency_s=1, series=series)
    assert unpack_series(old) == RawSamples((0.1, 0.2), (0.3,), (Series("child_pss_bytes", (0.0,), (9.0,)),))


def test_samples_of_a_format_to_come() -> None:
    """A blob of an unknown format is refused, naming both formats."""
    with pytest.raises(ValueError, match="in format 3, this version reads 1 and 2"):
        unpack_series(blob(3))


@pytest.mark.parametrize("blob", [b"", b"nonsense", pack_series(RawSamples((1.0,), (), ()))[:-5]])
def test_broken_blob(blob: bytes) -> None:
    """A broken blob is refused."""
    with pytest.raises(ValueError, match="not a blob of samples"):
        unpack_series(blob)


def test_first_result_stands(planned: SqlStore, make_result: Callable) -> None:
    """A second result for the same run changes nothing."""
    report(planned, make_result(), 5.0)
    assert report(planned, make_result(latency_s=(9.0,), failure_type="timeout"), 6.0) is False
    assert planned.raw_result("r0") == make_result()
    assert planned.run("r0").state is RunState.SUCCEEDED


@pytest.mark.parametrize("state", [RunState.CANCELLED, RunState.FAILED])
def test_late_result(planned: SqlStore, make_result: Callable, state: RunState) -> None:
    """A result for a cancelled or given-up run is kept, leaves its state, and does not count."""
    assign(planned, "r0")
    planned.release_run("r0", "the device was lost", 2.0)
    if state is RunState.FAILED:
        planned.give_up("r0", 3.0)
    else:
        planned.cancel_campaign("c1", 3.0)
    assert report(planned, make_result(), 5.0) is True
    assert planned.raw_result("r0") == make_result()
    assert planned.run("r0").state is state
    assert planned.results("c1")[0]["latency_count"] is None


@pytest.mark.parametrize(
    ("failure_type", "state"), [("", "succeeded"), ("timeout", "failed"), ("agent_error", "planned")]
)
def test_state_from_report(planned: SqlStore, make_result: Callable, failure_type: str, state: str) -> None:
    """What was reported decides the state of a leased run."""
    report(planned, make_result(failure_type=failure_type), 5.0)
    assert planned.run("r0").state == state


@pytest.mark.parametrize("latency_s", [(), (0.1, math.nan)])
def test_success_without_numbers(planned: SqlStore, make_result: Callable, latency_s: tuple) -> None:
    """A success without latencies, or with a latency that is no number, is refused whole."""
    with pytest.raises(UnstorableError, match=r"no samples|not a finite"):
        report(planned, make_result(latency_s=latency_s), 5.0)
    with pytest.raises(NotFoundError, match="no result"):
        planned.raw_result("r0")


def test_a_cache_hit_is_no_transfer(planned: SqlStore, make_result: Callable) -> None:
    """A cached artifact has no transfer time."""
    stages = (StageTiming("transfer", 0.001, 0), StageTiming("read", 0.125))
    report(planned, make_result(stages=stages), 5.0)
    [run] = [row for row in planned.run_rows("c1") if row["run_id"] == "r0"]
    assert (run["transfer_s"], run["transfer_bytes"], run["read_s"]) == (None, 0, 0.125)
    assert planned.raw_result("r0").stages == stages


def test_unknown_device(planned: SqlStore, make_result: Callable) -> None:
    """A result from a device that never registered is refused whole."""
    with pytest.raises(UserError, match="run r0 belongs to device d1, not to 'd9'"):
        report(planned, make_result(device_id="d9"), 5.0)
    assert planned.run("r0").state is RunState.LEASED


def test_view_before_any_result(planned: SqlStore) -> None:
    """A job without results has its names and no numbers."""
    row = planned.results("latest")[0]
    known = {name: row[name] for name in ("state", "weights", "tier", "runs_planned", "runs_done", "backend")}
    assert known == {
        "state": "pending", "weights": "checkpoint:mine.pth", "tier": "smoke", "runs_planned": 4, "runs_done": 0,
        "backend": "",
    }  # fmt: skip
    assert {row[name] for name in NUMBERS} == {None}


@pytest.mark.parametrize(("repeats", "p50_s", "pss"), [(3, 0.4, 1002), (4, 0.3, 1002)])
def test_medians(planned: SqlStore, make_result: Callable, repeats: int, p50_s: float, pss: int) -> None:
    """Numbers are medians over the succeeded repeats, for odd and even counts."""
    middles = [0.8, 0.2, 0.4, 0.2][:repeats]
    for index, middle in enumerate(middles):
        latency_s = (middle / 2, middle, middle * 1.5)
        report(
            planned,
            make_result(f"r{index}", latency_s=latency_s, measured={"peak_pss_bytes": 1000 + 2 * (index % 3)}),
            5.0,
        )
    if repeats == 3:
        report(planned, make_result("r3", failure_type="timeout", latency_s=(9.0,)), 6.0)
    row = planned.results("c1")[0]
    assert row["latency_p50_s"] == pytest.approx(p50_s, rel=1e-15)
    assert (row["latency_p50_min_s"], row["latency_p50_max_s"]) == (0.2, 0.8)
    assert row["latency_p90_s"] == pytest.approx(p50_s * 1.4, rel=1e-12)
    assert (row["latency_count"], row["runs_done"], row["runs_planned"]) == (3 * repeats, repeats, 4)
    assert row["peak_pss_bytes"] == (pss if repeats == 3 else 1001)
    assert all(type(row[name]) is int for name in ("latency_count", "peak_pss_bytes", "board_memory_delta_bytes"))


def test_load_and_memory(planned: SqlStore, make_result: Callable) -> None:
    """Load is read + session create + first inference, and the memory delta is the drop in available memory."""
    report(planned, make_result(), 5.0)
    report(
        planned, make_result("r1", stages=make_result().stages[1:], measured={"board_available_min_bytes": 950}), 5.0
    )
    row = planned.results()[0]
    assert (row["transfer_s"], row["load_s"], row["read_s"]) == (0.5, 0.4375, 0.125)
    assert row["board_memory_delta_bytes"] == 100  # of 200 and, where it rose, 0
    assert (row["backend"], row["providers"], row["runtime_version"]) == ("ort-cpu", "A,B", "1.32.0")


RECIPE = "efficientquant:scope=conv+linear:weight_bits=4"


def test_comparisons_view(planned: SqlStore, campaign: object, make_result: Callable) -> None:
    """A variant with options is compared with its FP32 twin: FP32's value divided by its own."""
    twins = [Job(f"t{n}", "c2", "d1", "mobilevit_xxs", recipe) for n, recipe in enumerate(("fp32", RECIPE))]
    builds = [Build("c2", job.model, job.recipe) for job in twins]
    runs = [Run(f"{job.job_id}-{n}", job.job_id, n, n) for job in twins for n in range(2)]
    planned.create_campaign(
        replace(campaign, campaign_id="c2", measurement=Measurement("demo", 0.1, 3)), builds, twins, runs
    )
    for run in runs:
        slow = 1.0 + run.repeat_index if run.job_id == "t0" else 0.5
        report(planned, make_result(run.run_id, latency_s=(slow,) * 3), 5.0)

    with planned._transactions.read() as sql:
        (row,) = sql.rows(text("SELECT * FROM comparisons"))

    assert (row["campaign_id"], row["recipe"], row["job_id"], row["fp32_job_id"]) == ("c2", RECIPE, "t1", "t0")
    assert (row["latency_ratio"], row["latency_ratio_min"], row["latency_ratio_max"]) == (3.0, 2.0, 4.0)
    assert (row["load_ratio"], row["peak_pss_ratio"], row["size_ratio"]) == (1.0, 1.0, None)
    assert (row["runs_done"], row["fp32_runs_done"]) == (2, 2)


def test_failed_job(planned: SqlStore, make_result: Callable) -> None:
    """A failed job shows its failure."""
    report(planned, make_result(failure_type="load_failed", failure_message="no such op"))
    row = planned.results("c1")[0]
    assert (row["state"], row["failure_type"], row["failure_message"]) == ("failed", "load_failed", "no such op")


def test_a_number_that_is_not_finite_is_not_known(planned: SqlStore, make_result: Callable) -> None:
    """A number that is not finite is None in a row."""
    wrong = Agreement(math.inf, 0.5, 0, 8)
    report(planned, make_result(failure_type="wrong_outputs", agreement=wrong), 5.0)
    [run] = [row for row in planned.run_rows("c1") if row["run_id"] == "r0"]
    assert (run["output_max_abs"], run["output_cosine"]) == (None, 0.5)
    json.dumps(run, allow_nan=False)
    assert planned.raw_result("r0").agreement == wrong


def test_an_impossible_reading_costs_no_run(planned: SqlStore, make_result: Callable) -> None:
    """A finite reading that its column cannot hold is kept in `other_readings`, like readings without a column."""
    broken = {"board_available_before_bytes": math.nan, "swap_used_before_bytes": 1e300, "sampler_wakeups": 80.4}
    broken |= {"sampler_cpu_s": math.inf, "not known here": 1.0}
    report(planned, make_result(measured=broken), 5.0)
    [run] = [row for row in planned.run_rows("c1") if row["run_id"] == "r0"]
    names = [*broken][:-1]
    assert [run[name] for name in names] == [None, None, 80, None]
    assert run["other_readings"] == {"swap_used_before_bytes": 1e300, "not known here": 1.0}
    assert planned.raw_result("r0").measured.items() >= {**run["other_readings"], "sampler_wakeups": 80}.items()
    assert (run["board_memory_delta_bytes"], run["swap_delta_bytes"], run["sampler_core_share"]) == (None, None, None)


@pytest.mark.parametrize("name", ["board_used_bytes", "gpu_process_bytes", "child_pss_bytes"])
def test_an_impossible_series_costs_no_run(planned: SqlStore, make_result: Callable, name: str) -> None:
    """A broken sensor's number that no column can hold is None, and its series is kept."""
    broken = (Series(name, (1.0, 2.0), (1e300, 1e300)),)
    windows = (Window("measure", 0.5, 3.0),)
    report(planned, make_result(series=broken, windows=windows, protocol_version=3), 5.0)

    [run] = [row for row in planned.run_rows("c1") if row["run_id"] == "r0"]
    assert (run["paper_memory_bytes"], run["gpu_process_peak_bytes"], run["peak_pss_bytes"]) == (None, None, None)
    assert planned.raw_result("r0").series == broken


def test_threads(planned: SqlStore, campaign: object, make_result: Callable) -> None:
    """Results that many threads report at once, some twice, are each recorded once."""
    jobs = [Job(f"t{index}", "c2", "d1", "m", "fp32", JobState.QUEUED, target=str(index)) for index in range(40)]
    runs = [Run(f"r-{job.job_id}", job.job_id, 0, index) for index, job in enumerate(jobs)]
    planned.create_campaign(replace(campaign, campaign_id="c2"), [], jobs, runs)
    planned.lease_runs([Lease(run.run_id, f"lease-{run.run_id}") for run in runs], 2.0)
    results = [make_result(run.run_id) for run in runs] * 2
    with ThreadPoolExecutor(8) as pool:
        recorded = list(pool.map(lambda result: commit(planned, result, f"lease-{result.run_id}").new, results))
    assert sum(recorded) == 40
    assert [row["runs_done"] for row in planned.results("c2")] == [1] * 40


def test_survives_reopening(target: str, planned: SqlStore, make_result: Callable) -> None:
    """A reopened database holds what was recorded, and a reader sees it while a writer is open."""
    report(planned, make_result(), 5.0)
    for read_only in (False, True):
        again = open_store(Path(target) if "://" not in target else target, read_only=read_only)
        assert again.raw_result("r0") == make_result()
        again.close()


def test_a_device_is_named_as_the_release_before_named_it(tmp_path: Path) -> None:
    """A snapshot's SHA-256 is the same as in schema 3, so an upgrade does not change the device."""
    store = open_store(copy(SCHEMA_3, tmp_path / "old.db"), read_only=False)
    with store._transactions.read() as sql:
        rows = sql.rows(text("SELECT snapshot_sha256 FROM device_snapshots"))
        snapshots = sql.rows(select(tables.device_snapshots))
    store.close()

    named = [records.snapshot_to_row(records.snapshot_from_row(row), 0.0)["snapshot_sha256"] for row in snapshots]
    assert named == [row["snapshot_sha256"] for row in rows]
