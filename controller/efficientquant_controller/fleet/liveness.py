"""Sessions: which devices are connected now, and since when one has been silent."""

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from efficientquant_controller.model import Artifact, Backend, Device, Job, Measurement, Run


@dataclass(frozen=True)
class Assign:
    """Do this run."""

    run: Run
    job: Job
    artifact: Artifact
    backend: Backend
    measurement: Measurement


@dataclass(frozen=True)
class CancelRun:
    """Stop this run; its result is no longer wanted."""

    run_id: str


@dataclass(frozen=True)
class Supersede:
    """Stop: a newer session of the same device is open."""

    by_session_epoch: int


Command = Assign | CancelRun | Supersede


@dataclass(frozen=True)
class Progress:
    """How far a device is with a run; `fraction` is within the phase."""

    run_id: str
    phase: str
    fraction: float


@dataclass(eq=False)
class Session:
    """One agent's open connection. `commands` is what goes down to it; None ends the stream."""

    device: Device
    active_run_ids: frozenset[str]
    commands: asyncio.Queue[Command | None] = field(default_factory=asyncio.Queue)
    last_heard_s: float = field(default_factory=time.monotonic)
    progress: Progress | None = None
    last_assigned_s: float = 0.0
    last_touched_s: float = field(default_factory=time.monotonic)

    @property
    def device_id(self) -> str:
        """The device this session speaks for."""
        return self.device.device_id

    def heard(self) -> None:
        """Renew the lease."""
        self.last_heard_s = time.monotonic()


class Liveness:
    """The open sessions, and the devices that were lost with when they were last heard of (monotonic seconds)."""

    def __init__(self, lease_s: float) -> None:
        self.lease_s = lease_s
        self._sessions: dict[str, Session] = {}
        self._lost: dict[str, float] = {}

    def session(self, device_id: str) -> Session | None:
        """The device's open session."""
        return self._sessions.get(device_id)

    def sessions(self) -> Iterable[Session]:
        """All that are open."""
        return tuple(self._sessions.values())

    def open(self, session: Session) -> Session | None:
        """Record a session; returns the one it supersedes."""
        older = self._sessions.get(session.device_id)
        self._sessions[session.device_id] = session
        self._lost.pop(session.device_id, None)
        return older

    def close(self, session: Session) -> bool:
        """Forget a session; False when it was not the device's current one."""
        if self._sessions.get(session.device_id) is not session:
            return False
        del self._sessions[session.device_id]
        self.expect(session.device_id, session.last_heard_s)
        return True

    def expect(self, device_id: str, since_s: float) -> None:
        """A device without a session that may come back with its run until the lease ends."""
        self._lost[device_id] = since_s

    def silent(self, now_s: float) -> list[Session]:
        """Sessions that nothing was heard from for a lease."""
        return [one for one in self._sessions.values() if now_s - one.last_heard_s > self.lease_s]

    def take_expired(self, now_s: float) -> list[str]:
        """Devices whose lease ended without them coming back; each is returned once."""
        over = [device for device, since in self._lost.items() if now_s - since > self.lease_s]
        for device in over:
            del self._lost[device]
        return over
