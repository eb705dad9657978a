"""A scripted controller and real agent processes for the tests."""

import hashlib
import itertools
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from concurrent import futures
from pathlib import Path

import grpc
import pytest
from efficientquant_agent import __version__
from efficientquant_agent.records import Measurement
from efficientquant_agent.state import StateDirectory
from efficientquant_protos import PROTOCOL_VERSION
from efficientquant_protos.v1 import fleet_pb2 as pb
from efficientquant_protos.v1 import fleet_pb2_grpc

WAIT_S = 60.0
# What the controller's own answers carry, and a transport's do not.
ANSWERED = (("efficientquant-answered", "1"),)
MODELS = Path(__file__).parent.parent / "fixtures" / "models"
QUICK = Measurement(
    tier="smoke",
    min_time_s=0.05,
    min_count=64,
    warmup_min_time_s=0.01,
    warmup_min_count=10,
    warmup_max_time_s=1.0,
    input_count=8,
    input_seed=7,
    intra_op_threads=1,
    sampling_interval_s=0.02,
)


class ScriptedController(fleet_pb2_grpc.AgentGatewayServicer):
    """A controller that a test scripts, with a record of every message."""

    def __init__(self):
        self.artifacts = {}
        self.hellos = queue.Queue()
        self.progress = queue.Queue()
        self.heartbeats = queue.Queue()
        self.reports = queue.Queue()
        self.fetches = queue.Queue()
        self.commands = queue.Queue()
        self.refusal = None  # (status code, sentence) for the next sessions
        self.refusal_is_answered = True  # whether the controller itself refuses, not its transport
        self.report_refusals = []  # status codes for the next reports
        self.report_sentence = "the test refused this report"
        self.fetch_refusals = []  # status codes for the next fetches
        self.fetch_gate = threading.Event()
        self.fetch_gate.set()
        self.break_fetch_after = []  # chunk counts after which the next fetches break off
        self.chunk_bytes = 1024**2
        self.heartbeat_interval_s = 0.05
        self.report_gate = threading.Event()
        self.report_gate.set()
        self.ping = pb.PingResponse(protocol_version=PROTOCOL_VERSION, controller_version=__version__)
        self.clock_behind_s = 0.0
        self.hides_clock = False  # as controllers before the fields of its clock
        self.ping_refusal = None  # a status code
        self.lease_numbers = itertools.count(1)

    def listen(self, port=0):
        """Serve on a free port, or again on a given port."""
        self._server = grpc.server(
            futures.ThreadPoolExecutor(max_workers=16),
            options=[("grpc.max_receive_message_length", 64 * 1024**2), ("grpc.so_reuseport", 0)],
        )
        fleet_pb2_grpc.add_AgentGatewayServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port("127.0.0.1:{}".format(port))
        assert self.port, "cannot listen"
        self._server.start()
        return self

    def stop(self):
        """Close every connection."""
        self._server.stop(0).wait()

    @property
    def address(self):
        """HOST:PORT to connect to."""
        return "127.0.0.1:{}".format(self.port)

    def _abort(self, context, code, sentence):
        if self.refusal_is_answered:
            context.set_trailing_metadata(ANSWERED)
        context.abort(code, sentence)

    def Connect(self, request_iterator, context):  # noqa: N802 — the name on the wire
        """Record the hello, refuse or welcome, then send the `commands`."""
        self.hellos.put(next(request_iterator).hello)
        now_s = 0.0 if self.hides_clock else time.time() - self.clock_behind_s
        if self.refusal:
            self._abort(context, *self.refusal)
        yield pb.ControllerCommand(
            welcome=pb.Welcome(
                protocol_version=PROTOCOL_VERSION,
                heartbeat_interval_s=self.heartbeat_interval_s,
                lease_s=30,
                hello_received_unix_s=now_s,
                controller_unix_s=now_s,
            )
        )
        threading.Thread(target=self._listen_to, args=(request_iterator,), daemon=True).start()
        while context.is_active():
            try:
                command = self.commands.get(timeout=0.05)
            except queue.Empty:
                continue
            if context.is_active():
                yield command
            else:
                self.commands.put(command)  # meant for the next session

    def _listen_to(self, events):
        try:
            for event in events:
                getattr(self, {"heartbeat": "heartbeats"}.get(event.WhichOneof("event"), "progress")).put(event)
        except (grpc.RpcError, ValueError):
            pass  # the session is over

    def FetchArtifact(self, request, context):  # noqa: N802
        """Send an artifact, or break off when the test asks for it."""
        self.fetches.put(request)
        self.fetch_gate.wait(WAIT_S)
        if self.fetch_refusals:
            self._abort(context, self.fetch_refusals.pop(0), "the test refused this fetch")
        content = self.artifacts.get(request.sha256)
        if content is None:
            self._abort(context, grpc.StatusCode.NOT_FOUND, "no artifact {}".format(request.sha256[:12]))
        chunks_left = self.break_fetch_after.pop(0) if self.break_fetch_after else len(content) + 1
        for offset in range(request.offset, len(content), self.chunk_bytes):
            if not chunks_left:
                context.abort(grpc.StatusCode.ABORTED, "the test broke this fetch")
            chunks_left -= 1
            yield pb.Chunk(offset=offset, data=content[offset : offset + self.chunk_bytes])

    def ReportRun(self, request, context):  # noqa: N802
        """Record a result, or refuse it when the test asks for it."""
        self.report_gate.wait(WAIT_S)
        if self.report_refusals:
            self._abort(context, self.report_refusals.pop(0), self.report_sentence)
        payload = request.encoded_result
        if (len(payload), hashlib.sha256(payload).hexdigest()) != (request.size_bytes, request.sha256):
            self._abort(context, grpc.StatusCode.DATA_LOSS, "the bytes changed on the way")
        self.reports.put(pb.RunResult.FromString(payload))
        return pb.ReportRunResponse(committed=True)

    def Ping(self, request, context):  # noqa: ARG002, N802
        """Answer with the test's version and time, or refuse."""
        if self.ping_refusal:
            self._abort(context, self.ping_refusal, "the test refused this ping")
        self.ping.controller_unix_s = time.time() - self.clock_behind_s
        return self.ping

    def offer(self, content):
        """Offer an artifact, and return its SHA-256."""
        sha256 = hashlib.sha256(content).hexdigest()
        self.artifacts[sha256] = content
        return sha256

    def assign(self, run_id, content, timeout_s=60.0, backend="ort-cpu", measurement=QUICK, sha256=None, reference=b""):
        """Send an assignment to the agent that is (or will be) connected."""
        inputs = pb.ArtifactRef(sha256=self.offer(reference), size_bytes=len(reference)) if reference else None
        self.commands.put(
            pb.ControllerCommand(
                assignment=pb.Assignment(
                    run_id=run_id,
                    job_id="job",
                    campaign_id="campaign",
                    attempt=1,
                    model="tiny",
                    recipe="fp32",
                    artifact=pb.ArtifactRef(sha256=sha256 or self.offer(content), size_bytes=len(content)),
                    backend=backend,
                    measurement=pb.Measurement(**measurement._asdict()),
                    timeout_s=timeout_s,
                    reference=inputs,
                    lease_id="lease-{}".format(next(self.lease_numbers)),
                )
            )
        )

    def cancel(self, run_id):
        """Cancel a run of the agent."""
        self.commands.put(pb.ControllerCommand(cancel_run=pb.CancelRun(run_id=run_id)))

    def wait_for_phase(self, phase):
        """Wait until the agent reports that a run is in this phase."""
        while self.progress.get(timeout=WAIT_S).progress.phase != phase:
            pass


