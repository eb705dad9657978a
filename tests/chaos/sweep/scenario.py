"""The life of a small fleet in one process."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import reports
import seeding
from efficientquant_controller.errors import StoreError, UserError
from efficientquant_controller.fleet.campaigns import TrackedCampaign
from efficientquant_controller.fleet.coordinator import Coordinator
from efficientquant_controller.fleet.liveness import Assign, CancelRun, Session
from efficientquant_controller.fleet.scheduling import plan_campaign
from efficientquant_controller.fleet.variants import Variant
from efficientquant_controller.model import BuildState, CampaignState, JobState, RunState
from efficientquant_controller.server import convert
from efficientquant_controller.store.sql import SqlStore
from efficientquant_protos.v1 import fleet_pb2 as pb
from faults import Faults, KilledError

LEASE_S = 15.0
ROUNDS = 120
# What a device does with its first assignments, in turn. Then it reports.
HABITS = {
    "fake-0": ["twice", "passing failure", "reconnect", "vanish", "late"],
    "fake-1": ["failure", "poison", "report", "forget"],
}


class Device:
    """An agent, with its outbox."""

    def __init__(self, device_id: str, name: str) -> None:
        self.device_id = device_id
        self.name = name
        self.epoch = 10
        self.session: Session | None = None
        self.active: dict[str, Assign] = {}
        self.outbox: dict[str, reports.StoredReport] = {}
        self.habits = iter(HABITS[device_id])


class Scenario:
    """Two devices and three campaigns on a real SQLite store.

    `play` drives them to their end, whatever the fault. `acknowledged` has the SHA-256 of each result that the
    controller said to be committed.
    """

    def __init__(self, store: SqlStore, faults: Faults) -> None:
        self.store = store
        self.faults = faults
        self.acknowledged: dict[str, str] = {}
        self.refused: list[str] = []
        self._poisoned: set[str] = set()
        self.devices = [Device(f"fake-{number}", f"device-{number}") for number in range(2)]
        self._snapshots = {device.device_id: store.device(device.device_id).snapshot for device in self.devices}
        self._clock_s = time.monotonic()
        self._pending: list[Callable[[], Awaitable[Any]]] = []
        self.coordinator = self._new_coordinator()

    def _new_coordinator(self) -> Coordinator:
        coordinator = Coordinator(self.store, LEASE_S)
        coordinator._health._first_pause_s = 0.0
        coordinator._ledger.db = self.faults.around(coordinator._ledger.db)
        return coordinator

    async def play(self) -> None:
        """Drive all campaigns to their end."""
        await self._restart()
        self._pending = [self._submit, self._build_ready, self._build_failed, self._run, self._cancel]
        for _ in range(ROUNDS):
            try:
                if await self._round():
                    await self._be_quiet()
                    return
            except KilledError:
                await self._restart()
        raise AssertionError(f"not at the end after {ROUNDS} rounds: {self._states()}")

    async def _be_quiet(self) -> None:
        """Wait for what goes on after a call was cancelled."""
        while (task := self.coordinator._owner._task) is not None:
            await asyncio.wait({task})

    async def _restart(self) -> None:
        """Begin with what the store has, as after a kill."""
        while True:
            self.faults.killed.clear()
            if (task := self.coordinator._owner._task) is not None:
                task.cancel()  # a kill ends it too
            for device in self.devices:
                device.session = None
            self.coordinator.close()
            self.coordinator = self._new_coordinator()
            try:
                await self.faults.call(self.coordinator.recover())
            except (KilledError, StoreError, asyncio.CancelledError):
                continue
            return

    async def _round(self) -> bool:
        """Let everybody act once, and tell whether all campaigns have ended."""
        if self._pending and await self._succeeds(self._pending[0]()):
            self._pending.pop(0)
        for device in self.devices:
            await self._act(device)
        await self._succeeds(self.coordinator.campaign("latest"))  # somebody watches
        self._clock_s += LEASE_S / 2
        await self._succeeds(self._check_leases())
        return not self._pending and all(CampaignState(state).ended for state in self._states().values())

    async def _check_leases(self) -> None:
        """Check as `watch_leases` does: in the owner's task, which alone makes changes."""
        await self.coordinator._owner.do(partial(self.coordinator._check_leases, self._clock_s))

    async def _succeeds(self, work: Any) -> bool:
        try:
            await self.faults.call(work)
        except (StoreError, asyncio.CancelledError):
            return False
        return True

    def _states(self) -> dict[str, str]:
        return {campaign.campaign_id: campaign.state for campaign in self.store.campaigns()}

    # campaigns

    async def _submit(self) -> None:
        """Submit a campaign of two recipes that have to be built."""
        if "built" in self._states():  # the answer of an earlier attempt was lost
            return
        first = self.store.campaigns()[-1]
        campaign = replace(first, campaign_id="built", state=CampaignState.BUILDING)
        devices = [self.store.device(device.device_id) for device in self.devices]
        variant = Variant(seeding.BACKEND.name, seeding.TARGET)
        await self.coordinator.start(
            TrackedCampaign(campaign, *plan_campaign(campaign, [(device, variant) for device in devices]))
        )

    async def _move_build(self, recipe: str, **facts: Any) -> None:
        tracked = await self.coordinator.campaign("built")
        build = next(build for build in tracked.builds.values() if build.recipe == recipe)
        await self.coordinator.build_moved(tracked, replace(build, **facts))

    async def _build_ready(self) -> None:
        sha256 = self.store.builds(self.store.campaigns()[-1].campaign_id)[0].artifact_sha256
        await self._move_build("fp32", state=BuildState.READY, artifact_sha256=sha256)

    async def _build_failed(self) -> None:
        await self._move_build("int8", state=BuildState.FAILED, message="it cannot be built")

    async def _run(self) -> None:
        await self.coordinator.builds_done(await self.coordinator.campaign("built"))

    async def _cancel(self) -> None:
        await self.coordinator.cancel(self.store.campaigns()[-2].campaign_id)

    # devices

    async def _act(self, device: Device) -> None:
        if device.session is None:
            await self._connect(device)
        else:
            self.coordinator.heard(device.session, self._active(device))
            device.session.last_heard_s = self._clock_s
        for order in tuple(device.active.values()):  # begun when the controller was killed
            self._finish(device, order)
        for run_id in tuple(device.outbox):
            await self._deliver(device, run_id)
        for command in self._commands(device):
            if isinstance(command, Assign) and command.run.run_id not in self._active(device):
                device.active[command.run.run_id] = command
                await self._do(device, command, next(device.habits, "report"))
            elif isinstance(command, CancelRun) and command.run_id in device.active:
                self._finish(device, device.active[command.run_id], failure_type="cancelled")

    def _active(self, device: Device) -> list[str]:
        return [*device.active, *device.outbox]

    @staticmethod
    def _commands(device: Device) -> Iterator[Any]:
        while device.session is not None and not device.session.commands.empty():
            command = device.session.commands.get_nowait()
            if command is None:
                device.session = None
                return
            yield command

    async def _connect(self, device: Device) -> None:
        device.epoch += 1
        snapshot = self._snapshots[device.device_id]
        hello = (device.device_id, device.name, "0.1.0", device.epoch, snapshot, self._active(device))
        try:
            device.session = await self.faults.call(self.coordinator.open_session(*hello))
        except (StoreError, asyncio.CancelledError):
            return

    async def _disconnect(self, device: Device) -> None:
        session, device.session = device.session, None
        if session is not None:
            self.coordinator.close_session(session)

    async def _do(self, device: Device, order: Assign, habit: str) -> None:
        """Do a run in one of the ways that agents do it."""
        if habit == "forget":  # the agent was killed
            device.active.clear()
            await self._disconnect(device)
            return
        if habit in ("reconnect", "vanish"):
            await self._disconnect(device)
            if habit == "vanish":  # for longer than its lease, so that the run is requeued
                self._clock_s += 2 * LEASE_S
                await self._succeeds(self._check_leases())
            await self._connect(device)
        failures = {"failure": "runtime_error", "passing failure": "agent_error"}
        self._finish(device, order, failures.get(habit, ""))
        if habit == "poison":
            good = device.outbox[order.run.run_id]
            device.outbox[order.run.run_id] = poisoned = reports.poisoned(good, "nan_stage")
            self._poisoned.add(poisoned.sha256)
            await self._deliver(device, order.run.run_id)
            device.outbox[order.run.run_id] = good
        report = device.outbox[order.run.run_id]
        if habit != "late":
            await self._deliver(device, order.run.run_id)
        if habit == "twice":
            device.outbox[order.run.run_id] = report

    def _finish(self, device: Device, order: Assign, failure_type: str = "") -> None:
        assignment = pb.Assignment(run_id=order.run.run_id, attempt=order.run.attempt, lease_id=order.lease_id)
        snapshot = convert.snapshot_to_wire(self._snapshots[device.device_id])
        if failure_type:
            result = reports.failed_result(assignment, device.device_id, snapshot, failure_type)
        else:
            result = reports.good_result(assignment, device.device_id, snapshot)
        device.outbox[order.run.run_id] = reports.stored(result)
        device.active.pop(order.run.run_id, None)

    async def _deliver(self, device: Device, run_id: str) -> None:
        stored = device.outbox[run_id]
        report = convert.report_from_wire(stored.request)
        try:
            work = self.coordinator.record_result(report.result, report.lease_id, report.sha256)
            is_new = await self.faults.call(work)
        except (StoreError, asyncio.CancelledError):
            return  # it stays in the outbox
        except UserError as error:
            is_new = False
            if stored.sha256 not in self._poisoned:
                self.refused.append(f"a result of run {run_id} was refused: {error}")
        if is_new:
            self.acknowledged[run_id] = stored.sha256
        del device.outbox[run_id]


