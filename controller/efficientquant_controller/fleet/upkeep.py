"""The periodic check of leases and lost devices."""

import logging
import time

from efficientquant_controller.errors import FleetError, StoreError
from efficientquant_controller.fleet.campaigns import TrackedCampaign
from efficientquant_controller.fleet.dispatcher import Dispatcher
from efficientquant_controller.fleet.ledger import DAMAGED, Ledger, StoreHealth
from efficientquant_controller.fleet.liveness import Liveness
from efficientquant_controller.model import Run
from efficientquant_controller.store.base import Store
from efficientquant_controller.store.controller_lease import RENEWAL_S

LOG = logging.getLogger(__name__)
TOUCH_INTERVAL_S = 30.0


class Upkeep:
    """The work that falls due without a call.

    Only the owner's task does it.
    """

    def __init__(
        self, store: Store, ledger: Ledger, liveness: Liveness, dispatcher: Dispatcher, health: StoreHealth
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._liveness = liveness
        self._dispatcher = dispatcher
        self._health = health
        self._to_touch: set[str] = set()
        self._touched_s = self._renewed_s = time.monotonic()

    def touch(self, device_id: str) -> None:
        """Have the store record soon when a device was last heard from."""
        self._to_touch.add(device_id)

    def close_silent(self, now_s: float) -> None:
        """Close the sessions that were silent for longer than the lease."""
        for session in self._liveness.silent(now_s):
            LOG.info("%s fell silent", session.device.name)
            session.commands.put_nowait(None)
            self._liveness.close(session)
            self.touch(session.device_id)

    async def check(self, now_s: float) -> None:
        """Renew the store's lease and requeue the runs of lost devices.

        Raises StoreError while the store cannot be used.
        """
        if not await self._is_usable():
            return
        await self._ledger.read_again()
        for device_id in self._liveness.expired(now_s):
            if lease := self._ledger.leased_on(device_id):
                await self._release(*lease, "was lost in the middle of a run; the run waits for it")
            self._liveness.forget(device_id)
        for tracked in self._ledger.active():
            for device_id in tracked.leased_devices():
                await self._check_run(device_id, now_s)
        await self._touch(now_s)

    async def _is_usable(self) -> bool:
        if not self._health.problem and time.monotonic() - self._renewed_s <= RENEWAL_S:
            return True
        if not self._health.is_due():
            return False
        await self._ledger.write(self._store.renew)
        self._renewed_s = time.monotonic()
        if self._health.worked():
            self._dispatcher.stir_all(session.device_id for session in self._liveness.sessions())
        return True

    async def _check_run(self, device_id: str, now_s: float) -> None:
        session, lease = self._liveness.session(device_id), self._ledger.leased_on(device_id)
        if session is None or lease is None or lease[1].run_id in session.active_run_ids:
            return
        if now_s - session.last_assigned_s > self._liveness.lease_s:
            await self._release(*lease, "does not know of its run; it is run again")

    async def _release(self, tracked: TrackedCampaign, run: Run, why: str) -> None:
        """Requeue a run, or set its damaged campaign aside."""
        device_id = tracked.device_of(run)
        try:
            name = (await self._ledger.db(self._store.device, device_id)).name
            release = (self._store.release_run, run.run_id, f"{name} {why}", time.time())
            await self._ledger.change(tracked.campaign_id, *release)
        except StoreError:
            raise
        except (FleetError, *DAMAGED) as error:
            await self._dispatcher.set_aside(tracked, error)

    async def _touch(self, now_s: float) -> None:
        if now_s - self._touched_s > TOUCH_INTERVAL_S:
            self._touched_s = now_s
            self._to_touch.update(session.device_id for session in self._liveness.sessions())
        if self._to_touch:
            device_ids = sorted(self._to_touch)
            await self._ledger.write(self._store.touch_devices, device_ids, time.time())
            self._to_touch.difference_update(device_ids)
