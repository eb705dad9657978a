"""A scripted FleetControl server, and commands run as a person would."""
# ruff: noqa: N802, ARG002, D101, D102 – the methods of a gRPC service are named by fleet.proto

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Event
from typing import Any

import grpc
import pytest
from efficientquant_controller.cli.app import run
from efficientquant_controller.columns import OF_ROWS, Kind
from efficientquant_controller.server.errors import ANSWERED
from efficientquant_protos import PROTOCOL_VERSION
from efficientquant_protos.v1 import fleet_pb2 as pb
from efficientquant_protos.v1 import fleet_pb2_grpc


@dataclass
class ScriptedControl(fleet_pb2_grpc.FleetControlServicer):
    """A controller that answers as a test scripts it.

    With `refusal` (status, sentence), every call gets that instead.
    """

    refusal: tuple[grpc.StatusCode, str] | None = None
    devices: list[pb.Device] = field(default_factory=list)
    campaigns: list[pb.Campaign] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)
    statuses: SimpleQueue[pb.CampaignStatus | Exception] = field(default_factory=SimpleQueue)
    requests: list[Any] = field(default_factory=list)
    uploaded: bytes = b""
    state_after_cancel: str = "cancelled"
    address: str = ""
    now_unix_s: float = 0.0
    protocol_version: int = PROTOCOL_VERSION
    problem: str = ""
    # Cleared by a test that lets its command wait.
    answering: Event = field(default_factory=Event)

    def ListDevices(self, request, context):
        self._take(request, context)
        return pb.ListDevicesResponse(
            devices=self.devices,
            controller_unix_s=self.now_unix_s,
            protocol_version=self.protocol_version,
            problem=self.problem,
        )

    def ForgetDevice(self, request, context):
        self._take(request, context)
        return pb.ForgetDeviceResponse(device=pb.Device(name=request.name, state="offline"))

    def UploadCheckpoint(self, request_iterator, context):
        for chunk in request_iterator:
            assert chunk.offset == len(self.uploaded)
            self.uploaded += chunk.data
        sha256 = hashlib.sha256(self.uploaded).hexdigest()
        return pb.UploadCheckpointResponse(sha256=sha256, size_bytes=len(self.uploaded))

    def SubmitCampaign(self, request, context):
        self._take(request, context)
        return campaign_message(models=request.models, recipes=request.recipes, tier=request.tier)

    def WatchCampaign(self, request, context):
        self._take(request, context)
        while True:
            status = self.statuses.get()
            if isinstance(status, Exception):
                context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
            yield status
            if status.campaign.state in ("succeeded", "failed", "cancelled"):
                return

    def CancelCampaign(self, request, context):
        self._take(request, context)
        self.statuses.put(status_message(self.state_after_cancel))
        return campaign_message(self.state_after_cancel)

    def ListCampaigns(self, request, context):
        self._take(request, context)
        return pb.ListCampaignsResponse(campaigns=self.campaigns)

    def QueryJobs(self, request, context):
        self._take(request, context)
        return iter([pb.JobRow(columns_json=json.dumps(row)) for row in self.rows])

    def QueryRuns(self, request, context):
        self._take(request, context)
        rows = [row for row in self.runs if request.campaign_id in ("", row["campaign_id"])]
        return iter([pb.RunRow(columns_json=json.dumps(row)) for row in rows])

    def _take(self, request, context):
        self.requests.append(request)
        self.answering.wait()
        if self.refusal is not None:
            context.set_trailing_metadata(ANSWERED)
            context.abort(*self.refusal)


def campaign_message(state="running", **values) -> pb.Campaign:
    defaults = {
        "campaign_id": "c1",
        "created_unix_s": 1_700_000_000.0,
        "models": ["mobilevit_xxs"],
        "recipes": ["fp32", "efficientquant"],
        "devices": ["bench-1"],
        "weights": "random",
        "tier": "smoke",
        "repeats": 2,
        "job_count": 2,
        "run_count": 4,
    }
    return pb.Campaign(state=state, **{**defaults, **values})


def status_message(state="running", **values) -> pb.CampaignStatus:
    return pb.CampaignStatus(campaign=campaign_message(state), **values)


def job_row(recipe="fp32", p50_s=0.020, **values) -> dict[str, Any]:
    """Return a row from a controller, unknown except for some values."""
    texts = (Kind.STRING, Kind.TEXT)
    unknown = {column.name: "" if column.kind in texts else None for column in OF_ROWS}
    defaults = {
        "paper": False,
        "campaign_id": "c1",
        "job_id": f"j-{recipe}",
        "device": "bench-1",
        "model": "mobilevit_xxs",
        "recipe": recipe,
        "weights": "random",
        "tier": "smoke",
        "state": "succeeded",
        "runs_planned": 2,
        "runs_done": 2,
        "latency_p50_s": p50_s,
        "latency_p50_min_s": p50_s * 0.95,
        "latency_p50_max_s": p50_s * 1.05,
        "latency_p90_s": p50_s * 1.1,
        "latency_p99_s": p50_s * 1.5,
        "load_s": 0.125,
        "transfer_s": 0.004,
        "peak_rss_bytes": 96 << 20,
        "uss_bytes": 64 << 20,
        "peak_pss_bytes": 80 << 20,
        "artifact_bytes": 5 << 20,
    }
    assert {*defaults, *values} <= {*unknown}
    return {**unknown, **defaults, **values}


@pytest.fixture
def messages() -> Any:
    """Return the makers of messages as attributes."""

    class Makers:
        campaign = staticmethod(campaign_message)
        status = staticmethod(status_message)
        row = staticmethod(job_row)

    return Makers


@pytest.fixture
def control(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedControl]:
    """Start a scripted controller and yield it.

    The commands find its address in the environment.
    """
    control = ScriptedControl()
    control.answering.set()
    server = grpc.server(ThreadPoolExecutor(4))
    fleet_pb2_grpc.add_FleetControlServicer_to_server(control, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    control.address = f"127.0.0.1:{port}"
    monkeypatch.setenv("EFFICIENTQUANT_CONTROLLER", control.address)
    yield control
    control.answering.set()
    control.statuses.put(status_message("cancelled"))  # for a watcher that has left
    server.stop(None).wait()


@dataclass(frozen=True)
class Outcome:
    exit_code: int
    out: str
    err: str


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Return a function that runs `efficientquant ARGUMENTS` in this process."""

    def call(*arguments: str) -> Outcome:
        with pytest.raises(SystemExit) as left:
            run(list(arguments))
        captured = capsys.readouterr()
        return Outcome(int(left.value.code or 0), captured.out, captured.err)

    return call


@pytest.fixture
def now_s() -> float:
    return time.time()