class AgentProcess:
    """A real `efficientquant-agent` process and its output lines."""

    def __init__(self, arguments, enter=()):
        self.process = subprocess.Popen(
            [*enter, sys.executable, "-m", "efficientquant_agent", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            universal_newlines=True,
        )
        self.pid = self.process.pid
        self.seen = []
        self._lines = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def wait_for_line(self, text):
        """Return the next line that contains `text`."""
        deadline_s = time.monotonic() + WAIT_S
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, deadline_s - time.monotonic()))
            except queue.Empty:
                raise AssertionError("no line with {!r} but {}".format(text, self.seen)) from None
            assert line is not None, "the agent ended without {!r}: {}".format(text, self.seen)
            self.seen.append(line)
            if text in line:
                return line

    def wait_for_end(self):
        """Wait for the agent to exit, and return its exit code.

        `seen` has its last lines then.
        """
        code = self.process.wait(WAIT_S)
        self._reader.join(WAIT_S)
        while not self._lines.empty():
            line = self._lines.get()
            if line is not None:
                self.seen.append(line)
        return code

    def kill(self):
        """Kill the agent with SIGKILL."""
        self.process.kill()
        self.wait_for_end()

    def close(self):
        """Stop the agent with SIGTERM, or with SIGKILL after 10 s."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.wait_for_end()
        self.process.stdout.close()


@pytest.fixture
def controller():
    scripted = ScriptedController().listen()
    yield scripted
    scripted.stop()


@pytest.fixture
def start_agent(tmp_path):
    """Give a function that starts an agent.

    Its arguments are the controller's address and further options. `enter` is a command that runs the agent.
    """
    agents = []

    def start(address, *arguments, state_dir=None, enter=()):
        agent = AgentProcess(
            [
                "--controller",
                address,
                "--name",
                "bench-1",
                "--state-dir",
                str(state_dir or tmp_path / "state"),
                "--backoff-max-s",
                "0.2",
                *arguments,
            ],
            enter,
        )
        agents.append(agent)
        return agent

    yield start
    for agent in agents:
        agent.close()


@pytest.fixture
def open_state(tmp_path):
    """Give a function that opens a state directory.

    By default it opens the test's own directory.
    """
    states = []

    def open_directory(path=tmp_path):
        states.append(StateDirectory(str(path)))
        return states[-1]

    yield open_directory
    for state in states:
        state.close()


@pytest.fixture
def closed_to_us():
    """Give a function that makes a folder inaccessible.

    A test that runs as root becomes the user nobody.
    """
    folders = []

    def close(path):
        path.chmod(0)
        folders.append(path)
        if os.geteuid() == 0:
            for parent in [path, *path.parents][1:-2]:  # pytest's own folders are the user's alone
                parent.chmod(parent.stat().st_mode | 0o111)
            os.seteuid(65534)

    user = os.geteuid()
    yield close
    os.seteuid(user)
    for path in folders:
        path.chmod(0o700)


@pytest.fixture
def tiny_model():
    return (MODELS / "tiny.onnx").read_bytes()


@pytest.fixture
def models():
    return MODELS


@pytest.fixture
def quick():
    """Return a measurement that takes a moment."""
    return QUICK


@pytest.fixture
def long_lasting():
    """Return a measurement that does not end within a test."""
    return QUICK._replace(min_time_s=3600.0)


@pytest.fixture
def child_of():
    """Give a function that returns the pid of a process's child.

    It reads /proc, and the process must have one child only.
    """

    def find(pid):
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    stat = Path("/proc", entry, "stat").read_text()
                except (FileNotFoundError, ProcessLookupError):
                    continue
                if int(stat.rsplit(")", 1)[1].split()[1]) == pid:
                    return int(entry)
        raise AssertionError("process {} has no child".format(pid))

    return find
