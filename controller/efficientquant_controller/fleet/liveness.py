"""Open sessions of devices, and the time of each device's last message."""

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from efficientquant_controller.model import Artifact, Backend, Device, Job, Measurement, Run


@dataclass(frozen=True)
class Assign:
    """An order to do a run."""

    run: Run
    job: Job
    artifact: Artifact
    backend: Backend
    measurement: Measurement
    lease_id: str


@dataclass(frozen=True)
class CancelRun:
    """An order to stop a run whose result is no longer wanted."""

    run_id: str


@dataclass(frozen=True)
class Supersede:
    """An order to stop because the device opened a newer session."""

    by_session_epoch: int


Command = Assign | CancelRun | Supersede


@dataclass(frozen=True)
class Progress:
    """The progress of a run.

    `fraction` is the progress within the phase.
    """

    run_id: str
    phase: str
    fraction: float


@dataclass(eq=False)
class Session:
    """An agent's open connection.

    `commands` are sent to the agent. A None among them ends the stream.
    """

    device: Device
    active_run_ids: frozenset[str]
    problem: str = ""  # why the agent takes no new run
    commands: asyncio.Queue[Command | None] = field(default_factory=asyncio.Queue)
    last_heard_s: float = field(default_factory=time.monotonic)
    progress: Progress | None = None
    last_assigned_s: float = 0.0
    clock_offset_s: float | None = None  # how far the device's clock is ahead of the controller's
    broken_backends: tuple[str, ...] = ()  # why installed runtimes do not work there

    @property
    def device_id(self) -> str:
        """The id of the session's device."""
        return self.device.device_id

    def heard(self) -> None:
        """Renew the lease."""
        self.last_heard_s = time.monotonic()


class Liveness:
    """The open sessions and the lost devices.

    A lost device lacks a session, but its lease is still valid. Times are monotonic seconds.
    """

    def __init__(self, lease_s: float) -> None:
        self.lease_s = lease_s
        self._sessions: dict[str, Session] = {}
        self._lost: dict[str, float] = {}

    def session(self, device_id: str) -> Session | None:
        """Return the device's open session, or None."""
        return self._sessions.get(device_id)

    def sessions(self) -> Iterable[Session]:
        """Return all open sessions."""
        return tuple(self._sessions.values())

    def open(self, session: Session) -> Session | None:
        """Record a session and return the superseded one, or None."""
        older = self._sessions.get(session.device_id)
        self._sessions[session.device_id] = session
        self._lost.pop(session.device_id, None)
        return older

    def close(self, session: Session) -> bool:
        """Remove a session, or return False when it is not current."""
        if self._sessions.get(session.device_id) is not session:
            return False
        del self._sessions[session.device_id]
        self.expect(session.device_id, session.last_heard_s)
        return True

    def expect(self, device_id: str, since_s: float) -> None:
        """Record when a device without a session was last heard from.

        It may reconnect with its run before its lease expires.
        """
        self._lost[device_id] = since_s

    def silent(self, now_s: float) -> list[Session]:
        """Return the sessions that were silent for longer than the lease."""
        return [session for session in self._sessions.values() if now_s - session.last_heard_s > self.lease_s]

    def expired(self, now_s: float) -> list[str]:
        """Return the lost devices whose lease has expired."""
        return [device for device, since in self._lost.items() if now_s - since > self.lease_s]

    def forget(self, device_id: str) -> None:
        """Stop to wait for a lost device."""
        self._lost.pop(device_id, None)
