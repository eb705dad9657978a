"""The delivery of results to the controller, whatever happens to either side."""

import os
from concurrent import futures

import grpc
import pytest
from efficientquant_agent.errors import (
    AnswerTimeoutError,
    ControllerBusyError,
    ControllerUnreachableError,
    ReportRefusedError,
)
from efficientquant_agent.link.client import Client
from efficientquant_agent.link.delivery import Delivery
from efficientquant_agent.link.outbox import Outbox
from efficientquant_agent.link.reasons import Reasons
from efficientquant_agent.link.stored import describe
from efficientquant_protos.v1 import fleet_pb2 as pb
from efficientquant_protos.v1 import fleet_pb2_grpc

WAIT_S = 60.0


@pytest.fixture
def deliver(controller):
    """Give a function that delivers a result of a size to a controller with a message limit.

    A `limit_bytes` of -1 allows messages of any size.
    """
    opened = []

    def deliver_once(size_bytes, limit_bytes):
        options = [("grpc.max_receive_message_length", limit_bytes), ("grpc.so_reuseport", 0)]
        server = grpc.server(futures.ThreadPoolExecutor(max_workers=1), options=options)
        fleet_pb2_grpc.add_AgentGatewayServicer_to_server(controller, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        client = Client("127.0.0.1", port, "127.0.0.1:{}".format(port))
        opened.extend([client.close, lambda: server.stop(0).wait()])
        client.report(describe(pb.RunResult(run_id="run-1", failure_message="x" * size_bytes).SerializeToString()))

    yield deliver_once
    for close in opened:
        close()


def test_outbox_survives_a_killed_agent(controller, start_agent, tiny_model, tmp_path):
    """A result that was not committed when the agent was killed is delivered, once, before the next session."""
    controller.report_refusals = [grpc.StatusCode.UNAVAILABLE] * 10000
    agent = start_agent(controller.address)
    controller.assign("run-1", tiny_model)
    agent.wait_for_line("run run-1: succeeded")
    agent.kill()
    assert [entry.name for entry in (tmp_path / "state" / "outbox").glob("*.pb")] == ["run-1.pb"]

    controller.report_refusals.clear()
    again = start_agent(controller.address)
    again.wait_for_line("ready: connected")

    result = controller.reports.get_nowait()
    assert (result.run_id, result.failure_type) == ("run-1", "")
    assert controller.reports.empty()
    assert not list((tmp_path / "state" / "outbox").glob("*.pb"))


def test_report_is_repeated(controller, start_agent, tiny_model):
    """A report that fails for a passing reason is retried until the controller has committed it."""
    controller.report_refusals = [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL]
    start_agent(controller.address)
    controller.assign("run-1", tiny_model)

    assert controller.reports.get(timeout=WAIT_S).run_id == "run-1"
    assert not controller.report_refusals


@pytest.mark.parametrize("code", ["INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED"])
def test_refused_report_is_kept(controller, start_agent, tiny_model, tmp_path, code):
    """A report that is refused for good is set aside with a log line, and the next run goes on."""
    controller.report_refusals = [grpc.StatusCode[code]]
    agent = start_agent(controller.address)
    controller.assign("run-1", tiny_model)
    controller.assign("run-2", tiny_model)

    agent.wait_for_line("result of run run-1 refused: the test refused this report; kept as ")

    assert controller.reports.get(timeout=WAIT_S).run_id == "run-2"
    assert (tmp_path / "state" / "outbox" / "rejected" / "run-1.pb").stat().st_size > 0


def test_result_of_a_long_run(controller, deliver):
    """A result of 65 MiB, which a long run at a high rate has, is delivered."""
    deliver(65 << 20, limit_bytes=-1)

    assert len(controller.reports.get_nowait().failure_message) == 65 << 20


def test_result_that_is_too_large(deliver):
    """A result that the controller cannot take for its size is refused for good, in gRPC's words."""
    with pytest.raises(ReportRefusedError, match="larger than max"):
        deliver(2000, limit_bytes=1000)


def test_damaged_result_is_measured_again(controller, start_agent, tmp_path):
    """A damaged result is set aside, and its run fails as agent_error."""
    outbox = tmp_path / "state" / "outbox"
    outbox.mkdir(parents=True)
    (outbox / "run-0.pb").write_bytes(b"\xff\xff\xff")

    start_agent(controller.address).wait_for_line("ready: connected")

    result = controller.reports.get_nowait()
    assert (result.run_id, result.failure_type, result.attempt, result.lease_id) == ("run-0", "agent_error", 0, "")
    assert "is kept as {}".format(outbox / "damaged" / "run-0.pb") in result.failure_message
    assert (outbox / "damaged" / "run-0.pb").read_bytes() == b"\xff\xff\xff"
    assert list(controller.hellos.get_nowait().active_run_ids) == []


def test_result_the_controller_fails_at(controller, start_agent, tiny_model):
    """A result that the controller fails at does not prevent the delivery of the others."""
    controller.report_refusals = [grpc.StatusCode.INTERNAL]
    start_agent(controller.address)
    controller.assign("run-1", tiny_model)
    controller.assign("run-2", tiny_model)

    assert {controller.reports.get(timeout=WAIT_S).run_id for _ in range(2)} == {"run-1", "run-2"}


@pytest.mark.parametrize("code", ["INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED"])
def test_refusal_by_a_proxy(controller, start_agent, tiny_model, code):
    """A refusal that is not the controller's own is no refusal."""
    controller.report_refusals = [grpc.StatusCode[code]]
    controller.refusal_is_answered = False
    start_agent(controller.address)
    controller.assign("run-1", tiny_model)

    assert controller.reports.get(timeout=WAIT_S).run_id == "run-1"


@pytest.mark.parametrize("is_answered", [True, False])
def test_busy_controller_takes_sessions(controller, start_agent, tmp_path, is_answered):
    """A controller that is busy, or a report that is cut, delays no session."""
    outbox = Outbox(str(make_outbox(tmp_path)))
    outbox.put("run-1", pb.RunResult(run_id="run-1").SerializeToString())
    controller.report_refusals = [grpc.StatusCode.UNAVAILABLE] * 3
    controller.refusal_is_answered = is_answered

    agent = start_agent(controller.address)
    agent.wait_for_line("ready: connected")

    assert controller.reports.get(timeout=WAIT_S).run_id == "run-1"
    said = [line for line in agent.seen if "the controller cannot serve now: the test refused this report" in line]
    assert len(said) == int(is_answered)
    assert list(controller.hellos.get_nowait().active_run_ids) == ["run-1"]


def test_changed_byte_is_sent_again(controller, start_agent, tiny_model):
    """A result whose bytes changed on the way is sent again."""
    controller.report_refusals = [grpc.StatusCode.DATA_LOSS]
    start_agent(controller.address)
    controller.assign("run-1", tiny_model)

    assert controller.reports.get(timeout=WAIT_S).run_id == "run-1"


def test_result_returns_its_lease(controller, start_agent, tiny_model, tmp_path):
    """A result carries its lease id in the file and the report."""
    controller.report_gate.clear()
    agent = start_agent(controller.address)
    controller.assign("run-1", tiny_model)
    agent.wait_for_line("run run-1: succeeded")
    stored = (tmp_path / "state" / "outbox" / "run-1.pb").read_bytes().split(b"\n")[0]
    controller.report_gate.set()

    assert b'"lease_id": "lease-1"' in stored
    result = controller.reports.get(timeout=WAIT_S)
    assert (result.lease_id, result.attempt) == ("lease-1", 1)


def test_damaged_result_keeps_its_lease(controller, start_agent, tmp_path):
    """The report of a damaged result keeps its attempt and lease id."""
    folder = make_outbox(tmp_path)
    payload = pb.RunResult(run_id="run-1", latency_s=[0.25]).SerializeToString()
    Outbox(str(folder)).put("run-1", payload, 2, "lease-7")
    content = bytearray((folder / "run-1.pb").read_bytes())
    content[-1] ^= 1
    (folder / "run-1.pb").write_bytes(bytes(content))

    agent = start_agent(controller.address)

    result = controller.reports.get(timeout=WAIT_S)
    assert (result.failure_type, result.attempt, result.lease_id) == ("agent_error", 2, "lease-7")
    assert list(result.latency_s) == []
    line = agent.wait_for_line("was damaged on this disk (its SHA-256 is another)")
    assert line.endswith("{}, and the run is measured again".format(folder / "damaged" / "run-1.pb"))


def test_result_of_an_earlier_release(controller, start_agent, tmp_path):
    """A file of an earlier release in the outbox is delivered."""
    folder = make_outbox(tmp_path)
    (folder / "run-1.pb").write_bytes(pb.RunResult(run_id="run-1", latency_s=[0.25]).SerializeToString())

    start_agent(controller.address).wait_for_line("ready: connected")

    assert list(controller.reports.get_nowait().latency_s) == [0.25]


def make_outbox(tmp_path):
    """Make the outbox's folder before an agent starts, and return its path."""
    folder = tmp_path / "state" / "outbox"
    folder.mkdir(parents=True)
    return folder


class Passes:
    """A delivery with scripted failures."""

    def __init__(self, tmp_path, failures):
        self.outbox = Outbox(str(tmp_path))
        self.failures = failures
        self.reported, self.said = [], []
        reasons = Reasons(self.said.append)
        self.delivery = Delivery(self.outbox, self._report, lambda *_: True, lambda *_: b"", reasons)
        for number in range(1, 6):
            self.outbox.put("run-{}".format(number), b"%d" % number)
            os.utime(str(tmp_path / "run-{}.pb".format(number)), (number, number))

    def _report(self, result):
        number = int(result.payload)
        self.reported.append(number)
        if number in self.failures:
            raise self.failures[number]
        return False


@pytest.mark.parametrize(
    "error",
    [
        AnswerTimeoutError(60.0),
        ControllerBusyError("the database is locked"),
        ControllerUnreachableError("the controller answered INTERNAL: x", answered=True),
    ],
)
def test_failed_result_stops_no_other(tmp_path, error):
    """A failed result delays no other and comes last in the next pass."""
    passes = Passes(tmp_path, {2: error})

    passes.delivery.deliver(before_session=True)
    passes.outbox.put("run-9", b"9")
    passes.delivery.deliver()

    assert passes.reported == [1, 2, 3, 4, 5, 9, 2]
    assert passes.said == ["result of run run-2 is not delivered yet: {}; trying again".format(error.reason)]


def test_absent_controller_ends_the_pass(tmp_path):
    """Without a controller a pass ends at the first result."""
    passes = Passes(tmp_path, {2: ControllerUnreachableError("nobody there")})

    with pytest.raises(ControllerUnreachableError):
        passes.delivery.deliver()

    assert passes.reported == [1, 2]


def test_report_that_is_cut_delays_no_session(tmp_path):
    """Before a session a cut report ends the pass without an error, and comes last."""
    passes = Passes(tmp_path, {1: ControllerUnreachableError("connection reset")})

    passes.delivery.deliver(before_session=True)
    assert (passes.reported, passes.said) == ([1], [])
    passes.delivery.deliver(before_session=True)

    assert passes.reported == [1, 2, 3, 4, 5, 1]


def test_hanging_controller_delays_little(tmp_path):
    """Two reports in a row without an answer end the pass."""
    passes = Passes(tmp_path, dict.fromkeys([1, 2, 3], AnswerTimeoutError(60.0)))

    passes.delivery.deliver()
    assert passes.reported == [1, 2]
    passes.delivery.deliver()

    assert passes.reported == [1, 2, 3, 4, 5, 1, 2]


def test_fetch_is_resumed(controller, start_agent, tiny_model):
    """A fetch that breaks off resumes where it ended."""
    controller.chunk_bytes = 100
    controller.break_fetch_after = [2, 1]
    start_agent(controller.address)
    controller.assign("run-1", tiny_model)

    result = controller.reports.get(timeout=WAIT_S)

    assert (result.failure_type, result.stages[0].size_bytes) == ("", len(tiny_model))
    assert [controller.fetches.get_nowait().offset for _ in range(3)] == [0, 200, 300]


def test_flipped_byte_in_the_cache(controller, start_agent, tiny_model, tmp_path):
    """A cached artifact with a flipped byte is never run but fetched again."""
    agent = start_agent(controller.address)
    controller.assign("run-1", tiny_model)
    controller.reports.get(timeout=WAIT_S)
    cached = tmp_path / "state" / "artifacts" / controller.offer(tiny_model)
    content = bytearray(cached.read_bytes())
    content[len(content) // 2] ^= 1
    cached.write_bytes(bytes(content))

    controller.assign("run-2", tiny_model)

    result = controller.reports.get(timeout=WAIT_S)
    assert (result.failure_type, result.stages[0].size_bytes) == ("", len(tiny_model))
    agent.wait_for_line("is damaged on this disk: fetching it again")
    assert cached.read_bytes() == tiny_model


def test_killed_agent_takes_its_run_along(controller, start_agent, tiny_model, long_lasting, child_of):
    """An agent killed with SIGKILL leaves no measuring process behind."""
    agent = start_agent(controller.address)
    controller.assign("run-1", tiny_model, measurement=long_lasting)
    controller.wait_for_phase("measure")
    child = child_of(agent.pid)
    with open("/proc/{}/stat".format(child)) as stat:
        agent.kill()
        wait_until_gone(stat)


def wait_until_gone(stat):
    """Wait until the process behind an open /proc/PID/stat is dead: unreadable or a zombie."""
    while True:
        try:
            stat.seek(0)
            state = stat.read().rsplit(")", 1)[1].split()[0]
        except ProcessLookupError:
            return
        if state in "ZX":
            return
