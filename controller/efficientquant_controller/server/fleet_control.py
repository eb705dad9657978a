"""The gRPC service for the command line: devices, campaigns and results."""

import asyncio
import json
import time
from collections.abc import AsyncIterator

import grpc
from efficientquant_protos import PROTOCOL_VERSION
from efficientquant_protos.v1 import fleet_pb2 as pb
from efficientquant_protos.v1 import fleet_pb2_grpc

from efficientquant_controller.errors import UserError
from efficientquant_controller.fleet.artifacts import ContentStore
from efficientquant_controller.fleet.campaigns import DeviceTally, TrackedCampaign
from efficientquant_controller.fleet.comparing import compared_results
from efficientquant_controller.fleet.coordinator import Coordinator
from efficientquant_controller.fleet.submission import CampaignRequest, Submissions
from efficientquant_controller.model import Device
from efficientquant_controller.server import convert
from efficientquant_controller.store.base import Store

# A screen needs no faster updates, and sending a thousand a second would cost the controller a core.
WATCH_INTERVAL_S = 0.1


class FleetControl(fleet_pb2_grpc.FleetControlServicer):
    """The FleetControl service, which converts messages for coordinator, submissions and store."""

    def __init__(
        self, coordinator: Coordinator, submissions: Submissions, store: Store, checkpoints: ContentStore
    ) -> None:
        self._coordinator = coordinator
        self._submissions = submissions
        self._store = store
        self._checkpoints = checkpoints

    async def ListDevices(
        self, request: pb.ListDevicesRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListDevicesResponse:
        """Return every device that has a name."""
        devices = await asyncio.to_thread(self._store.devices)
        return pb.ListDevicesResponse(
            devices=[self._device(device) for device in devices],
            controller_unix_s=time.time(),
            protocol_version=PROTOCOL_VERSION,
            problem=self._coordinator.problem,
        )

    async def ForgetDevice(
        self, request: pb.ForgetDeviceRequest, context: grpc.aio.ServicerContext
    ) -> pb.ForgetDeviceResponse:
        """Free the name of a disconnected device.

        Raises UserError when it is connected, and NotFoundError when no device has the name.
        """
        if any(device.name == request.name for device in self._coordinator.connected()):
            raise UserError(f"device '{request.name}' is connected; stop its agent before it is forgotten")
        device = await asyncio.to_thread(self._store.forget_device, request.name)
        return pb.ForgetDeviceResponse(device=self._device(device))

    async def UploadCheckpoint(
        self, request_iterator: AsyncIterator[pb.Chunk], context: grpc.aio.ServicerContext
    ) -> pb.UploadCheckpointResponse:
        """Store a checkpoint or images under their SHA-256.

        Raises UserError when a chunk is missing or out of order.
        """
        sha256, size = await self._checkpoints.receive((chunk.offset, chunk.data) async for chunk in request_iterator)
        return pb.UploadCheckpointResponse(sha256=sha256, size_bytes=size)

    async def SubmitCampaign(self, request: pb.SubmitCampaignRequest, context: grpc.aio.ServicerContext) -> pb.Campaign:
        """Check the request, record the campaign and start its builds.

        Raises UserError when any part of the request is wrong, and BuildError when a model cannot be loaded.
        """
        campaign_request = CampaignRequest(
            models=tuple(dict.fromkeys(request.models)),
            recipes=tuple(dict.fromkeys(request.recipes)),
            devices=tuple(dict.fromkeys(request.devices)),
            weights=convert.weights_from_wire(request.weights),
            tier=request.tier,
            repeats=request.repeats,
            seed=request.seed,
            intra_op_threads=request.intra_op_threads,
            calibration=convert.calibration_from_wire(request),
            paper=request.paper,
            backend=request.backend,
            label=request.label,
            changes=convert.changes_from_wire(request),
        )
        self._coordinator.require_store()
        tracked = await self._submissions.submit(campaign_request)
        return await self._campaign(tracked)

    async def WatchCampaign(
        self, request: pb.WatchCampaignRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.CampaignStatus]:
        """Send the campaign's whole state now and after changes, until it ends.

        Raises NotFoundError when it does not exist.
        """
        campaign_id = (await self._coordinator.campaign(request.campaign_id)).campaign_id
        while True:
            changed = self._coordinator.next_change()
            status = await self._status(await self._coordinator.campaign(campaign_id))
            yield status
            if status.campaign.HasField("ended_unix_s"):  # check the sent status: the campaign may have changed since
                return
            await asyncio.sleep(WATCH_INTERVAL_S)
            await changed.wait()

    async def CancelCampaign(self, request: pb.CancelCampaignRequest, context: grpc.aio.ServicerContext) -> pb.Campaign:
        """Cancel a campaign.

        Raises NotFoundError when it does not exist.
        """
        campaign = await self._coordinator.cancel(request.campaign_id)
        self._submissions.stop(campaign.campaign_id)
        return convert.campaign_to_wire(campaign, await self._names())

    async def ListCampaigns(
        self, request: pb.ListCampaignsRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListCampaignsResponse:
        """Return all campaigns, newest first."""
        campaigns = await asyncio.to_thread(self._store.campaigns)
        names = await self._names()
        return pb.ListCampaignsResponse(campaigns=[convert.campaign_to_wire(campaign, names) for campaign in campaigns])

    async def QueryJobs(
        self, request: pb.QueryJobsRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.JobRow]:
        """Send rows of `results`, each with its comparison to FP32.

        Raises NotFoundError when the campaign does not exist.
        """
        campaign_id = None
        if request.campaign_id:
            campaign_id = (await asyncio.to_thread(self._store.campaign, request.campaign_id)).campaign_id
        for row in await asyncio.to_thread(compared_results, self._store, campaign_id):
            yield convert.job_row_to_wire(row)

    async def QueryRuns(
        self, request: pb.QueryRunsRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.RunRow]:
        """Send rows of `run_results`.

        Raises NotFoundError when the campaign does not exist.
        """
        for row in await asyncio.to_thread(self._store.run_rows, request.campaign_id or None):
            yield pb.RunRow(columns_json=json.dumps(dict(row), allow_nan=False))

    def _device(self, device: Device) -> pb.Device:
        session = self._coordinator.session(device.device_id)
        state = self._coordinator.device_state(device.device_id)
        return convert.device_to_wire(device, state, session)

    async def _campaign(self, tracked: TrackedCampaign) -> pb.Campaign:
        return convert.campaign_to_wire(tracked.campaign, await self._names())

    async def _names(self) -> dict[str, str]:
        return dict(await asyncio.to_thread(self._store.device_names))

    async def _status(self, tracked: TrackedCampaign) -> pb.CampaignStatus:
        names = await self._names()
        builds = []
        for build in tracked.builds.values():
            sha256 = build.artifact_sha256
            artifact = await asyncio.to_thread(self._store.artifact, sha256) if sha256 else None
            builds.append(convert.build_to_wire(build, artifact))
        return pb.CampaignStatus(
            campaign=convert.campaign_to_wire(tracked.campaign, names),
            builds=builds,
            devices=[self._device_status(tracked, tally, names) for tally in tracked.tallies()],
            notices=[pb.Notice(time_unix_s=event.time_unix_s, message=event.message) for event in tracked.events],
        )

    def _device_status(self, tracked: TrackedCampaign, tally: DeviceTally, names: dict[str, str]) -> pb.DeviceStatus:
        status = pb.DeviceStatus(
            name=names.get(tally.device_id) or tally.device_id,
            state=self._coordinator.device_state(tally.device_id),
            runs_total=tally.total,
            runs_done=tally.done,
            runs_failed=tally.failed,
        )
        if tally.leased is not None:
            job = tracked.jobs[tally.leased.job_id]
            status.current_model, status.current_recipe = job.model, job.recipe
            session = self._coordinator.session(tally.device_id)
            if session and session.progress and session.progress.run_id == tally.leased.run_id:
                status.phase, status.fraction = session.progress.phase, session.progress.fraction
        return status
