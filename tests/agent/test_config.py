"""The command line."""

import subprocess
import sys

import pytest
from efficientquant_agent import __version__, config
from efficientquant_agent.errors import UsageError


def test_defaults():
    """Without options the controller is on this machine and the name is the host's."""
    loaded = config.load(["--name", "nano-3"], {"XDG_STATE_HOME": "/state"})

    assert loaded.address == "127.0.0.1:50051"
    assert loaded.state_dir == "/state/efficientquant-agent/nano-3"
    assert loaded.cache_bytes == 2 * 1024**3


def test_option_beats_environment():
    """--controller is stronger than EFFICIENTQUANT_CONTROLLER, which is stronger than the default."""
    environment = {"EFFICIENTQUANT_CONTROLLER": "localhost:1"}

    assert config.load(["--name", "a"], environment).address == "localhost:1"
    assert config.load(["--name", "a", "--controller", "[::1]:2"], environment).address == "[::1]:2"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--controller", "nonsense"], "is not HOST:PORT"),
        (["--controller", "a:70000"], "is not HOST:PORT"),
        (["--controller", "::1:50051"], "is not HOST:PORT"),
        (["--controller", "10.0.0.1:50051"], "pass --insecure"),
        (["--controller", "nano.local:50051"], "pass --insecure"),
        (["--name", "../up"], "cannot be used"),
        (["--name", ""], "cannot be used"),
        (["--cache-bytes", "-1"], "is negative"),
        (["--cache-bytes", "many"], "invalid int value"),
        (["--backoff-max-s", "0"], "not a positive number"),
        (["--nonsense"], "unrecognized arguments"),
    ],
)
def test_bad_values(arguments, words, monkeypatch):
    """What cannot work is refused with a sentence before anything is touched."""
    monkeypatch.setattr("socket.gethostname", lambda: "")
    if "--name" not in arguments:
        arguments = [*arguments, "--name", "bench-1"]

    with pytest.raises(UsageError, match=words):
        config.load(arguments, {})


def test_insecure_allows_a_distant_controller():
    """--insecure is what a controller beyond this machine takes."""
    loaded = config.load(["--controller", "10.0.0.1:50051", "--insecure", "--name", "a"], {})

    assert loaded.address == "10.0.0.1:50051"


@pytest.mark.parametrize(
    ("arguments", "exit_code", "output"),
    [
        (["--version"], 0, "efficientquant-agent " + __version__),
        (["--controller", "x"], 2, "efficientquant-agent: controller 'x' is not HOST:PORT"),
        (["--help"], 0, "usage: efficientquant-agent"),
    ],
)
def test_command(arguments, exit_code, output):
    """The command answers without loading gRPC, and a mistake is one line with exit code 2."""
    block = "import sys; sys.modules['grpc'] = None; from efficientquant_agent.__main__ import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", block, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
    )

    assert (done.returncode, done.stdout[: len(output)]) == (exit_code, output)
    assert exit_code == 0 or done.stdout.count("\n") == 1
