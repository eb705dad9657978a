"""`results`, `compare` and the view `comparisons` give one answer to each of forty-odd pairs of jobs."""

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from efficientquant_controller.cli.app import app
from efficientquant_controller.model import (
    Backend,
    Build,
    Campaign,
    CampaignState,
    DeviceSnapshot,
    Engine,
    Finding,
    Gpu,
    Job,
    Measurement,
    Run,
    RunResult,
    Series,
    StageTiming,
    Weights,
    Window,
)
from efficientquant_controller.store.sql import SqlStore, open_store
from states import report
from typer.testing import CliRunner

TENSORRT = {"sync_mode": "spin", "cuda_graph": "off", "memory_kind": "mapped", "transfers": "none: mapped memory"}
ONNX_RUNTIME = {
    "backend": "ort-cuda",
    "version": "1.12.1",
    "providers": ("CUDAExecutionProvider", "CPUExecutionProvider"),
    "options": {"graph_optimization": "all", "memory_kind": "pageable", "transfers": "both ways in every query"},
    "precision": None,
}


@dataclass(frozen=True)
class Side:
    """The conditions of one job: three repeats of about `latency_s`."""

    recipe: str = "fp32"
    device: str = "nano"
    model: str = "m"
    tier: str = "smoke"
    weights: str = "random"
    latency_s: float = 0.100
    backend: str = "trt"
    version: str = "8.2.1"
    providers: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=lambda: TENSORRT)
    power_mode: str = "MAXN"
    clocks: str = "locked"
    gpu_target_hz: float | None = 921.6e6
    gpu_hz: tuple[float, float] | None = None  # the lowest and highest reading
    more_conditions: Mapping[str, str] = field(default_factory=dict)
    precision: Mapping[str, int] | None = field(default_factory=lambda: {"fp16": 140, "fp32": 2})
    agent: str = "0.1.0"
    l4t: str = "R32.7.4"
    cuda: str = "10.2"
    driver: str = ""
    kernel: str = "4.9.337"
    cold: bool = True
    invalid: bool = False
    last: Mapping[str, Any] = field(default_factory=dict)  # what differs in its last repeat


@dataclass(frozen=True)
class Pair:
    """Two jobs, the compared metric, and the expected answer.

    `refusals` and `notes` are the labels of the sentences. Only twins share a campaign.
    """

    name: str
    a: Side
    b: Side
    answer: str
    refusals: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    metric: str = "latency"

    @property
    def is_twin(self) -> bool:
        """Whether B is a variant of A in one campaign, which `results` and the view compare."""
        alike = ("device", "model", "tier", "weights")
        return self.a.recipe == "fp32" != self.b.recipe and all(
            getattr(self.a, name) == getattr(self.b, name) for name in alike
        )


def unlike(name: str, label: str, base: Mapping[str, Any] | None = None, **changes: Any) -> Pair:
    """Make a pair whose variant ran under conditions that forbid a comparison."""
    a = Side(**(base or {}))
    return Pair(name, a, replace(a, recipe="int8", **changes), "not comparable", (label,))


def like(name: str, *notes: str, base: Mapping[str, Any] | None = None, **changes: Any) -> Pair:
    """Make a pair whose variant has half its twin's latency, with differences that are only noted."""
    a = Side(**(base or {}))
    return Pair(name, a, replace(a, **{"recipe": "int8", "latency_s": a.latency_s / 2, **changes}), "faster", (), notes)


def options(**changes: str) -> dict[str, Any]:
    return {"options": {**TENSORRT, **changes}}


