"""Tests of campaign requests: what is refused, and what is planned."""
# ruff: noqa: D102 – the methods of the doubles are those of the real classes

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from efficientquant_controller.config import PAPER_REPEATS
from efficientquant_controller.errors import StoreError, UserError
from efficientquant_controller.fleet import submission
from efficientquant_controller.fleet.artifacts import ContentStore
from efficientquant_controller.fleet.builds import Builder, BuildProcessError
from efficientquant_controller.fleet.campaigns import TrackedCampaign
from efficientquant_controller.fleet.submission import CampaignRequest, Submissions
from efficientquant_controller.model import Artifact, Backend, Build, BuildState, Device, DeviceSnapshot, Gpu, Weights
from offers import offered

REQUEST = CampaignRequest(
    models=("m",),
    recipes=("fp32",),
    devices=(),
    weights=Weights("random"),
    tier="smoke",
    repeats=0,
    seed=7,
    intra_op_threads=2,
)


def device(name: str, clock_control: str = "none", *backends: Backend, int8: bool = False, **facts: Any) -> Device:
    snapshot = DeviceSnapshot(
        power_mode="MAXN",
        backends=backends or (offered("ort-cpu", "1.23.2"),),
        gpus=(Gpu("gpu", int8=int8),),
        clock_control=clock_control,
    )
    return Device(name, name, "0.1.0", 1, 0.0, replace(snapshot, **facts))


class Coordinator:
    """A coordinator that has connected devices and records campaigns and builds."""

    def __init__(self, devices: Sequence[Device]) -> None:
        self.devices = devices
        self.started: list[TrackedCampaign] = []
        self.moved: list[Build] = []

    def connected(self) -> Sequence[Device]:
        return self.devices

    async def start(self, tracked: TrackedCampaign) -> None:
        self.started.append(tracked)

    async def build_moved(self, tracked: TrackedCampaign, build: Build) -> None:
        del tracked
        self.moved.append(build)

    async def builds_done(self, tracked: TrackedCampaign) -> None:
        pass


class OfflineBuilder(Builder):
    """A builder that checks requests but loads no model and builds no file."""

    made = ()
    dies = False

    async def check_models(self, models: tuple[str, ...], weights: Weights) -> None:
        del models, weights
        if self.dies:
            raise BuildProcessError("it died")

    async def build(self, model: str, recipe: str, target: str, source: object) -> Artifact:
        del source
        self.made = (*self.made, (model, recipe, target))
        return Artifact("ab" * 32, 1, model, recipe, 1, "random", None, (), {}, {}, target)


@pytest.fixture
def fleet(tmp_path: Any) -> Callable[..., tuple[Submissions, Coordinator, OfflineBuilder]]:
    """Return a function that makes Submissions for connected devices and an earlier artifact."""

    def make(*devices: Device, before: Artifact | None = None) -> tuple[Submissions, Coordinator, OfflineBuilder]:
        coordinator, artifacts = Coordinator(devices), ContentStore(tmp_path / "artifacts")
        known = [*devices, device("nano-away")]
        store = SimpleNamespace(devices=lambda: known, find_artifact=lambda _: before, add_artifact=lambda *_: None)
        builder = OfflineBuilder(artifacts, ContentStore(tmp_path / "uploads"))
        return Submissions(coordinator, builder, store, artifacts), coordinator, builder

    return make


async def built(submissions: Submissions, request: CampaignRequest) -> TrackedCampaign:
    tracked = await submissions.submit(request)
    await asyncio.gather(*submissions._tasks.values())
    return tracked


def run(work: Awaitable[TrackedCampaign]) -> TrackedCampaign:
    return asyncio.run(work)


@pytest.mark.parametrize("changes", [{"lock_clocks": True}, {"power_mode": "MAXN"}])
@pytest.mark.parametrize("control", ["none", ""])
def test_clocks_that_nobody_may_set_are_refused(fleet: Callable, changes: dict[str, Any], control: str) -> None:
    """A request for clocks or modes names the devices whose agents may not set them."""
    submissions, coordinator, _ = fleet(device("nano-1", "root"), device("nano-2", control), device("nano-3", control))
    with pytest.raises(UserError, match="the agent on 'nano-2', 'nano-3' may not set them; install its root helper"):
        run(submissions.submit(replace(REQUEST, changes=changes)))
    assert coordinator.started == []


