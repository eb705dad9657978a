"""The doctor's check of a controller: its answer, versions and time."""

import math
import threading
from typing import Any, Iterator, List

from efficientquant_agent import __version__
from efficientquant_agent.doctor.facts import ERROR, INFO, WARNING, ControllerFacts, Facts, Problem, pip_install
from efficientquant_agent.errors import ControllerTooOldError, ControllerUnreachableError
from efficientquant_agent.versions import version_of

# For the whole conversation, since a name server alone can take longer than a person waits.
LIMIT_S = 20.0
_PING_TIMEOUT_S = 5.0
# The first is slow, because it opens the connection. The quickest says most about the clock.
_PINGS = 5
# A run of the smoke tier takes seconds: from this offset on, runs of two devices sort into the wrong order by time.
CLOCK_TOLERANCE_S = 2.0


def ask(host: str, port: int, address: str, limit_s: float = LIMIT_S) -> ControllerFacts:
    """Return a controller's versions and clock, after at most `limit_s` seconds.

    Opens no session. Raises ImportError where gRPC or the protos are not installed.
    """
    from efficientquant_agent.link.client import PROTOCOL_VERSION, Client

    unanswered = ControllerFacts(address, agent_protocol_version=PROTOCOL_VERSION)
    answers: List[ControllerFacts] = []

    def converse() -> None:
        client = Client(host, port, address)
        try:
            answers.append(_converse(client, unanswered))
        finally:
            client.close()

    # A daemon thread, since nothing interrupts a thread that waits for a name server.
    thread = threading.Thread(target=converse, name="doctor", daemon=True)
    thread.start()
    thread.join(limit_s)
    if answers:
        return answers[0]
    return unanswered._replace(
        reason="no answer from {} within {:g} s, the name server's included".format(address, limit_s)
    )


def _converse(client: Any, unanswered: ControllerFacts) -> ControllerFacts:
    try:
        pongs = [client.ping(_PING_TIMEOUT_S) for _ in range(_PINGS)]
    except ControllerTooOldError as error:
        return unanswered._replace(is_reachable=True, is_controller=True, reason=error.reason)
    except ControllerUnreachableError as error:
        return unanswered._replace(is_reachable=error.answered, reason=error.reason)
    best = min(pongs, key=lambda pong: pong.round_trip_s)
    return unanswered._replace(
        is_reachable=True,
        is_controller=True,
        protocol_version=best.protocol_version,
        version=best.controller_version,
        clock_ahead_s=best.clock_ahead_s if math.isfinite(best.clock_ahead_s) else None,
        round_trip_s=best.round_trip_s,
    )


def problems(facts: Facts) -> Iterator[Problem]:
    """Yield the problems between this device and its controller."""
    controller = facts.controller
    if controller is None or facts.missing_modules:
        return
    if controller.agent_protocol_version is None:  # it was not asked
        yield Problem(
            "grpc_broken",
            ERROR,
            "the agent cannot start: {}".format(controller.reason),
            pip_install(facts, "--force-reinstall grpcio protobuf"),
        )
    elif not controller.is_controller:
        yield Problem(
            "controller_unreachable",
            ERROR,
            "the controller cannot be used: {}".format(controller.reason),
            "start efficientquant serve on its computer if it does not run, and pass the address of its ready line as "
            "--controller; other machines reach it when it listens with --listen 0.0.0.0:50051 --insecure and no "
            "firewall is in between",
        )
    else:
        yield from _versions(controller)
        yield from _clock(controller)


def _versions(controller: ControllerFacts) -> Iterator[Problem]:
    if controller.protocol_version is None:
        yield Problem(
            "controller_too_old",
            WARNING,
            "{}; its versions and its clock stay unknown".format(controller.reason),
            "upgrade the controller to the agent's version, {}".format(__version__),
        )
    elif controller.protocol_version != controller.agent_protocol_version:
        agent_is_older = controller.protocol_version > (controller.agent_protocol_version or 0)
        yield Problem(
            "protocol_differs",
            ERROR,
            "the controller ({}) speaks protocol {} and this agent ({}) speaks {}: it refuses the agent".format(
                controller.version, controller.protocol_version, __version__, controller.agent_protocol_version
            ),
            "upgrade the agent on this device" if agent_is_older else "upgrade the controller",
        )
    elif controller.version != __version__:
        agent_is_older = version_of(__version__) < version_of(controller.version)
        yield Problem(
            "versions_differ",
            INFO,
            "the controller is {} and this agent {}: they work together, both speak protocol {}".format(
                controller.version or "of an unknown version", __version__, controller.protocol_version
            ),
            "upgrade the {} when it suits you".format("agent on this device" if agent_is_older else "controller"),
        )


def _clock(controller: ControllerFacts) -> Iterator[Problem]:
    ahead_s = controller.clock_ahead_s
    # An offset below half the round trip cannot be measured.
    if ahead_s is None or abs(ahead_s) - (controller.round_trip_s or 0.0) / 2 < CLOCK_TOLERANCE_S:
        return
    yield Problem(
        "clock_offset",
        WARNING,
        "this device's clock is {}: from {:g} s on, runs of several devices sort into the wrong order by time, and "
        "their logs do not match".format(offset_text(controller), CLOCK_TOLERANCE_S),
        "sudo timedatectl set-ntp true, on the side that is wrong (timedatectl shows it); without a time server in "
        "reach: sudo timedatectl set-ntp false && sudo timedatectl set-time 'YYYY-MM-DD HH:MM:SS'",
    )


def offset_text(controller: ControllerFacts) -> str:
    """Return this device's clock offset from the controller's, as text.

    The text is for a person and says the direction.
    """
    ahead_s, round_trip_s = controller.clock_ahead_s, controller.round_trip_s or 0.0
    if ahead_s is None:
        return "not known"
    if abs(ahead_s) <= round_trip_s / 2:
        return "the same as the controller's within {}".format(duration_text(round_trip_s / 2))
    return "{} {} the controller's".format(duration_text(abs(ahead_s)), "ahead of" if ahead_s > 0 else "behind")


def duration_text(duration_s: float) -> str:
    """Return a duration as text for a person.

    Examples are "0.4 ms", "3.2 s", "2 h 5 min" and "20332 d".
    """
    if duration_s < 0.1:
        return "{:.1f} ms".format(duration_s * 1e3)
    if duration_s < 120:
        return "{:.1f} s".format(duration_s)
    minutes = round(duration_s / 60)
    if minutes < 120:
        return "{} min".format(minutes)
    if minutes < 2 * 24 * 60:
        return "{} h {} min".format(*divmod(minutes, 60))
    return "{} d".format(round(minutes / (24 * 60.0)))
