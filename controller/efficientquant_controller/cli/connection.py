"""The connection to a controller over gRPC.

No other module of the command line uses gRPC.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

import grpc
from efficientquant_protos import PROTOCOL_VERSION
from efficientquant_protos.v1 import fleet_pb2 as pb
from efficientquant_protos.v1 import fleet_pb2_grpc

from efficientquant_controller.addresses import is_loopback, is_own, join_address, split_address
from efficientquant_controller.cli import convert
from efficientquant_controller.cli.records import (
    BenchRequest,
    CampaignListing,
    CampaignStatus,
    DeviceListing,
    FleetListing,
)
from efficientquant_controller.cli.waiting import Waiting
from efficientquant_controller.errors import FleetError, UserError
from efficientquant_controller.model import Calibration, Weights

CHUNK_BYTES = 1 << 20
ANSWER_TIMEOUT_S = 30.0
# A controller imports torch and timm before it can check the first campaign, which is slow on a small machine.
SUBMIT_TIMEOUT_S = 300.0

_CHANNEL_OPTIONS = (
    # Connect directly, also where http_proxy is set.
    ("grpc.enable_http_proxy", 0),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # Reconnect to a restarted controller within seconds. gRPC's own limit is two minutes.
    ("grpc.initial_reconnect_backoff_ms", 200),
    # The time limit of one attempt to connect. A busy controller answers slowly.
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.max_receive_message_length", 256 << 20),  # the largest result that the controller accepts
)
_USER_CODES = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.FAILED_PRECONDITION,
)
# A controller that stops answers CANCELLED to the calls it serves.
_LOST_CODES = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
_REASONS = {
    "connection refused": "connection refused",
    "dns resolution failed": "the name is unknown",
    "errors resolving": "the name is unknown",
    "no route to host": "no route to that host",
    "network is unreachable": "the network is unreachable",
    "timed out": "no answer",
    "timeout": "no answer",
    "handshaker shutdown": "no answer",
    "wrong version number": "it speaks TLS",
    "parsing http/2": "what answers there is no controller",
    "socket closed": "it closed the connection",
    "connection reset": "it closed the connection",
}
# Reasons after which a controller can be started at that address.
_NOBODY_THERE = ("connection refused", "it closed the connection")
# The controller's own answers carry it, and gRPC's do not.
_ANSWERED = "efficientquant-answered"


class ControllerUnreachableError(UserError):
    """The error for an address at which no controller answers.

    `reason` says why in a few words.
    """

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(f"no controller answers at {address} ({reason}); {_advice(address, reason)}")
        self.address = address
        self.reason = reason


class ControllerBugError(FleetError):
    """A failure in the controller that the user cannot fix.

    The controller's log has the traceback.
    """


class Connection:
    """A client of a controller's FleetControl service.

    Every method raises UserError for errors that the user can fix, ControllerUnreachableError (a UserError) when no
    controller answers, and ControllerBugError when the controller fails.
    """

    def __init__(self, address: str) -> None:
        """Open a channel to `address` (HOST:PORT) without sending anything yet.

        Raises UserError when `address` is malformed.
        """
        self.address = address = join_address(*split_address(address))
        self._streams: set[Any] = set()
        self._channel = _open_channel(address)
        self._control = fleet_pb2_grpc.FleetControlStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the channel and cancel the calls in progress."""
        self._channel.close()

    def devices(self) -> FleetListing:
        """Return all known devices with the controller's clock and trouble."""
        answer = self._call(self._control.ListDevices, pb.ListDevicesRequest(), "to list its devices")
        now_unix_s = answer.controller_unix_s or time.time()  # an older controller sends none
        return FleetListing([convert.device_from_wire(device) for device in answer.devices], now_unix_s, answer.problem)

    def require_same_protocol(self) -> None:
        """Raise UserError unless the controller speaks this client's protocol.

        The results of another protocol could not be read.
        """
        answer = self._call(self._control.ListDevices, pb.ListDevicesRequest(), "to name its protocol")
        theirs = answer.protocol_version
        if theirs != PROTOCOL_VERSION:
            spoken = f"protocol {theirs}" if theirs else f"a protocol before {PROTOCOL_VERSION}"
            side = "this efficientquant" if theirs > PROTOCOL_VERSION else "the controller"
            raise UserError(
                f"the controller at {self.address} speaks {spoken}, and this is efficientquant "
                f"{version('efficientquant')}, which speaks protocol {PROTOCOL_VERSION}; upgrade {side}"
            )

    def forget_device(self, name: str) -> DeviceListing:
        """Free the name of a device that will not come back."""
        answer = self._call(self._control.ForgetDevice, pb.ForgetDeviceRequest(name=name), "to forget a device")
        return convert.device_from_wire(answer.device)

    def upload(self, path: Path) -> str:
        """Upload a checkpoint or images and return the SHA-256.

        Raises UserError when `path` cannot be read or the upload arrives damaged.
        """
        digest = hashlib.sha256()
        sent_bytes = 0

        def count(offset: int) -> None:
            nonlocal sent_bytes
            sent_bytes = offset

        with _open_file(path) as file:
            size_bytes = path.stat().st_size
            chunks = _chunks(file, digest, count)
            with Waiting(lambda: f"the upload of {path.name}, {sent_bytes / max(size_bytes, 1):.0%} sent"):
                answer = self._answer(self._control.UploadCheckpoint, chunks, None)
        if answer.sha256 != digest.hexdigest():
            raise UserError(f"{path} arrived damaged at {self.address} or was changed during the upload; try again")
        return str(answer.sha256)

    def submit(
        self, request: BenchRequest, weights: Weights, calibration: Calibration | None = None
    ) -> CampaignListing:
        """Submit a campaign and return it.

        Raises UserError when the controller refuses it, and then nothing is stored.
        """
        message = convert.request_to_wire(request, weights, calibration)
        purpose = "to check models, recipes and devices (it loads PyTorch for the first campaign)"
        return convert.campaign_from_wire(
            self._call(self._control.SubmitCampaign, message, purpose, timeout_s=SUBMIT_TIMEOUT_S)
        )

    def watch(self, campaign_id: str) -> Iterator[CampaignStatus]:
        """Yield a campaign's status now and after every change until it ends."""
        stream = self._control.WatchCampaign(pb.WatchCampaignRequest(campaign_id=campaign_id))
        self._streams.add(stream)
        try:
            for message in stream:
                yield convert.status_from_wire(message)
        except grpc.RpcError as error:
            self._fail(error)
        finally:
            self._streams.discard(stream)
            stream.cancel()

    def stop_watching(self) -> None:
        """Cancel every running `watch`, which then raises ControllerUnreachableError.

        May be called from any thread.
        """
        for stream in tuple(self._streams):
            stream.cancel()

    def cancel(self, campaign_id: str) -> CampaignListing:
        """Cancel a campaign (an id or "latest")."""
        request = pb.CancelCampaignRequest(campaign_id=campaign_id)
        return convert.campaign_from_wire(self._call(self._control.CancelCampaign, request, "to cancel the campaign"))

    def campaigns(self) -> list[CampaignListing]:
        """Return every campaign, newest first."""
        answer = self._call(self._control.ListCampaigns, pb.ListCampaignsRequest(), "to list its campaigns")
        return [convert.campaign_from_wire(campaign) for campaign in answer.campaigns]

    def results(self, campaign_id: str) -> list[dict[str, Any]]:
        """Return the rows of the view `results`.

        `campaign_id` is an id, "latest", or empty for all campaigns.
        """
        request = pb.QueryJobsRequest(campaign_id=campaign_id)
        try:
            with Waiting(f"the controller at {self.address} to send results"):
                answer = self._control.QueryJobs(request, timeout=ANSWER_TIMEOUT_S)
                return [json.loads(row.columns_json) for row in answer]
        except grpc.RpcError as error:
            self._fail(error)

    def runs(self, campaign_id: str) -> list[dict[str, Any]]:
        """Return the rows of the view `run_results`.

        `campaign_id` is an id, "latest", or empty for all campaigns.
        """
        request = pb.QueryRunsRequest(campaign_id=campaign_id)
        try:
            with Waiting(f"the controller at {self.address} to send runs"):
                answer = self._control.QueryRuns(request, timeout=ANSWER_TIMEOUT_S)
                return [json.loads(row.columns_json) for row in answer]
        except grpc.RpcError as error:
            self._fail(error)

    def _call(
        self, method: Callable[..., Any], request: Any, purpose: str, *, timeout_s: float = ANSWER_TIMEOUT_S
    ) -> Any:
        with Waiting(f"the controller at {self.address} {purpose}"):
            return self._answer(method, request, timeout_s)

    def _answer(self, method: Callable[..., Any], request: Any, timeout_s: float | None) -> Any:
        try:
            answer = method(request, timeout=timeout_s)
        except grpc.RpcError as error:
            self._fail(error)
        if answer is None:  # what gRPC makes of an answer that was damaged on the way
            raise ControllerUnreachableError(self.address, "its answer was damaged on the way")
        return answer

    def _fail(self, error: Any) -> NoReturn:
        code, details = error.code(), error.details() or ""
        if code in _USER_CODES:
            raise UserError(details) from None
        if code is grpc.StatusCode.UNIMPLEMENTED:
            raise UserError(
                f"what answers at {self.address} does not offer this: it is an older controller, or none; upgrade it, "
                "or pass another --controller"
            ) from None
        if code is grpc.StatusCode.UNAVAILABLE and _is_answer(error):
            raise UserError(details) from None
        if code in _LOST_CODES:
            raise ControllerUnreachableError(self.address, _reason(details)) from None
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            raise ControllerUnreachableError(self.address, "no answer in time") from None
        raise ControllerBugError(
            f"the controller at {self.address} failed ({code.name}): {details or 'it gave no reason'}; "
            "its log has the traceback"
        ) from error