# A clock that is not locked has no target.
FREE: dict[str, Any] = {"clocks": "free", "gpu_target_hz": None}
PAIRS = (
    like("twice as fast"),
    Pair("as fast", Side(), Side(recipe="int8", latency_s=0.101), "same"),
    Pair("slower", Side(), Side(recipe="int8", latency_s=0.2), "slower"),
    Pair("too far apart to tell", Side(), Side(recipe="int8", last={"latency_s": 0.09}), "not enough data"),
    # Differences that a recipe causes.
    like("other types", "realised precision", precision={"int8": 35, "fp16": 100}),
    like("types of one side only", "realised precision", precision=None),
    # Differences that need not change a number.
    like("another agent", "agent version", agent="0.1.1"),
    like("another L4T", "L4T", l4t="R32.7.5"),
    like("another CUDA", "CUDA", cuda="10.3"),
    like("another driver", "NVIDIA driver", base={"driver": "535.1"}, driver="550.2"),
    like("another kernel", "kernel", kernel="4.9.340"),
    like("a patch of the runtime", "runtime version", version="8.2.3"),
    like("a fan", "fan", more_conditions={"fan": "on"}),
    like("a clock that moved a little", base={**FREE, "gpu_hz": (900e6, 921.6e6)}, gpu_hz=(890e6, 921.6e6)),
    like("a clock that moved", "clock range", base={**FREE, "gpu_hz": (850e6, 921.6e6)}, gpu_hz=(700e6, 921.6e6)),
    like("free and unverifiable clocks", "state of the clocks", base=FREE,
         clocks="unverifiable"),
    # Other settings.
    unlike("clocks that do not meet", "clock range", {**FREE, "gpu_hz": (1350e6, 1380e6)}, gpu_hz=(1000e6, 1050e6)),
    unlike("another power mode", "power mode", power_mode="5W"),
    unlike("a power mode that nobody recorded", "power mode", power_mode=""),
    unlike("locked and free clocks", "clocks", clocks="free", gpu_target_hz=921.6e6),
    unlike("another target of the clocks", "GPU clock", gpu_target_hz=614.4e6),
    unlike("another way to wait", "sync mode", **options(sync_mode="block")),
    unlike("a CUDA graph", "CUDA graph", **options(cuda_graph="on")),
    unlike("other buffers", "kind of buffers", **options(memory_kind="pinned", transfers="both ways in every query")),
    unlike("no transfers", "transfers", {"options": {**TENSORRT, "memory_kind": "device", "transfers": "both ways"}},
           **options(memory_kind="device", transfers="none: inputs and outputs stay on the device")),
    unlike("another option of the runtime", "session options", **options(workspace="64 MiB")),
    unlike("other threads", "threads", **options(intra_op_threads="2")),
    unlike("other CPUs", "CPUs of the measuring thread", **options(measuring_thread_cpus="0,1")),
    unlike("another timing mode", "timing mode", more_conditions={"timing_mode": "device"}),
    # Settings that changed within a job.
    unlike("a mode that changed within", "power mode", last={"power_mode": "5W"}),
    Pair("a runtime that changed within", Side(recipe="int8"), Side(recipe="int8", last={"version": "8.5.2"}),
         "not comparable", ("runtime",)),
    # Two things that differ.
    unlike("recipe and release", "2 things differ where one is compared", version="8.5.2"),
    unlike("recipe and runtime", "2 things differ where one is compared", **ONNX_RUNTIME),
    Pair("recipe and device", Side(), Side(recipe="int8", device="xavier"), "not comparable",
         ("2 things differ where one is compared",)),
    # Conditions that define a metric.
    Pair("a warm load", Side(), Side(recipe="int8", cold=False), "not comparable", ("the artifact before loading",),
         metric="load"),
    like("a warm load when latency is compared", cold=False),
    # INVALID repeats.
    Pair("only INVALID repeats", Side(), Side(recipe="int8", invalid=True), "not comparable",
         ("3 of 3 repeats of the second INVALID (other processes on the GPU)",)),
    Pair("an INVALID repeat at other clocks", Side(), Side(recipe="int8", last={"invalid": True, "power_mode": "5W"}),
         "not enough data", (), ("1 of 3 repeats of the second INVALID (other processes on the GPU), left out",)),
    # Beyond twins: jobs of two campaigns that differ in nothing, a device, a model or a runtime.
    Pair("a variant again", Side(recipe="int8"), Side(recipe="int8", latency_s=0.05), "not enough data"),
    Pair("another tier", Side(recipe="int8"), Side(recipe="int8", tier="quick"), "not comparable", ("tier",)),
    Pair("other weights", Side(recipe="int8"), Side(recipe="int8", weights="pretrained"), "not comparable",
         ("weights",)),
    Pair("other types of one recipe", Side(recipe="int8"), Side(recipe="int8", precision={"fp32": 142}),
         "not comparable", ("realised precision",)),
    Pair("other counts of one recipe", Side(recipe="int8"), Side(recipe="int8", latency_s=0.05,
         precision={"fp16": 100, "fp32": 2}), "not enough data", (), ("realised precision",)),
    Pair("TensorRT 8.2 and 8.5", Side(recipe="int8"), Side(recipe="int8", latency_s=0.05, version="8.5.2",
         precision={"int8": 90}), "not enough data", (), ("realised precision", "runtime version")),
    Pair("TensorRT and ONNX Runtime", Side(), Side(latency_s=0.05, **ONNX_RUNTIME), "not enough data", (),
         ("sync mode", "CUDA graph", "kind of buffers", "session options", "realised precision", "runtime version")),
    Pair("two devices", Side(), Side(device="xavier", latency_s=0.05, power_mode="30W_ALL", gpu_target_hz=1377e6,
         l4t="R35.1", kernel="5.10"), "not enough data", (), ("power mode", "GPU clock", "L4T")),
    Pair("two devices with other types", Side(), Side(device="xavier", precision={"int8": 35}), "not comparable",
         ("realised precision",)),
    Pair("two devices, one locked", Side(), Side(device="xavier", clocks="free"), "not comparable", ("clocks",)),
    Pair("two models", Side(), Side(model="m2", latency_s=0.05, precision={"fp16": 90}), "not enough data", (),
         ("realised precision",)),
)  # fmt: skip


