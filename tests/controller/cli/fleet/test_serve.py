"""`efficientquant serve`: its options become the server's configuration."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest
from efficientquant_controller.addresses import is_own, split_address
from efficientquant_controller.config import ServerConfig

COMMAND = [sys.executable, "-m", "efficientquant_controller.cli", "serve"]
PROXIES = ("http_proxy", "https_proxy", "grpc_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy")


@pytest.fixture
def served(monkeypatch) -> list[ServerConfig]:
    """Replace the server and return the configurations that it is started with."""
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
        (["--listen", "192.0.2.123:0"], "error: --listen 192.0.2.123:0: 192.0.2.123 is no address of this machine"),
        (["--listen", "192.0.2.123:0", "--insecure"], "error: --listen 192.0.2.123:0: 192.0.2.123 is no address"),
        (["--listen", "nosuch.invalid:0"], "error: the host 'nosuch.invalid' cannot be found"),
        (["--listen", "http://127.0.0.1:0"], "error: 'http://127.0.0.1:0' is a URL; give HOST:PORT"),
        (["--listen", "127.0.0.1:65536"], "error: '127.0.0.1:65536' has no port from 0 to 65535"),
        (["--lease", "1", "--heartbeat-interval", "2"], "error: --lease 1 s is shorter than two heartbeats"),
    ],
)
def test_wrong_configuration(command, served, options, sentence):
    """A wrong configuration is one line and exit code 2, before the server is imported."""
    outcome = command("serve", *options)

    assert outcome.exit_code == 2
    assert outcome.err.startswith(sentence)
    assert served == []


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[str]:
    """Start a controller and yield the address of its ready line."""
    words = [*COMMAND, "--db", str(folder / "results.db"), *options]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            ready = process.stdout.readline()
            assert ready.startswith("ready: listening on ")
            yield ready.split()[-1]
        finally:
            process.terminate()


@pytest.mark.parametrize("listen", ["[::1]:0", "127.0.0.1:0", "localhost:0"])
def test_the_address_that_is_printed_is_the_one_to_pass(command, tmp_path, listen):
    """--controller takes the address of the ready line, also for IPv6."""
    with serving(tmp_path, "--listen", listen) as address:
        outcome = command("devices", "--controller", address)

    assert (outcome.exit_code, outcome.err) == (0, "")
    assert address.rpartition(":")[0] == listen.rpartition(":")[0]


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0"])
def test_every_interface_is_printed_as_one_to_connect_to(command, tmp_path, listen, monkeypatch):
    """For all interfaces the ready line has one of this machine's addresses, and proxies are ignored."""
    for name in PROXIES:
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    with serving(tmp_path, "--listen", listen, "--insecure") as address:
        outcome = command("devices", "--controller", address)

    assert (outcome.exit_code, outcome.err) == (0, "")
    assert split_address(address)[0] not in ("0.0.0.0", "::")
    assert is_own(split_address(address)[0])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--db", "notes.txt"], "error: cannot open the database notes.txt: it is not a SQLite database"),
        (["--artifacts", "notes.txt"], "error: the artifact folder notes.txt cannot be created"),
    ],
)
def test_half_of_what_is_served_is_not_left_behind(tmp_path, options, sentence):
    """A refused start leaves neither a database nor an artifact folder."""
    (tmp_path / "notes.txt").write_text("these are my notes, and no database")

    words = [*COMMAND, "--listen", "127.0.0.1:0", *options]
    ended = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert ended.stderr.startswith(sentence)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_second_controller_is_one_line(tmp_path):
    """A second controller on one database is refused with the process that serves it."""
    words = [*COMMAND, "--listen", "127.0.0.1:0"]
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as first:
        first.stdout.readline()
        second = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
        first.terminate()

    assert second.returncode == 2
    assert second.stderr == (
        f"error: another controller (process {first.pid}) serves results.db; stop it or pass another --db\n"
    )


def test_a_port_in_use_leaves_nothing_behind(tmp_path):
    """A port in use is one line, before a database or a folder is made."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        listen = f"127.0.0.1:{other.getsockname()[1]}"
        words = [*COMMAND, "--db", str(tmp_path / "results.db"), "--listen", listen]
        ended = subprocess.run(words, capture_output=True, text=True, check=False)

    assert ended.returncode == 2
    assert ended.stderr.startswith(f"error: cannot listen on {listen}: another program uses port")
    assert (ended.stderr.count("\n"), list(tmp_path.iterdir())) == (1, [])
