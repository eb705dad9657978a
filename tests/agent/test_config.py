"""The tests of the configuration."""

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
    """--controller overrides EFFICIENTQUANT_CONTROLLER, which overrides the default."""
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
        (["--name", "a" * 64], "'aaaa.*' \\(64 characters\\) cannot be used"),
        (["--name", "a\nb"], "cannot be used; pass 1 to 63 letters"),
        (["--controller", ""], "is not HOST:PORT"),
        (["--controller", "0.0.0.0:50051", "--insecure"], "pass the controller's own address"),
        (["--state-dir", ""], "is empty"),
        (["--state-dir", __file__], "is not a directory; pass --state-dir with another"),
        (["--state-dir", __file__ + "/below"], "is not a directory"),
        (["--board-root", "/nowhere"], "is not a directory"),
        (["--board-root", __file__], "is not a directory"),
        (["--board-root", "/usr/bin"], "has no proc, sys or etc"),
        (["--tegrastats", "/nowhere"], "does not exist"),
        (["--tegrastats", "/usr"], "cannot be run"),
        (["--tegrastats", __file__], "cannot be run"),
        (["--tegrastats", ""], "does not exist"),
        (["--cache-bytes", "many"], "is not a size"),
        (["--plan-cache-bytes", "2 parsecs"], "is not a size"),
        (["--backoff-max-s", "0"], "is not a number of seconds from 0.01 to 3600"),
        (["--backoff-max-s", "inf"], "is not a number of seconds"),
        (["--nonsense"], "there is no option '--nonsense'; there is --backoff-max-s, "),
    ],
)
def test_bad_values(arguments, words, monkeypatch):
    """A value that cannot work is refused with a sentence before anything is touched."""
    monkeypatch.setattr("socket.gethostname", lambda: "")
    if "--name" not in arguments:
        arguments = [*arguments, "--name", "bench-1"]

    with pytest.raises(UsageError, match=words):
        config.load(arguments, {})


def test_environment_is_checked_too():
    """An invalid address in the environment is refused, and the variable is named."""
    with pytest.raises(UsageError, match="EFFICIENTQUANT_CONTROLLER 'x' is not HOST:PORT"):
        config.load(["--name", "a"], {"EFFICIENTQUANT_CONTROLLER": "x"})


def test_host_name_that_cannot_be_a_name(monkeypatch):
    """A host name that cannot be a device's name is refused, with the option that helps."""
    monkeypatch.setattr("socket.gethostname", lambda: "k\xfcche!")

    with pytest.raises(UsageError, match=r"this machine's host name .* cannot be a device's name; pass --name"):
        config.load([], {})


def test_tegrastats_by_name(monkeypatch, tmp_path):
    """--tegrastats finds a bare name on PATH, as a shell does."""
    (tmp_path / "mystats").write_text("#!/bin/sh\n")
    (tmp_path / "mystats").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert config.load(["--name", "a", "--tegrastats", "mystats"], {}).tegrastats == str(tmp_path / "mystats")


def test_insecure_allows_a_distant_controller():
    """A controller beyond this machine needs --insecure."""
    loaded = config.load(["--controller", "10.0.0.1:50051", "--insecure", "--name", "a"], {})

    assert loaded.address == "10.0.0.1:50051"


@pytest.mark.parametrize(
    ("arguments", "exit_code", "output"),
    [
        (["--version"], 0, "efficientquant-agent " + __version__),
        (["--controller", "x"], 2, "efficientquant-agent: controller 'x' is not HOST:PORT"),
        (["--help"], 0, "usage: efficientquant-agent"),
        (["docter"], 2, "efficientquant-agent: there is no command 'docter'; did you mean doctor?"),
        (["doctor", "--jsn"], 2, "efficientquant-agent: there is no option '--jsn'; did you mean --json?"),
        (["--name", "x", "doctor"], 2, "efficientquant-agent: 'doctor' comes first"),
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


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["doctor", "--help"]])
def test_output_that_cannot_be_written(arguments):
    """An answer that does not fit on the disk is one line on standard error."""
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "efficientquant_agent", *arguments], stdout=full, stderr=subprocess.PIPE
        )

    assert done.returncode == 2
    assert done.stderr == (
        b"efficientquant-agent: standard output cannot be written: no space left on device; print to another place\n"
    )