def snapshot(side: Side) -> DeviceSnapshot:
    return DeviceSnapshot(
        board=side.device,
        kernel=side.kernel,
        l4t=side.l4t,
        backends=(Backend(side.backend, side.version, side.providers),),
        cuda_version=side.cuda,
        power_mode=side.power_mode,
        gpus=(Gpu("gpu", driver_version=side.driver),),
    )


def result(run_id: str, side: Side, repeat: int) -> RunResult:
    """Make the result of repeat `repeat` of a job.

    It is a thousandth slower than the repeat before.
    """
    latency_s = (side.latency_s * (1 + repeat / 1000),) * 8
    end_s = 1 + sum(latency_s)
    series = [Series("child_pss_bytes", (1.0,), (9e6,))]
    if side.gpu_hz:
        series.append(Series("clock_gpu_hz", (1.01, 1.02), side.gpu_hz))
    conditions = {"clocks": side.clocks, "power_mode": side.power_mode, "timing_mode": "host", **side.more_conditions}
    targets = {} if side.gpu_target_hz is None else {"clock_gpu_target_hz": side.gpu_target_hz}
    invalid = Finding("gpu_processes", "invalid", "other processes on the GPU")
    loading = (
        StageTiming("read", 0.1, 9, side.cold),
        StageTiming("session_create", 0.2),
        StageTiming("first_inference", 0.1),
    )
    return RunResult(
        run_id=run_id, device_id=f"d-{side.device}", attempt=1, failure_type="", failure_message="", log_tail=(),
        started_unix_s=1.0, started_monotonic_s=0.0, duration_s=end_s, agent_version=side.agent, protocol_version=3,
        stages=loading, warmup_converged=True, warmup_latency_s=(), latency_s=latency_s, series=tuple(series),
        backend=side.backend, providers=side.providers, library_versions={}, session_options=side.options,
        device=snapshot(side), windows=(Window("model", 0.5, end_s), Window("measure", 1.0, end_s)),
        conditions=conditions, findings=(invalid,) if side.invalid else (), measured=targets,
        engine=None if side.precision is None else Engine("e", 1, False, 1, (), {}, side.precision, "[]"),
    )  # fmt: skip


