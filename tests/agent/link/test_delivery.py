"""The delivery of results to the controller, whatever happens to either side."""

from concurrent import futures

import grpc
import pytest
from efficientquant_agent.errors import ReportRefusedError
from efficientquant_agent.link.client import Client
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
        client.report(pb.RunResult(run_id="run-1", failure_message="x" * size_bytes).SerializeToString())

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


def test_damaged_result_is_kept(controller, start_agent, tmp_path):
    """A damaged file in the outbox is set aside and does not stop the agent."""
    outbox = tmp_path / "state" / "outbox"
    outbox.mkdir(parents=True)
    (outbox / "run-0.pb").write_bytes(b"\xff\xff\xff")

    start_agent(controller.address).wait_for_line("ready: connected")

    assert [entry.name for entry in (outbox / "rejected").iterdir()] == ["run-0.pb"]


def test_result_the_controller_fails_at(controller, start_agent, tiny_model):
    """A result that the controller fails at does not prevent the delivery of the others."""
    controller.report_refusals = [grpc.StatusCode.INTERNAL]
    start_agent(controller.address)
    controller.assign("run-1", tiny_model)
    controller.assign("run-2", tiny_model)

    assert {controller.reports.get(timeout=WAIT_S).run_id for _ in range(2)} == {"run-1", "run-2"}


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
