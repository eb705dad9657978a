"""A supervised controller with fake agents, whose processes a test disturbs."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import grpc
from efficientquant_protos.v1 import fleet_pb2 as pb
from efficientquant_protos.v1 import fleet_pb2_grpc
from fake_agents import Settings
from fleet import ROOT
from invariants import Scene, open_devices
from loads import FakeFleet
from seeding import Plan, seed
from supervisor import Output, Unit, read_rules
from waiting import until

LEASE_S = 3.0
# systemd's 5 s between two starts become 0.5 s.
SCALE = 10.0
QUIET_S = 90.0
PLAN = Plan(devices=8, repeats=12, campaigns=2)
CONTROLLER_UNIT = ROOT / "deploy/controller/efficientquant.service"
AGENT_UNIT = ROOT / "deploy/agent/efficientquant-agent.service"


class Site:
    """One controller, its database and its agents.

    `database` is a path or a URL. `options` are those of `efficientquant serve`.
    """

    def __init__(self, folder: Path, database: str | Path | None = None, plan: Plan = PLAN) -> None:
        self.folder = folder
        self.database = database or folder / "results.db"
        self.address = f"127.0.0.1:{free_port()}"
        artifacts = folder / "artifacts"
        seed(self.database, artifacts, plan)
        command = [sys.executable, "-m", "efficientquant_controller.cli", "serve", "--db", str(self.database)]
        command += ["--listen", self.address, "--artifacts", str(artifacts)]
        command += ["--heartbeat-interval", "0.2", "--lease", str(LEASE_S)]
        self.controller = self._unit("controller", command, CONTROLLER_UNIT, "ready: listening on")
        self.units = {"controller": self.controller}
        self.agents = FakeFleet(Settings(self.address, run_s=(0.05, 0.4), report_timeout_s=10.0), plan.devices)

    def add_agent(self, name: str) -> Unit:
        """Add a real agent, started by the rules of its own unit."""
        command = [sys.executable, "-m", "efficientquant_agent", "--controller", self.address, "--name", name]
        command += ["--state-dir", str(self.folder / name), "--backoff-max-s", "0.5"]
        self.units[name] = self._unit(name, command, AGENT_UNIT, "ready: connected")
        return self.units[name]

    def _unit(self, name: str, command: list[str], rules: Path, ready: str) -> Unit:
        environment = {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
        log = self.folder / f"{name}.log"
        return Unit(read_rules(rules, SCALE), lambda: Output(command, log, **environment), ready)

    def run(self, disturb: "Callable[[Site], Awaitable[None]]") -> list[str]:
        """Serve, disturb, wait until every campaign has ended, and return the violations."""
        return asyncio.run(self._run(disturb))

    async def _run(self, disturb: "Callable[[Site], Awaitable[None]]") -> list[str]:
        async with self._supervised(), self.agents.serving():
            await disturb(self)
            self.agents.settings.run_s = (0.0, 0.0)
            await until(self._is_over, QUIET_S)
            await self.controller.ready()
            scene = Scene(self.database, self.agents.record, self.address, sorted(self.folder.glob("*.log")))
            problems = await asyncio.to_thread(scene.problems)
        gave_up = [f"{name} is not restarted: {unit.gave_up}" for name, unit in self.units.items() if unit.gave_up]
        return gave_up + problems

    def _is_over(self) -> bool:
        has_failed = self.agents.has_bug() or any(unit.gave_up for unit in self.units.values())
        return has_failed or not open_devices(self.database)

    @contextlib.asynccontextmanager
    async def _supervised(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(unit.supervise()) for unit in self.units.values()]
        try:
            for unit in self.units.values():
                await unit.ready()
            yield
        finally:
            for unit in self.units.values():
                await unit.stop()
            await asyncio.gather(*tasks)

    async def done(self, share: float) -> None:
        """Wait until this share of all runs has an acknowledged result."""
        wanted = share * PLAN.runs
        await until(lambda: self.agents.record.answered >= wanted, QUIET_S)

    async def kill(self, name: str) -> None:
        """Kill a process and wait until its successor is ready."""
        unit = self.units[name]
        count = len(unit.statuses)
        unit.send(signal.SIGKILL)
        await until(lambda: len(unit.statuses) > count, 10)
        await unit.ready()

    async def submit(self, model: str, devices: list[str], repeats: int) -> str:
        """Submit a campaign with random weights and return its id."""
        async with grpc.aio.insecure_channel(self.address) as channel:
            control = fleet_pb2_grpc.FleetControlStub(channel)
            request = pb.SubmitCampaignRequest(
                models=[model], recipes=["fp32"], devices=devices, weights=pb.Weights(random=True), tier="demo",
                repeats=repeats,
            )  # fmt: skip
            return (await control.SubmitCampaign(request, timeout=QUIET_S)).campaign_id

    async def problem(self) -> str:
        """Return what the controller says about its database, or ""."""
        async with grpc.aio.insecure_channel(self.address) as channel:
            control = fleet_pb2_grpc.FleetControlStub(channel)
            try:
                return (await control.ListDevices(pb.ListDevicesRequest(), timeout=10)).problem
            except grpc.aio.AioRpcError as error:
                return f"{error.code().name}: {error.details()}"


def free_port() -> int:
    """Return a port that no program listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def is_root() -> bool:
    """Tell whether this process may mount file systems."""
    return os.geteuid() == 0
