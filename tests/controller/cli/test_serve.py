"""`efficientquant serve`: its options become the server's configuration."""

import sys
from pathlib import Path
from types import ModuleType

import pytest
from efficientquant_controller.config import ServerConfig


@pytest.fixture
def served(monkeypatch) -> list[ServerConfig]:
    """What the server would have been started with."""
    configs: list[ServerConfig] = []
    module = ModuleType("efficientquant_controller.server.app")
    module.serve = configs.append
    monkeypatch.setitem(sys.modules, "efficientquant_controller.server.app", module)
    return configs


def test_defaults(command, served):
    """Without options results.db is served on loopback."""
    assert command("serve").exit_code == 0

    assert served == [ServerConfig(db="results.db")]


def test_every_option(command, served):
    """Every option reaches the server."""
    options = "--db x.db --listen 0.0.0.0:0 --insecure --artifacts there --heartbeat-interval 0.5 --lease 3"

    command("serve", *options.split())

    assert served == [ServerConfig("x.db", "0.0.0.0:0", Path("there"), True, 0.5, 3.0)]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--listen", "0.0.0.0:0"], "error: --listen 0.0.0.0:0 is reachable from other machines"),
        (["--listen", "50051"], "error: '50051' is not an address"),
        (["--lease", "1", "--heartbeat-interval", "2"], "error: --lease 1 s is shorter than two heartbeats"),
    ],
)
def test_wrong_configuration(command, served, options, sentence):
    """What cannot be served is one line and exit code 2, before the server is imported."""
    outcome = command("serve", *options)

    assert outcome.exit_code == 2
    assert outcome.err.startswith(sentence)
    assert served == []
