"""Sessions: how they open, break, are refused and end."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import grpc
import pytest
from efficientquant_agent.link import reachability
from efficientquant_protos.v1 import fleet_pb2 as pb

WAIT_S = 60.0


def answer_once_with(data):
    """Return a socket that listens on a free port and answers every connection with these bytes."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(8)

    def serve():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(1024)
                connection.sendall(data)

    threading.Thread(target=serve, daemon=True).start()
    return listener


def test_heartbeats(controller, start_agent):
    """An idle agent sends heartbeats at the interval that the welcome gave."""
    start_agent(controller.address)

    beats = [controller.heartbeats.get(timeout=WAIT_S) for _ in range(5)]

    assert all(not beat.heartbeat.active_run_ids for beat in beats)


def test_heartbeats_name_the_run(controller, start_agent, tiny_model, long_lasting):
    """A busy agent's heartbeats name its run."""
    start_agent(controller.address)
    controller.assign("run-1", tiny_model, measurement=long_lasting)
    controller.wait_for_phase("measure")

    while list(controller.heartbeats.get(timeout=WAIT_S).heartbeat.active_run_ids) != ["run-1"]:
        pass


def test_run_survives_a_lost_session(controller, start_agent, tiny_model, long_lasting):
    """A run keeps going when the session drops, and the next hello names it, with a higher epoch."""
    agent = start_agent(controller.address)
    controller.assign("run-1", tiny_model, measurement=long_lasting)
    controller.wait_for_phase("measure")
    first = controller.hellos.get(timeout=WAIT_S)

    controller.stop()
    agent.wait_for_line("no controller: ")
    controller.commands.queue.clear()
    controller.listen(controller.port)

    second = controller.hellos.get(timeout=WAIT_S)
    assert list(second.active_run_ids) == ["run-1"]
    assert second.session_epoch > first.session_epoch
    controller.cancel("run-1")
    assert controller.reports.get(timeout=WAIT_S).failure_type == "cancelled"


def test_assignment_sent_twice(controller, start_agent, tiny_model, long_lasting):
    """A run that is assigned again while it runs is done once."""
    start_agent(controller.address)
    controller.assign("run-1", tiny_model, measurement=long_lasting)
    controller.wait_for_phase("measure")

    controller.assign("run-1", tiny_model)
    controller.cancel("run-1")
    controller.assign("run-2", tiny_model)

    assert [controller.reports.get(timeout=WAIT_S).run_id for _ in range(2)] == ["run-1", "run-2"]


@pytest.mark.parametrize(
    ("status", "exit_code"),
    [(grpc.StatusCode.FAILED_PRECONDITION, 3), (grpc.StatusCode.ALREADY_EXISTS, 2)],
)
def test_refused_session(controller, start_agent, status, exit_code):
    """A controller that refuses the protocol version or the name is quoted, and the agent exits."""
    controller.refusal = (status, "a sentence that says what to do")

    agent = start_agent(controller.address)

    assert agent.wait_for_end() == exit_code
    assert agent.seen[-1].endswith(" a sentence that says what to do")


def test_superseded(controller, start_agent):
    """An agent whose device has a newer session exits, so that two copies do not fight."""
    agent = start_agent(controller.address)
    agent.wait_for_line("ready: connected")

    controller.commands.put(pb.ControllerCommand(superseded=pb.Superseded(by_session_epoch=9)))

    assert agent.wait_for_end() == 4
    assert "another copy of this device opened session 9" in agent.seen[-1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_signal(controller, start_agent, tiny_model, long_lasting, child_of, number):
    """A stop signal ends the run's process and the agent within 2 s, with code 0 and no report."""
    agent = start_agent(controller.address)
    controller.assign("run-1", tiny_model, measurement=long_lasting)
    controller.wait_for_phase("measure")
    child = child_of(agent.pid)

    started_s = time.monotonic()
    agent.process.send_signal(number)

    assert agent.wait_for_end() == 0
    assert time.monotonic() - started_s < 2.0
    assert not os.path.exists("/proc/{}".format(child))
    assert controller.reports.empty()


def test_stop_signal_without_a_controller(start_agent):
    """An agent that waits for a controller can be stopped too."""
    agent = start_agent("127.0.0.1:1")
    agent.wait_for_line("no controller: ")

    agent.process.send_signal(signal.SIGTERM)

    assert agent.wait_for_end() == 0


def test_refused_connection(start_agent):
    """A port where nothing listens is reported as such, once and not at each attempt."""
    agent = start_agent("127.0.0.1:1", "--backoff-max-s", "0.01")

    agent.wait_for_line("no controller: connection refused: nothing listens at 127.0.0.1:1; trying again")

    agent.process.send_signal(signal.SIGTERM)
    agent.wait_for_end()
    assert len([line for line in agent.seen if "no controller" in line]) == 1


def test_name_that_does_not_resolve(start_agent):
    """A host name that does not resolve is reported as such."""
    agent = start_agent("nosuch.invalid:50051", "--insecure")

    agent.wait_for_line("no controller: the name 'nosuch.invalid' does not resolve (")


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "not a gRPC server, or expects TLS: it greets as a web server does"),
        (b"<!DOCTYPE HTML>\n<html>", "it greets as a web server does"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "it greets as an SSH server does; is it the controller's port?"),
        (b"\x00\x01\x02", "answers but is not a gRPC server, or expects TLS: is it"),
        (b"\x15\x03\x01\x00\x02\x02\x46", "speaks TLS and this agent does not yet"),
    ],
)
def test_port_of_something_else(start_agent, answer, sentence):
    """A port where something else listens is reported as such."""
    with answer_once_with(answer) as listener:
        agent = start_agent("127.0.0.1:{}".format(listener.getsockname()[1]))

        agent.wait_for_line(sentence)