@pytest.mark.parametrize("control", ["root", "helper"])
def test_clocks_are_set_where_the_agent_may(fleet: Callable, control: str) -> None:
    """Root and the helper may set clocks, and a request without clocks needs neither."""
    asked = {"lock_clocks": True, "power_mode": "MAXN"}
    able, _, _ = fleet(device("nano-1", control))
    unable, _, _ = fleet(device("nano-1", "none"))

    measurement = run(built(able, replace(REQUEST, changes=asked))).campaign.measurement

    assert (measurement.lock_clocks, measurement.power_mode) == (True, "MAXN")
    assert not run(built(unable, REQUEST)).campaign.measurement.lock_clocks


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"sync_mode": "sleep"}, "unknown sync mode 'sleep'; choose one of spin, block"),
        ({"memory_kind": "unified"}, "unknown memory kind 'unified'; choose one of auto, pinned, mapped, device"),
        ({"idle_s": 601.0}, "the idle time 601.0: give a number from 0 to 600 seconds"),
        ({"idle_s": -1.0}, "the idle time -1"),
    ],
)
def test_a_way_to_measure_that_does_not_exist_is_refused(
    fleet: Callable, changes: dict[str, Any], sentence: str
) -> None:
    """An unknown or out-of-range setting is refused with the allowed values."""
    submissions, coordinator, _ = fleet(device("nano-1"))
    with pytest.raises(UserError, match=sentence):
        run(submissions.submit(replace(REQUEST, changes=changes)))
    assert coordinator.started == []


NO_CLOCKS = {"gpus": (), "power_mode": ""}
JETSON = {"gpus": (Gpu("Tegra X1", integrated=True),), "l4t": "R32.7.4"}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"lock_clocks": True}, r"devices 'pc-1', 'pc-2' have no clocks that can be locked"),
        ({"power_mode": "MAXN"}, r"devices 'pc-1', 'pc-2' have no power modes \(nvpmodel\); leave --power-mode out"),
    ],
)
@pytest.mark.parametrize("control", ["none", "root"])
def test_clocks_that_a_device_does_not_have_are_refused(
    fleet: Callable, changes: dict[str, Any], sentence: str, control: str
) -> None:
    """A device without clocks or modes is named, and the error recommends no helper."""
    boards = (device("nano-1", "root", **JETSON), *(device(f"pc-{n}", control, **NO_CLOCKS) for n in (1, 2)))
    submissions, coordinator, _ = fleet(*boards)

    with pytest.raises(UserError, match=sentence):
        run(submissions.submit(replace(REQUEST, changes=changes)))

    assert coordinator.started == []
    assert run(built(submissions, replace(REQUEST, changes=changes, devices=("nano-1",)))).campaign


@pytest.mark.parametrize(
    ("changes", "option"),
    [
        ({"cuda_graph": True}, "--cuda-graph"),
        ({"sync_mode": "block"}, "--sync"),
        ({"memory_kind": "pinned"}, "--buffers"),
        ({"profile_layers": True}, "--layers"),
    ],
)
def test_an_option_needs_a_backend_that_obeys_it(fleet: Callable, changes: dict[str, Any], option: str) -> None:
    """An option is refused when no selected backend obeys it, and accepted otherwise."""
    nano = device("nano-1", "none", offered("trt", "8.2.1"), offered("ort-cpu", "1.10.0"))
    submissions, coordinator, _ = fleet(nano, device("pc-1"))
    asked = replace(REQUEST, changes=changes)

    for refused in (replace(asked, devices=("pc-1",)), replace(asked, backend="ort-cpu")):
        with pytest.raises(UserError, match=rf"^no chosen backend obeys {option} \(.*pc-1: ort-cpu.*\); leave it"):
            run(submissions.submit(refused))

    assert coordinator.started == []
    assert run(built(submissions, asked)).campaign


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (("nano-away",), r"device 'nano-away' is offline, start its agent or leave it out .*connected: nano-1, pc-1"),
        (("nano-11",), r"there is no device 'nano-11', did you mean nano-1\? \(connected: nano-1, pc-1\)"),
        (("PC-1",), r"there is no device 'PC-1', did you mean pc-1\?"),
        (("zebra", "pc-1"), r"there is no device 'zebra' \(connected: nano-1, pc-1\)"),
    ],
)
def test_devices_that_are_not_there_are_refused(fleet: Callable, names: tuple[str, ...], sentence: str) -> None:
    """Different errors report an offline device and an unknown device."""
    submissions, coordinator, _ = fleet(device("nano-1"), device("pc-1"))
    with pytest.raises(UserError, match=sentence):
        run(submissions.submit(replace(REQUEST, devices=names)))
    assert coordinator.started == []