def prepared(folder: Path) -> Path:
    """Make a database with two campaigns that can run at once."""
    database = folder / "prepared.db"
    seeding.seed(database, folder / "artifacts", seeding.Plan(devices=2, repeats=2, campaigns=2))
    return database


def problems(scenario: Scenario) -> list[str]:
    """Return what is wrong after the end, each in a sentence."""
    store = scenario.store
    wrong = list(scenario.refused)
    for row in store.run_rows():
        sha256 = _sha256(store, row["run_id"])
        if scenario.acknowledged.get(row["run_id"], sha256) != sha256:
            wrong.append(f"run {row['run_id']} was acknowledged with another result")
    for campaign in store.campaigns():
        jobs, runs = store.jobs(campaign.campaign_id), store.runs(campaign.campaign_id)
        if any(run.state in (RunState.PLANNED, RunState.LEASED) for run in runs):
            wrong.append(f"campaign {campaign.campaign_id} has ended with open runs")
        if any(not job.state.ended for job in jobs):
            wrong.append(f"campaign {campaign.campaign_id} has ended with open jobs")
        if campaign.state is CampaignState.SUCCEEDED and any(job.state is not JobState.SUCCEEDED for job in jobs):
            wrong.append(f"campaign {campaign.campaign_id} has succeeded with a failed job")
    if scenario.coordinator._ledger.active():
        wrong.append("memory has campaigns that have ended in the store")
    return wrong


def _sha256(store: SqlStore, run_id: str) -> str:
    from efficientquant_controller.store import tables
    from sqlalchemy import select

    with store._transactions.read() as sql:
        return str(sql.scalar(select(tables.runs.c.report_sha256).where(tables.runs.c.run_id == run_id)))
