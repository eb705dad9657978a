"""The doctor's facts about a controller, and its problems."""

import json
import socket
import subprocess
import sys

import grpc
import pytest
from efficientquant_agent import __version__
from efficientquant_agent.doctor import controller_check
from efficientquant_agent.doctor.controller_check import ask, duration_text, offset_text
from efficientquant_agent.doctor.facts import ControllerFacts, Facts
from efficientquant_protos import PROTOCOL_VERSION

HERE = ControllerFacts(
    "a:1",
    is_reachable=True,
    is_controller=True,
    protocol_version=PROTOCOL_VERSION,
    version=__version__,
    clock_ahead_s=0.001,
    round_trip_s=0.004,
    agent_protocol_version=PROTOCOL_VERSION,
)


def problems_of(**change):
    return list(controller_check.problems(Facts(controller=HERE._replace(**change))))


def ask_port(port):
    return ask("127.0.0.1", port, "127.0.0.1:{}".format(port))


def test_a_healthy_controller(controller):
    """A controller of this version with the same time gives its facts and no problem."""
    facts = ask_port(controller.port)

    assert (facts.is_controller, facts.version, facts.protocol_version) == (True, __version__, PROTOCOL_VERSION)
    assert abs(facts.clock_ahead_s) <= facts.round_trip_s
    assert list(controller_check.problems(Facts(controller=facts))) == []
    assert controller.hellos.empty()


@pytest.mark.parametrize(("behind_s", "words"), [(7200.0, "2 h 0 min ahead of"), (-90.0, "90.0 s behind")])
def test_clock_offset(controller, behind_s, words):
    """The problem says by how much this device's clock is wrong, in which direction, and how to set it."""
    controller.clock_behind_s = behind_s

    (problem,) = controller_check.problems(Facts(controller=ask_port(controller.port)))

    assert (problem.id, problem.severity) == ("clock_offset", "warning")
    assert "this device's clock is {} the controller's: from 2 s on".format(words) in problem.sentence
    assert "timedatectl set-ntp true" in problem.fix


@pytest.mark.parametrize(
    ("ahead_s", "round_trip_s", "expected"),
    [(1.9, 0.0, 0), (2.1, 0.0, 1), (-2.1, 0.0, 1), (2.1, 1.0, 0), (None, 0.1, 0)],
)
def test_offsets_that_matter(ahead_s, round_trip_s, expected):
    """An offset counts from two seconds on, less half a round trip."""
    assert len(problems_of(clock_ahead_s=ahead_s, round_trip_s=round_trip_s)) == expected


@pytest.mark.parametrize(
    ("change", "problem", "fix"),
    [
        ({"protocol_version": PROTOCOL_VERSION + 1}, "error protocol_differs", "upgrade the agent on this device"),
        ({"protocol_version": PROTOCOL_VERSION - 1}, "error protocol_differs", "upgrade the controller"),
        ({"version": "99.0"}, "info versions_differ", "upgrade the agent on this device when it suits you"),
        ({"version": "0.0.9"}, "info versions_differ", "upgrade the controller when it suits you"),
    ],
)
def test_versions(change, problem, fix):
    """When versions differ, the older side is the one to upgrade."""
    (actual,) = problems_of(**change)

    assert ("{} {}".format(actual.severity, actual.id), actual.fix) == (problem, fix)


def test_an_older_controller(controller):
    """A controller too old for the question is distinguished from another gRPC server."""
    controller.ping_refusal = grpc.StatusCode.UNIMPLEMENTED

    facts = ask_port(controller.port)

    (problem,) = controller_check.problems(Facts(controller=facts))
    assert (facts.is_controller, problem.id, problem.severity) == (True, "controller_too_old", "warning")
    assert "is older than this agent" in problem.sentence


def test_another_grpc_server():
    """A gRPC server that serves no artifacts is no controller."""
    from concurrent import futures

    server = grpc.server(futures.ThreadPoolExecutor(max_workers=1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()

    facts = ask_port(port)
    server.stop(0).wait()

    assert facts.reason == "127.0.0.1:{} is a gRPC server but not an EfficientQuant controller".format(port)
    assert [problem.severity for problem in controller_check.problems(Facts(controller=facts))] == ["error"]


def test_nothing_listens():
    """Without a controller the reason is the same as the agent gives."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]

    facts = ask_port(port)

    (problem,) = controller_check.problems(Facts(controller=facts))
    assert facts.reason == "connection refused: nothing listens at 127.0.0.1:{}".format(port)
    # An address of another machine is served with these two options, and with no less.
    assert "--listen 0.0.0.0:50051 --insecure" in problem.fix


def test_the_wait_is_bounded():
    """A port that accepts and says nothing is given up after the limit."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(8)
        address = "127.0.0.1:{}".format(listener.getsockname()[1])

        facts = ask("127.0.0.1", listener.getsockname()[1], address, limit_s=0.1)

    assert facts.reason == "no answer from {} within 0.1 s, the name server's included".format(address)


def doctor(*arguments, block=""):
    code = "import sys; {}; from efficientquant_agent.__main__ import main; sys.exit(main())".format(block or "pass")
    done = subprocess.run(
        [sys.executable, "-c", code, "doctor", "--json"] + list(arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
    )
    return done.returncode, json.loads(done.stdout)


def test_next_to_a_running_agent(controller, start_agent, tmp_path, monkeypatch):
    """The doctor asks the controller of a running agent, through no proxy, and disturbs neither."""
    agent = start_agent(controller.address)
    agent.wait_for_line("ready: connected")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")

    code, answer = doctor(
        "--controller", controller.address, "--name", "bench-1", "--state-dir", str(tmp_path / "state")
    )

    assert (code, answer["schema"], answer["facts"]["controller"]["version"]) == (0, 1, __version__)
    assert (controller.hellos.qsize(), agent.process.poll()) == (1, None)


def test_environment_names_a_controller(tmp_path, monkeypatch):
    """The doctor asks the controller that the environment names, and exits with code 2 without it."""
    monkeypatch.setenv("EFFICIENTQUANT_CONTROLLER", "127.0.0.1:1")

    code, answer = doctor("--state-dir", str(tmp_path))

    assert (code, answer["can_run"], answer["facts"]["controller"]["is_reachable"]) == (2, True, False)
    assert answer["problems"][0]["id"] == "controller_unreachable"


def test_without_grpc(tmp_path):
    """Where gRPC is missing the doctor says so, and still reports everything else."""
    block = "sys.modules['grpc'] = None"

    code, answer = doctor("--controller", "127.0.0.1:1", "--state-dir", str(tmp_path), block=block)

    assert (code, answer["can_run"], answer["facts"]["missing_modules"]) == (2, True, ["grpc"])
    assert answer["problems"][0]["sentence"] == "the agent cannot start: grpc cannot be imported here"
    assert answer["facts"]["controller"]["reason"] == "not asked: grpc is missing"


@pytest.mark.parametrize(
    ("duration_s", "text"),
    [
        (0.0004, "0.4 ms"),
        (3.21, "3.2 s"),
        (119.0, "119.0 s"),
        (600.0, "10 min"),
        (7500.0, "2 h 5 min"),
        (1.7568e9, "20333 d"),
    ],
)
def test_durations(duration_s, text):
    """Durations from less than a millisecond to years are readable."""
    assert duration_text(duration_s) == text


def test_offset_within_the_round_trip():
    """An offset within half the round trip counts as none."""
    assert offset_text(HERE) == "the same as the controller's within 2.0 ms"
