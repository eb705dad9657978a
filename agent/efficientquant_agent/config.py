"""The command line and the environment, checked and turned into one record."""

import argparse
import ipaddress
import os
import re
import shutil
import socket
from typing import Mapping, NamedTuple, NoReturn, Sequence, Tuple

from efficientquant_agent import __version__
from efficientquant_agent.errors import UsageError

DEFAULT_CONTROLLER = "127.0.0.1:50051"
DEFAULT_CACHE_BYTES = 2 * 1024**3
DEFAULT_PLAN_CACHE_BYTES = 4 * 1024**3
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


class Config(NamedTuple):
    """What one agent was asked to do."""

    host: str
    port: int
    name: str
    state_dir: str
    cache_bytes: int
    backoff_max_s: float
    # The root of the board's own files; "/" but for containers and tests.
    board_root: str = "/"
    tegrastats: str = ""
    with_jtop: bool = False
    plan_cache_bytes: int = DEFAULT_PLAN_CACHE_BYTES

    @property
    def address(self) -> str:
        """HOST:PORT, with an IPv6 address in brackets."""
        return "{}:{}".format("[" + self.host + "]" if ":" in self.host else self.host, self.port)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Turn argparse's complaint into a sentence that main() prints."""
        raise UsageError(message)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command `efficientquant-agent`."""
    parser = _Parser(
        prog="efficientquant-agent",
        description="Benchmarks on this device what an EfficientQuant controller assigns, and reports every number. "
        "'efficientquant-agent doctor' says what this device can do, and what to fix.",
    )
    parser.add_argument(
        "--controller",
        metavar="HOST:PORT",
        help="where the controller listens (environment EFFICIENTQUANT_CONTROLLER, default {})".format(
            DEFAULT_CONTROLLER
        ),
    )
    parser.add_argument("--name", help="what people call this device (default: its host name)")
    parser.add_argument(
        "--state-dir", metavar="DIR", help="identity, cache and unsent results (default: under $XDG_STATE_HOME)"
    )
    parser.add_argument(
        "--cache-bytes",
        metavar="N",
        type=int,
        default=DEFAULT_CACHE_BYTES,
        help="how much disk downloaded artifacts may take (default: %(default)s)",
    )
    parser.add_argument(
        "--plan-cache-bytes",
        metavar="N",
        type=int,
        default=DEFAULT_PLAN_CACHE_BYTES,
        help="how much disk the engines built here may take (default: %(default)s)",
    )
    parser.add_argument(
        "--board-root",
        metavar="DIR",
        default="/",
        help="where /proc, /sys and /etc of the board are mounted, for an agent in a container (default: /)",
    )
    parser.add_argument(
        "--tegrastats",
        metavar="PATH",
        help="the tegrastats to watch a Jetson with where its sensors cannot be read as files (default: from PATH)",
    )
    parser.add_argument("--jtop", action="store_true", help="ask jetson-stats too, where it is installed")
    parser.add_argument(
        "--insecure", action="store_true", help="allow a controller beyond this machine over the unencrypted wire"
    )
    parser.add_argument(
        "--backoff-max-s",
        metavar="SECONDS",
        type=float,
        default=30.0,
        help="longest pause between two attempts to connect (default: %(default)s)",
    )
    parser.add_argument("--version", action="version", version="efficientquant-agent " + __version__)
    return parser


def load(arguments: Sequence[str], environment: Mapping[str, str]) -> Config:
    """Return the configuration; raises UsageError with one sentence on anything that cannot work."""
    options = build_parser().parse_args(arguments)
    address = options.controller or environment.get("EFFICIENTQUANT_CONTROLLER") or DEFAULT_CONTROLLER
    host, port = parse_address(address)
    if not options.insecure and not is_loopback(host):
        raise UsageError(
            "controller {} is not on this machine and the wire is not encrypted yet; pass --insecure to let anyone on "
            "the network read and change what is sent".format(address)
        )
    name = options.name or socket.gethostname()
    if not _NAME.fullmatch(name):
        raise UsageError(
            "name {!r} cannot be used; pass --name with 1 to 63 letters, digits, dots, dashes or underscores, "
            "beginning with a letter or digit".format(name)
        )
    if options.cache_bytes < 0:
        raise UsageError("--cache-bytes {} is negative; pass 0 or more".format(options.cache_bytes))
    if options.plan_cache_bytes < 0:
        raise UsageError("--plan-cache-bytes {} is negative; pass 0 or more".format(options.plan_cache_bytes))
    if not os.path.isdir(options.board_root):
        raise UsageError(
            "--board-root {} is not a directory; pass where the board's / is mounted".format(options.board_root)
        )
    if options.tegrastats and not os.access(options.tegrastats, os.X_OK):
        raise UsageError("--tegrastats {} cannot be run; pass the path of the executable".format(options.tegrastats))
    if not 0 < options.backoff_max_s < float("inf"):
        raise UsageError("--backoff-max-s {} is not a positive number of seconds".format(options.backoff_max_s))
    return Config(
        host=host,
        port=port,
        name=name,
        state_dir=options.state_dir or default_state_dir(name, environment),
        cache_bytes=options.cache_bytes,
        backoff_max_s=options.backoff_max_s,
        board_root=options.board_root,
        tegrastats=options.tegrastats or shutil.which("tegrastats") or "",
        with_jtop=options.jtop,
        plan_cache_bytes=options.plan_cache_bytes,
    )


def parse_address(address: str) -> Tuple[str, int]:
    """Split "HOST:PORT" or "[IPV6]:PORT"; raises UsageError for anything else."""
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%]+)\]|([^\s:\[\]/]+)):([0-9]{1,5})", address)
    if match is None or not 0 < int(match.group(3)) < 65536:
        raise UsageError(
            "controller {!r} is not HOST:PORT; pass a host name or address and a port from 1 to 65535, "
            "for example {}".format(address, DEFAULT_CONTROLLER)
        )
    return match.group(1) or match.group(2), int(match.group(3))


def is_loopback(host: str) -> bool:
    """Whether a host is this machine by its name or its address, without asking a name server."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def default_state_dir(name: str, environment: Mapping[str, str]) -> str:
    """Return $XDG_STATE_HOME/efficientquant-agent/NAME, or the same below ~/.local/state."""
    base = environment.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
    return os.path.join(base, "efficientquant-agent", name)
