"""A fleet of real processes on this machine.

It has one controller, agents on any Python, and the command line.
"""

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
from efficientquant_controller.model import RunResult
from efficientquant_controller.store.sql import open_store
from efficientquant_protos.v1 import fleet_pb2 as pb
from efficientquant_protos.v1 import fleet_pb2_grpc

ROOT = Path(__file__).parent.parent.parent
FIXTURES = ROOT / "tests/fixtures"
DEADLINE_S = 240.0  # for a busy machine, far longer than a working fleet needs

# How the sentences of a verdict begin that a busy machine causes, and those of no rule.
_OF_LOAD = (
    *("a measuring thread waited for", "other processes took", "the coefficient of variation"),
    *("the warm-up ended by its time limit", "the last third's median", "the sampler took"),
)
_OF_NO_RULE = ("not checked: ", "no energy: ", "net energy is uncertain: ")


def broken_rules(row: Mapping[str, Any]) -> list[str]:
    """Return the reasons of a verdict without those of a busy machine."""
    return [reason for reason in row["verdict_reasons"] if not reason.startswith((*_OF_LOAD, *_OF_NO_RULE))]


class Process:
    """A started command whose output goes to a file that tests search."""

    def __init__(self, command: list[str], log: Path, **environment: str) -> None:
        self.log = log
        self._offset = log.stat().st_size if log.exists() else 0
        with log.open("ab") as file:
            self.popen = subprocess.Popen(
                command,
                stdout=file,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **environment},
            )

    def wait_for(self, text: str, timeout_s: float = 60.0) -> str:
        """Return the first line with `text` that this process wrote.

        Fails when the process exits or the line does not appear in time.
        """
        end_s = time.monotonic() + timeout_s
        while True:
            ended = self.popen.poll() is not None
            lines = self.log.read_bytes()[self._offset :].decode(errors="replace").splitlines()
            match = next((line for line in lines if text in line), None)
            if match is not None:
                return match
            assert not ended, f"ended with {self.popen.returncode} without {text!r}:\n" + "\n".join(lines)
            assert time.monotonic() < end_s, f"no {text!r} in {timeout_s} s:\n" + "\n".join(lines)
            select.select([], [], [], 0.02)  # a plain file cannot be waited on

    def kill(self, number: int = signal.SIGKILL) -> int:
        """Send a signal, wait for the exit and return the exit status."""
        if self.popen.poll() is None:
            self.popen.send_signal(number)
        return self.popen.wait(30)


