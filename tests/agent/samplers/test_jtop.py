"""jetson-stats through a double with the documented shape of its client.

The package is not needed here.
"""

import sys
import types

import pytest
from efficientquant_agent.errors import SensorError
from efficientquant_agent.samplers.jtop import jtop_samplers


class RefusedError(Exception):
    """The client's own error."""


class Client:
    """A client of the daemon."""

    def __init__(self, interval):
        self.interval = interval
        self.alive = False
        self.closed = 0
        self.memory = {"RAM": {"tot": 4059220, "used": 1985304}, "SWAP": {"tot": 2029600, "used": 0}}
        self.gpu = {"gpu": {"status": {"load": 87.5}, "freq": {"cur": 921600}}}
        self.temperature = {
            "CPU": {"temp": 40.5, "online": True},
            "GPU": {"temp": -256, "online": False},
            "PMIC": {"temp": 50.0, "online": True},
        }
        self.power = {"rail": {"POM_5V_IN": {"power": 4521, "avg": 4402}, "NC": {"power": 0}}, "tot": {"power": 4521}}

    def start(self):
        """Connect."""
        self.alive = True

    def is_alive(self):
        """Tell whether it is connected."""
        return self.alive

    def close(self):
        """Disconnect."""
        self.alive = False
        self.closed += 1


@pytest.fixture
def client():
    return Client(0.1)


@pytest.fixture
def module(client):
    return types.SimpleNamespace(jtop=lambda **_: client, JtopException=RefusedError)


def test_values(module, sampled):
    """The daemon's units become SI, a part that is off has no temperature, dummies are left out."""
    assert sampled(jtop_samplers(0.1, module)) == {
        "board_used_bytes": 1985304 * 1024.0,
        "swap_used_bytes": 0.0,
        "load_gpu": 0.875,
        "clock_gpu_hz": 921.6e6,
        "temperature_cpu_c": 40.5,
        "temperature_gpu_c": None,
        "power_pom_5v_in_w": 4.521,
    }


def test_connection_is_shared(module, client):
    """The connection is closed with its last sampler."""
    samplers = jtop_samplers(0.1, module)
    for sampler in samplers[1:]:
        sampler.close()

    assert client.closed == 0
    samplers[0].close()
    assert client.closed == 1


def test_daemon_that_ends(module, client):
    """A daemon that has exited is a SensorError."""
    sampler = jtop_samplers(0.1, module)[0]
    client.alive = False

    with pytest.raises(SensorError, match="jtop: the connection to jetson_stats' daemon has ended"):
        sampler.sample()


def test_another_version(module, client):
    """A message of another shape is a SensorError that names the missing series."""
    sampler = jtop_samplers(0.1, module)[0]
    client.memory = {"tot": 1}

    with pytest.raises(SensorError, match="no board_used_bytes in the daemon's message"):
        sampler.sample()


def test_daemon_that_refuses(module, client, monkeypatch):
    """A daemon that does not answer is a SensorError with the client's message."""

    def refuse():
        raise RefusedError("The jetson_stats.service is not active")

    monkeypatch.setattr(client, "start", refuse)

    with pytest.raises(SensorError, match=r"jtop: The jetson_stats\.service is not active"):
        jtop_samplers(0.1, module)


def test_not_installed(monkeypatch):
    """Without jetson-stats there are no samplers."""
    monkeypatch.setitem(sys.modules, "jtop", None)

    assert jtop_samplers(0.1) is None