def test_the_only_device_is_named_when_it_is_offline(fleet: Callable) -> None:
    """A named device is reported offline, and a request without names explains how to start a device."""
    submissions, coordinator, _ = fleet()
    with pytest.raises(UserError, match=r"device 'nano-away' is offline, .* \(connected: none\)"):
        run(submissions.submit(replace(REQUEST, devices=("nano-away",))))
    with pytest.raises(UserError, match="no device is connected; start one with"):
        run(submissions.submit(REQUEST))
    assert coordinator.started == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"repeats": 2**32 - 1}, "the number of repeats 4294967295: give a whole number from 1 to 100"),
        ({"seed": 2**64 - 1}, "the seed 18446744073709551615: give a whole number from 0 to 4294967295"),
        ({"label": "a,b"}, "the label 'a,b': give at most 100 printable characters, without a comma"),
        ({"label": "x" * 101}, "the label 'x{40}…': give at most 100"),
        ({"intra_op_threads": 100_000}, "the number of threads 100000: give a whole number from 0 to 256"),
        ({"changes": {"idle_s": float("nan")}}, "the idle time nan"),
        ({"changes": {"max_start_temperature_c": float("inf")}}, "the highest temperature to start at inf"),
    ],
)
def test_numbers_from_any_client_have_the_same_bounds(fleet: Callable, change: dict[str, Any], sentence: str) -> None:
    """Values that the command line refuses are refused from the wire too."""
    submissions, coordinator, _ = fleet(device("nano-1"))
    with pytest.raises(UserError, match=sentence):
        run(submissions.submit(replace(REQUEST, **change)))
    assert coordinator.started == []


def test_a_backend_that_one_device_lacks_is_refused(fleet: Callable) -> None:
    """Every device must have the requested backend, and the error names a device that lacks it."""
    trt, ort = offered("trt", "8.2.1"), offered("ort-cpu", "1.10.0")
    submissions, coordinator, _ = fleet(device("nano-1", "none", trt, ort), device("pc-1", "none", ort))
    with pytest.raises(UserError, match=r"device 'pc-1' has no backend 'trt' \(it has: ort-cpu\)"):
        run(submissions.submit(replace(REQUEST, backend="trt")))
    assert coordinator.started == []
    assert run(built(submissions, replace(REQUEST, backend="trt", devices=("nano-1",)))).campaign.devices == ("nano-1",)


def test_a_gpu_that_artifacts_cannot_be_lowered_for_is_refused(fleet: Callable) -> None:
    """A device with an unknown target is refused before anything is built."""
    submissions, coordinator, _ = fleet(device("pc-1", "none", offered("trt-rtx", "1.7.1")))
    with pytest.raises(UserError, match=r"device 'pc-1' would run 'trt-rtx', .* its artifacts cannot be made"):
        run(submissions.submit(REQUEST))
    assert coordinator.started == []


@pytest.mark.parametrize(("paper", "asked", "repeats"), [(True, 0, PAPER_REPEATS), (True, 4, 4), (False, 0, 3)])
def test_the_paper_averages_ten_repeats(fleet: Callable, paper: bool, asked: int, repeats: int) -> None:
    """A campaign has ten repeats with --paper and three without, unless the user names a number."""
    submissions, _, _ = fleet(device("nano-1"))
    tracked = run(built(submissions, replace(REQUEST, paper=paper, repeats=asked)))
    assert (tracked.campaign.paper, tracked.campaign.repeats, len(tracked.runs)) == (paper, repeats, repeats)
    assert PAPER_REPEATS == 10