class Seeded:
    """A store with the jobs of all pairs."""

    def __init__(self, store: SqlStore) -> None:
        self._store = store
        for device in ("nano", "xavier"):
            store.register_device(f"d-{device}", device, "0.1.0", 1, snapshot(Side(device=device)), 1.0)
        for number, pair in enumerate(PAIRS):
            if pair.is_twin:
                self._add(f"c{number}", pair.a, pair.b)
            else:
                self._add(f"a{number}", pair.a)
                self._add(f"b{number}", pair.b)

    def _add(self, campaign_id: str, *sides: Side) -> None:
        """Add a campaign of these jobs, which all succeed."""
        store, first = self._store, sides[0]
        weights, recipes = Weights(first.weights), tuple(side.recipe for side in sides)
        names = ((first.model,), recipes, (f"d-{first.device}",))
        asked = Measurement(first.tier, 0.0, 1)
        campaign = Campaign(campaign_id, CampaignState.RUNNING, 1.0, *names, weights, asked, 3, 0)
        jobs = [
            Job(f"{campaign_id}-{side.recipe}", campaign_id, f"d-{side.device}", side.model, side.recipe)
            for side in sides
        ]
        runs = [Run(f"{job.job_id}-{k}", job.job_id, k, k) for job in jobs for k in range(3)]
        store.create_campaign(campaign, [Build(campaign_id, side.model, side.recipe) for side in sides], jobs, runs)
        for side, job in zip(sides, jobs, strict=True):
            for k in range(3):
                report(store, result(f"{job.job_id}-{k}", replace(side, **side.last) if k == 2 else side, k), 2.0)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a database with the jobs of all pairs, written by the store."""
    path = str(tmp_path_factory.mktemp("pairs") / "results.db")
    store = open_store(path)
    Seeded(store)
    store.close()
    return path


@pytest.fixture(scope="module")
def ask(database: str) -> Callable[..., Any]:
    """Return a function that runs a command on the database and returns its JSON."""

    def run(*words: str) -> Any:
        return json.loads(CliRunner().invoke(app, [*words, "--db", database, "--json"]).stdout)

    return run


@pytest.fixture(scope="module")
def results(ask: Callable[..., Any]) -> Mapping[str, Mapping[str, Any]]:
    """Return the variants among the rows of `results`, by campaign."""
    return {row["campaign_id"]: row for row in ask("results", "--campaign", "all") if row["recipe"] != "fp32"}


@pytest.fixture(scope="module")
def view(database: str) -> Iterator[Mapping[str, Mapping[str, Any]]]:
    """Return the rows of the view `comparisons`, by campaign, read with plain SQLite."""
    with sqlite3.connect(database) as connection:
        connection.row_factory = sqlite3.Row
        yield {row["campaign_id"]: dict(row) for row in connection.execute("SELECT * FROM comparisons")}
    connection.close()


def labels(sentences: Sequence[str]) -> tuple[str, ...]:
    """Return the labels of the guard's sentences."""
    return tuple(
        sentence.partition(":")[0]
        for sentence in sentences
        if "graded B" not in sentence and not sentence.startswith("measured in different campaigns")
    )


@pytest.mark.parametrize("number", range(len(PAIRS)), ids=[pair.name for pair in PAIRS])
def test_every_caller_gives_the_one_answer(number: int, ask: Any, results: Any, view: Any) -> None:
    """`compare`, `results` and the view give a pair the same answer and name the same differences."""
    pair = PAIRS[number]
    sides = [(f"c{number}" if pair.is_twin else f"{'ab'[k]}{number}") for k in (0, 1)]

    comparison = ask(
        "compare",
        *(f"{c}-{side.recipe}" for c, side in zip(sides, (pair.a, pair.b), strict=True)),
        "--metric",
        pair.metric,
    )

    assert (comparison["answer"], labels(comparison["refusals"])) == (pair.answer, pair.refusals)
    if not pair.refusals:
        assert labels(comparison["footnotes"]) == pair.notes
    if pair.is_twin:
        row, stored = results[sides[0]], view[sides[0]]
        assert row[f"{pair.metric}_answer"] == stored[f"{pair.metric}_answer"] == pair.answer
        assert row["not_compared"] == stored["not_compared"]
        assert row["comparison_notes"] == json.loads(stored["comparison_notes"])
        assert all(label.replace(" of the second ", " of int8 ") in row["not_compared"] for label in pair.refusals)


def test_there_are_forty_pairs() -> None:
    """The pairs include comparable and refused ones, of twins and of any two jobs."""
    refused = sum(bool(pair.refusals) for pair in PAIRS)

    assert len(PAIRS) >= 40
    assert 15 <= refused <= len(PAIRS) - 15
    assert sum(pair.is_twin for pair in PAIRS) >= 30