class Fleet:
    """The processes that a test starts.

    `environment` is added to the test's own. `close` leaves nothing running.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self._environment = dict(environment or {})
        self.db = folder / "results.db"
        self.address = ""
        self.controller: Process | None = None
        self._processes: list[Process] = []

    def start_controller(self, *options: str, listen: str = "127.0.0.1:0", code: str = "") -> Process:
        """Start or restart the controller and read its address.

        `code` runs before its main.
        """
        entry = ["-m", "efficientquant_controller.cli"]
        if code:
            entry = ["-c", f"{code}\nfrom efficientquant_controller.cli.app import run\nrun()"]
        command = [sys.executable, *entry, "serve", "--db", str(self.db)]
        command += ["--listen", listen, "--heartbeat-interval", "0.2", "--lease", "3", *options]
        self.controller = self._start(command, "controller")
        self.address = self.controller.wait_for("ready: listening on ").rsplit(" ", 1)[1]
        return self.controller

    def start_agent(
        self,
        name: str,
        python: str = sys.executable,
        state: str | None = None,
        code: str = "",
        options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> Process:
        """Start an agent.

        `code` runs before its main.
        """
        entry = ["-m", "efficientquant_agent"]
        if code:
            entry = ["-c", f"import sys\n{code}\nfrom efficientquant_agent.__main__ import main\nsys.exit(main())"]
        command = [python, *entry, "--controller", self.address, "--name", name, "--backoff-max-s", "0.5", *options]
        command += ["--state-dir", str(self.folder / (state or name))]
        return self._start(command, f"agent-{state or name}", **(environment or {}))

    def connect_agent(self, name: str, python: str = sys.executable, **more: Any) -> Process:
        """Start an agent and wait until its session is open.

        `more` are options of `start_agent`.
        """
        agent = self.start_agent(name, python, **more)
        agent.wait_for("ready: connected")
        return agent

    def connect_gpu(self, **readings: Any) -> Process:
        """Connect a desktop's agent with an RTX 3080 and TensorRT 8.6.

        Its NVML gives `readings`. See tests/fixtures/doubles.
        """
        self.tell_gpu(**readings)
        script = self.folder / "tensorrt.json"
        script.write_text("{}")
        environment = {
            "PYTHONPATH": f"{FIXTURES / 'doubles/nvml'}:{FIXTURES / 'doubles/tensorrt'}",
            "PYNVML_DOUBLE": str(self.folder / "nvml.json"),
            "DOUBLE_TENSORRT": str(script),
            "DOUBLE_TENSORRT_GPU": "rtx-3080",
        }
        options = ["--board-root", str(self.copy_board("x86"))]
        return self.connect_agent("rtx", options=options, environment=environment)

    def tell_gpu(self, **readings: Any) -> None:
        """Change the readings that NVML gives from now on."""
        (self.folder / "nvml.json").write_text(json.dumps(readings))

    def copy_board(self, name: str, *without: str) -> Path:
        """Copy a captured board, except the paths in `without`.

        The copy is for an agent's --board-root.
        """
        root = self.folder / f"board-{name}"
        shutil.copytree(FIXTURES / "boards" / name, root)
        for path in without:
            shutil.rmtree(root / path)
        return root

    def run(self, *arguments: str, timeout_s: float = DEADLINE_S) -> subprocess.CompletedProcess[str]:
        """Run a client command against this fleet's controller."""
        return subprocess.run(
            [sys.executable, "-m", "efficientquant_controller.cli", *arguments],
            env={**os.environ, **self._environment, "EFFICIENTQUANT_CONTROLLER": self.address},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def json(self, *arguments: str, timeout_s: float = DEADLINE_S) -> Any:
        """Run a client command that must succeed, and parse its JSON."""
        done = self.run(*arguments, "--json", timeout_s=timeout_s)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def bench_once(self, model: str, *options: str) -> dict[str, Any]:
        """Measure fp32 with random weights once, and return its result row.

        The tier is the shortest.
        """
        arguments = ("--recipes", "fp32", "--weights", "random", "--tier", "demo", "--repeats", "1", *options)
        done = self.run("bench", model, *arguments, "--json")
        [row] = json.loads(done.stdout)["results"]
        return dict(row)

    @contextlib.contextmanager
    def control(self) -> Iterator[fleet_pb2_grpc.FleetControlStub]:
        """Open a FleetControl client."""
        with grpc.insecure_channel(self.address) as channel:
            yield fleet_pb2_grpc.FleetControlStub(channel)

    def submit(self, model: str, **fields: Any) -> str:
        """Submit a campaign with random weights and return its id."""
        options: dict[str, Any] = {"recipes": ["fp32"], "tier": "demo", "repeats": 1, **fields}
        with self.control() as control:
            weights = pb.Weights(random=True)
            request = pb.SubmitCampaignRequest(models=[model], weights=weights, **options)
            return control.SubmitCampaign(request, timeout=DEADLINE_S).campaign_id

    def watch(self, campaign_id: str, until: Callable[[pb.CampaignStatus], bool]) -> pb.CampaignStatus:
        """Follow a campaign until a condition holds.

        Raises AssertionError when the campaign ends before.
        """
        with self.control() as control:
            request = pb.WatchCampaignRequest(campaign_id=campaign_id)
            for status in control.WatchCampaign(request, timeout=DEADLINE_S):
                if until(status):
                    return status
        raise AssertionError(f"the campaign ended before the condition held: {status}")

    def watch_to_end(self, campaign_id: str) -> pb.CampaignStatus:
        """Follow a campaign to its end."""
        return self.watch(campaign_id, lambda status: status.campaign.HasField("ended_unix_s"))

    def wait_until_measuring(self, campaign_id: str, device: str) -> None:
        """Wait until a device runs its timed loop."""
        self.wait_for_phase(campaign_id, device, "measure")

    def wait_for_phase(self, campaign_id: str, device: str, phase: str) -> None:
        """Wait until a run on a device reaches a phase."""

        def reached(status: pb.CampaignStatus) -> bool:
            return any(entry.name == device and entry.phase == phase for entry in status.devices)

        self.watch(campaign_id, reached)

    def raw_result(self, run_id: str) -> RunResult:
        """Return the agent's report of a run, with windows and series."""
        store = open_store(self.db, read_only=True)
        try:
            return store.raw_result(run_id)
        finally:
            store.close()

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Query the database from another process, as a user would."""
        done = subprocess.run(
            [sys.executable, "-c", _QUERY, str(self.db), sql], capture_output=True, text=True, check=True
        )
        return [tuple(row) for row in json.loads(done.stdout)]

    def close(self) -> None:
        """Kill the processes that still run."""
        for process in self._processes:
            process.kill()

    def _start(self, command: list[str], name: str, **environment: str) -> Process:
        paths = [variables.get("PYTHONPATH", "") for variables in (environment, self._environment, os.environ)]
        environment = {
            "PYTHONUNBUFFERED": "1",
            "OMP_NUM_THREADS": "2",
            **self._environment,
            **environment,
            "PYTHONPATH": os.pathsep.join(dict.fromkeys(filter(None, paths))),
        }
        process = Process(command, self.folder / f"{name}.log", **environment)
        self._processes.append(process)
        return process


_QUERY = """
import json, sqlite3, sys
connection = sqlite3.connect("file:%s?mode=ro" % sys.argv[1], uri=True)
print(json.dumps(connection.execute(sys.argv[2]).fetchall()))
"""
