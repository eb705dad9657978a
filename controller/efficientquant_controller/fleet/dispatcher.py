"""The dispatch of runs to the devices that are free."""

import logging
import secrets
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from efficientquant_controller.errors import FleetError, NotFoundError, StoreError
from efficientquant_controller.fleet.campaigns import TrackedCampaign
from efficientquant_controller.fleet.ledger import DAMAGED, Ledger
from efficientquant_controller.fleet.liveness import Assign, Liveness, Session
from efficientquant_controller.model import Backend, CampaignState, Device, RunState
from efficientquant_controller.store.base import MAX_ATTEMPTS, Lease, Store

LOG = logging.getLogger(__name__)


class Boards:
    """The devices by board, and the boards to look at next.

    Two agents may share a board. Two measurements on it would disturb each other.
    """

    def __init__(self) -> None:
        self._board_of: dict[str, str] = {}
        self._devices: dict[str, set[str]] = defaultdict(set)
        self._stirred: dict[str, None] = {}

    def place(self, device_id: str, board_id: str) -> None:
        """Record a device's board.

        A device whose board has no id is a board of its own.
        """
        board = f"board {board_id}" if board_id else f"device {device_id}"
        if (earlier := self._board_of.get(device_id)) is not None:
            self._devices[earlier].discard(device_id)
        self._board_of[device_id] = board
        self._devices[board].add(device_id)
        self.stir(device_id)

    def stir(self, device_id: str) -> None:
        """Have the device's board looked at in the next dispatch."""
        if (board := self._board_of.get(device_id)) is not None:
            self._stirred[board] = None

    def take_stirred(self) -> list[set[str]]:
        """Return the devices of each board to look at, oldest first."""
        boards = [self._devices[board] for board in self._stirred]
        self._stirred.clear()
        return boards


class Dispatcher:
    """The dispatcher, which looks only at boards where something has changed.

    So a report costs the same with ten devices and with thousands. Only the owner's task dispatches.
    """

    def __init__(self, store: Store, ledger: Ledger, liveness: Liveness) -> None:
        self._store = store
        self._ledger = ledger
        self._liveness = liveness
        self._boards = Boards()

    def place(self, device_id: str, board_id: str) -> None:
        """Record a device's board, and look at it next."""
        self._boards.place(device_id, board_id)

    def stir(self, device_id: str) -> None:
        """Look at the device's board in the next dispatch."""
        self._boards.stir(device_id)

    def stir_all(self, device_ids: Iterable[str]) -> None:
        """Look at the boards of these devices in the next dispatch."""
        for device_id in device_ids:
            self._boards.stir(device_id)

    async def dispatch(self) -> None:
        """Assign runs to the boards that were stirred.

        Nothing is raised. What failed is tried again at the next check.
        """
        orders: list[tuple[Session, Assign]] = []
        for devices in self._boards.take_stirred():
            if any(map(self._ledger.leased_on, devices)):
                continue
            sessions = [session for device in devices if (session := self._liveness.session(device))]
            for session in sorted(sessions, key=lambda session: session.last_assigned_s):
                if not session.problem and (order := await self._next_order(session)):
                    orders.append((session, order))
                    break
        if orders:
            await self._lease(orders)

    async def _next_order(self, session: Session) -> Assign | None:
        """Return the next run for a session, or None.

        A campaign that cannot be handled is set aside.
        """
        for tracked in self._ledger.active():
            if tracked.campaign.state is not CampaignState.RUNNING:
                continue
            if self._ledger.is_unsure(tracked):  # its runs come back when it was read again
                self.stir(session.device_id)
                continue
            try:
                if order := await self._order(session, tracked):
                    return order
            except StoreError:
                self.stir(session.device_id)
                return None
            except (FleetError, *DAMAGED) as error:
                await self.set_aside(tracked, error)
        return None

    async def _order(self, session: Session, tracked: TrackedCampaign) -> Assign | None:
        while run := tracked.next_run(session.device_id):
            if run.attempt < MAX_ATTEMPTS:
                job = tracked.jobs[run.job_id]
                artifact = await self._ledger.artifact(tracked, job)
                backend = _backend(session.device, job.backend)
                return Assign(run, job, artifact, backend, tracked.campaign.measurement, secrets.token_hex(16))
            await self._ledger.change(tracked.campaign_id, self._store.give_up, run.run_id, time.time())
        return None

    async def set_aside(self, tracked: TrackedCampaign, error: Exception) -> None:
        """Fail a campaign that cannot be handled."""
        try:
            await self._ledger.set_aside(tracked.campaign_id, error)
        except StoreError:  # the next check tries again
            self.stir_all(tracked.campaign.devices)

    async def _lease(self, orders: Sequence[tuple[Session, Assign]]) -> None:
        """Lease the runs in one transaction, and send the orders."""
        leases = [Lease(order.run.run_id, order.lease_id) for _, order in orders]
        campaign_ids = {order.job.campaign_id for _, order in orders}
        try:
            answers = await self._ledger.decide(campaign_ids, self._store.lease_runs, leases, time.time())
        except (StoreError, NotFoundError):  # read again, and tried again at the next check
            self.stir_all(session.device_id for session, _ in orders)
            return
        except DAMAGED as error:
            await self._lease_alone(orders, error)
            return
        for (session, order), changes in zip(orders, answers, strict=True):
            self._ledger.copy(changes)
            (run,) = changes.runs
            if run.state is RunState.LEASED and run.attempt == order.run.attempt + 1:
                session.progress = None
                session.last_assigned_s = time.monotonic()
                session.commands.put_nowait(replace(order, run=run))
            else:  # the store knew better
                self.stir(session.device_id)

    async def _lease_alone(self, orders: Sequence[tuple[Session, Assign]], error: Exception) -> None:
        """Lease each run alone, and set aside the damaged campaign."""
        if len(orders) > 1:
            for pair in orders:
                await self._lease([pair])
            return
        [(session, order)] = orders
        self.stir(session.device_id)
        if (place := self._ledger.find(order.run.run_id)) is not None:
            await self.set_aside(place[0], error)

    async def resume(self, session: Session, run_id: str) -> bool:
        """Lease a requeued run again to the device that still does it.

        Returns False when the run is not one of those.
        """
        place = self._ledger.find(run_id)
        if place is None or place[1].state is not RunState.PLANNED or not place[1].attempt:
            return False
        tracked, run = place
        if tracked.device_of(run) != session.device_id:
            return False
        leases = [Lease(run_id, "")]
        (changes,) = await self._ledger.decide([tracked.campaign_id], self._store.lease_runs, leases, time.time())
        self._ledger.copy(changes)
        return tracked.runs[run_id].state is RunState.LEASED


def _backend(device: Device, name: str) -> Backend:
    """Return the backend of a planned job.

    A job of an earlier release gets the device's preferred backend. A backend that the device no longer has gets only
    its name.
    """
    return device.snapshot.backend(name) or Backend(name, "")