def test_port_that_says_nothing():
    """A port that accepts and stays silent is reported as such."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        listener.setblocking(False)
        where = "127.0.0.1:{}".format(listener.getsockname()[1])

        sentence = reachability.explain("127.0.0.1", listener.getsockname()[1], "")

    assert sentence == "{} accepts connections and says nothing for 3 s: it hangs, or it is no controller".format(where)


def test_name_that_is_too_long():
    """A label that is too long for a name server is a name that does not resolve."""
    assert reachability.explain("x" * 64 + ".local", 1, "").endswith("does not resolve (it is no host name)")


def test_folder_that_is_a_file(start_agent, tmp_path):
    """A file in place of a folder of the state directory ends the agent with exit code 2."""
    (tmp_path / "state").mkdir()
    (tmp_path / "state/outbox").write_text("")

    agent = start_agent("127.0.0.1:1")

    assert agent.wait_for_end() == 2
    assert re.search("cannot be used: .*/outbox: file exists; pass --state-dir", agent.seen[-1])


def test_reader_that_has_exited(controller, tmp_path):
    """An agent goes on when the reader of its standard output has exited."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "efficientquant_agent", "--controller", controller.address, "--name", "bench-1"]
    agent = subprocess.Popen(command + ["--state-dir", str(tmp_path)], stdout=writer, stderr=writer)
    os.close(writer)

    beats = [controller.heartbeats.get(timeout=WAIT_S) for _ in range(2)]
    agent.send_signal(signal.SIGTERM)

    assert (len(beats), agent.wait(WAIT_S)) == (2, 0)


def test_controller_that_comes_later(controller, start_agent):
    """An agent that was started before its controller connects when it comes."""
    controller.stop()
    controller.commands.queue.clear()
    agent = start_agent(controller.address)
    agent.wait_for_line("no controller: ")

    controller.listen(controller.port)

    agent.wait_for_line("ready: connected")


def test_controller_that_comes_back(controller, start_agent):
    """An agent that lost its controller for a while reconnects when it is back."""
    agent = start_agent(controller.address)
    agent.wait_for_line("ready: connected")
    controller.stop()
    controller.commands.queue.clear()
    agent.wait_for_line("connection refused: nothing listens at")

    controller.listen(controller.port)

    agent.wait_for_line("ready: connected")


def test_idle_agent_is_small(controller, start_agent):
    """A connected agent takes at most 45 MiB and has loaded no runtime."""
    agent = start_agent(controller.address)
    agent.wait_for_line("ready: connected")
    controller.heartbeats.get(timeout=WAIT_S)

    with open("/proc/{}/status".format(agent.pid)) as status:
        resident_kib = next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
    with open("/proc/{}/maps".format(agent.pid)) as maps:
        mapped = maps.read()

    assert resident_kib <= 45 * 1024
    assert "onnxruntime" not in mapped
    assert "numpy" not in mapped


def test_an_epoch_that_is_not_new(controller, start_agent):
    """An agent doubles its epoch steps until its session is accepted."""
    controller.refusal = (grpc.StatusCode.ABORTED, "device d has session 3000; session 1 is not newer")
    start_agent(controller.address)
    epochs = [controller.hellos.get(timeout=WAIT_S).session_epoch for _ in range(4)]
    assert [epochs[number + 1] - epochs[number] for number in range(3)] == [2, 4, 8]

    controller.refusal = None
    controller.heartbeats.get(timeout=WAIT_S)
    while not controller.hellos.empty():
        last = controller.hellos.get().session_epoch
    controller.stop()
    controller.listen(controller.port)

    # Each attempt takes an epoch, and the next doubled step would be 16.
    assert last < controller.hellos.get(timeout=WAIT_S).session_epoch < last + 16
