"""The conversion between protobuf messages and the command line's records."""

from collections.abc import Mapping
from collections.abc import Sequence as AbstractSequence
from typing import Any

from efficientquant_protos.v1 import fleet_pb2 as pb
from google.protobuf.message import Message

from efficientquant_controller.cli.records import (
    BenchRequest,
    BuildStatus,
    CampaignListing,
    CampaignStatus,
    DeviceListing,
    DeviceStatus,
    Notice,
    Submission,
)
from efficientquant_controller.model import Backend, Calibration, CampaignState, DeviceSnapshot, Gpu, Weights


def plain(message: Message) -> dict[str, Any]:
    """Return a message's fields by name.

    An optional field that is not set is None.
    """
    return {field.name: _field_value(message, field) for field in message.DESCRIPTOR.fields}


def _field_value(message: Message, field: Any) -> Any:
    value = getattr(message, field.name)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, AbstractSequence) and not isinstance(value, str | bytes):
        return [plain(item) if isinstance(item, Message) else item for item in value]
    if field.has_presence and not message.HasField(field.name):
        return None
    return plain(value) if isinstance(value, Message) else value


def device_from_wire(message: pb.Device) -> DeviceListing:
    """Read a device."""
    snapshot = plain(message.snapshot)
    snapshot["gpus"] = tuple(Gpu(**plain(gpu)) for gpu in message.snapshot.gpus)
    snapshot["backends"] = tuple(Backend.from_plain(plain(backend)) for backend in message.snapshot.backends)
    return DeviceListing(**{**plain(message), "snapshot": DeviceSnapshot(**snapshot)})


def campaign_from_wire(message: pb.Campaign) -> CampaignListing:
    """Read a campaign."""
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in plain(message).items()
    }
    values["state"] = CampaignState(message.state)
    values["submission"] = _submission_from_wire(message.request) if message.HasField("request") else None
    del values["request"]
    return CampaignListing(**values)


def _submission_from_wire(message: pb.SubmitCampaignRequest) -> Submission:
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in plain(message).items()
    }
    weights, calibration = values.pop("weights"), values.pop("calibration")
    return Submission(
        BenchRequest(**values),
        Weights(message.weights.WhichOneof("source") or "", **(weights["checkpoint"] or {})),
        None if calibration is None else Calibration(**calibration),
    )


def status_from_wire(message: pb.CampaignStatus) -> CampaignStatus:
    """Read a campaign's status."""
    return CampaignStatus(
        campaign_from_wire(message.campaign),
        tuple(BuildStatus(**plain(build)) for build in message.builds),
        tuple(DeviceStatus(**plain(device)) for device in message.devices),
        tuple(Notice(**plain(notice)) for notice in message.notices),
    )


def request_to_wire(
    request: BenchRequest, weights: Weights, calibration: Calibration | None
) -> pb.SubmitCampaignRequest:
    """Write the message that submits a campaign."""
    images = None if calibration is None else pb.Calibration(**vars(calibration))
    return pb.SubmitCampaignRequest(**vars(request), weights=_weights_to_wire(weights), calibration=images)


def _weights_to_wire(weights: Weights) -> pb.Weights:
    if weights.kind == "checkpoint":
        return pb.Weights(checkpoint=pb.Checkpoint(sha256=weights.sha256, filename=weights.filename))
    return pb.Weights(pretrained=True) if weights.kind == "pretrained" else pb.Weights(random=True)