def test_the_measurement_is_the_tiers_with_what_was_asked_for(fleet: Callable) -> None:
    """Changes replace the tier's fields and leave the others."""
    submissions, _, _ = fleet(device("nano-1", "none", offered("trt", "8.2.1")))
    asked = {"cuda_graph": True, "idle_s": 0.0, "max_start_temperature_c": 45.0}
    measurement = run(built(submissions, replace(REQUEST, changes=asked))).campaign.measurement
    assert (measurement.tier, measurement.min_count, measurement.sync_mode) == ("smoke", 64, "spin")
    assert (measurement.cuda_graph, measurement.idle_s, measurement.max_start_temperature_c) == (True, 0.0, 45.0)
    assert (measurement.intra_op_threads, measurement.input_seed) == (2, 7)


def test_each_target_gets_one_artifact(fleet: Callable) -> None:
    """Two devices of one target share an artifact, and each job has its device's backend."""
    trt, ort = offered("trt", "8.2.1"), offered("ort-cpu", "1.23.2")
    devices = (device("nano-1", "none", trt), device("nano-2", "none", trt), device("pc-1", "none", ort))
    submissions, coordinator, builder = fleet(*devices)

    tracked = run(built(submissions, REQUEST))

    assert builder.made == (("m", "fp32", "jetson-nano"), ("m", "fp32", "onnxruntime"))
    assert [(build.target, build.state) for build in coordinator.moved if build.state is BuildState.READY] == [
        ("jetson-nano", BuildState.READY),
        ("onnxruntime", BuildState.READY),
    ]
    assert [(job.device_id, job.backend) for job in tracked.jobs.values()] == [
        ("nano-1", "trt"),
        ("nano-2", "trt"),
        ("pc-1", "ort-cpu"),
    ]


def test_an_artifact_whose_reference_is_gone_is_made_again(fleet: Callable, tmp_path: Any) -> None:
    """A stored artifact is reused only when both its file and its reference exist."""
    store = ContentStore(tmp_path / "artifacts")
    hashes = []
    for content in (b"file", b"reference"):
        scratch = store.scratch()
        scratch.write_bytes(content)
        hashes.append(store.adopt(scratch)[0])
    before = Artifact(hashes[0], 4, "m", "fp32", 1, "random", None, (), {}, {}, "onnxruntime", (), hashes[1], 9)
    submissions, _, builder = fleet(device("pc-1"), before=before)

    run(built(submissions, REQUEST))
    assert builder.made == ()
    store.path(hashes[1]).unlink()
    run(built(submissions, REQUEST))
    assert builder.made == (("m", "fp32", "onnxruntime"),)


def test_a_check_that_runs_out_of_memory_is_a_refusal(fleet: Callable) -> None:
    """When the build process dies during the check of the models, the campaign is refused."""
    submissions, coordinator, builder = fleet(device("pc-1"))
    builder.dies = True

    with pytest.raises(UserError, match=r"the models cannot be checked: it died; free memory on the controller's"):
        run(submissions.submit(REQUEST))

    assert coordinator.started == []


def test_a_full_disk_delays_a_build_and_fails_nothing(fleet: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build that finds no room is tried again until there is some."""
    submissions, coordinator, builder = fleet(device("pc-1"))
    build, refusals = builder.build, [StoreError("no room to build"), StoreError("no room to build")]

    async def full_at_first(*request: Any) -> Artifact:
        if refusals:
            raise refusals.pop()
        return await build(*request)

    monkeypatch.setattr(builder, "build", full_at_first)
    monkeypatch.setattr(submission, "FIRST_PAUSE_S", 0.01)

    run(built(submissions, REQUEST))

    assert [build.state for build in coordinator.moved] == [BuildState.BUILDING, BuildState.READY]


def test_a_client_that_goes_away_leaves_a_campaign_that_is_built(fleet: Callable) -> None:
    """A campaign whose client is cut off while it is recorded is built all the same."""
    submissions, coordinator, builder = fleet(device("pc-1"))

    async def story() -> None:
        recorded, go_on, is_built = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def done(tracked: TrackedCampaign) -> None:
            del tracked
            is_built.set()

        async def start(tracked: TrackedCampaign) -> None:
            recorded.set()
            await go_on.wait()
            coordinator.started.append(tracked)

        coordinator.start, coordinator.builds_done = start, done
        call = asyncio.create_task(submissions.submit(REQUEST))
        await recorded.wait()
        call.cancel()
        go_on.set()
        await asyncio.wait({call})
        await is_built.wait()

    asyncio.run(asyncio.wait_for(story(), 30))
    assert builder.made == (("m", "fp32", "onnxruntime"),)