def _advice(address: str, reason: str) -> str:
    host, _ = split_address(address)
    if reason not in _NOBODY_THERE or not is_own(host):
        return "look whether it runs there and its port can be reached from here, or pass another --controller"
    insecure = "" if is_loopback(host) else " --insecure"
    return f"start one with 'efficientquant serve --listen {address}{insecure}' or pass --controller"


def _open_channel(address: str) -> grpc.Channel:
    # Not encrypted yet. Mutual TLS will replace only this call, by grpc.secure_channel.
    return grpc.insecure_channel(address, options=_CHANNEL_OPTIONS)


def _is_answer(error: Any) -> bool:
    """Tell whether the controller itself answered, and not gRPC."""
    return any(key == _ANSWERED for key, _ in error.trailing_metadata() or ())


def _reason(details: str) -> str:
    lowered = details.lower()
    known = (reason for text, reason in _REASONS.items() if text in lowered)
    return next(known, details.splitlines()[0] if details else "no reason given")


def _open_file(path: Path) -> Any:
    try:
        return path.open("rb")
    except OSError as error:
        raise UserError(f"the file {path} cannot be read: {error.strerror}") from error


def _chunks(file: Any, digest: Any, on_progress: Callable[[int], None]) -> Iterator[pb.Chunk]:
    offset = 0
    while data := file.read(CHUNK_BYTES):
        digest.update(data)
        yield pb.Chunk(offset=offset, data=data)
        offset += len(data)
        on_progress(offset)
