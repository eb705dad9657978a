"""The configuration, read from the command line and the environment."""

import argparse
import os
import re
import shutil
import socket
from typing import Mapping, NamedTuple, Optional, Sequence

from efficientquant_agent import __version__
from efficientquant_agent.address import is_loopback, parse_address
from efficientquant_agent.command_line import Parser, seconds_of, size_of
from efficientquant_agent.errors import UsageError
from efficientquant_agent.streams import quoted

DEFAULT_CONTROLLER = "127.0.0.1:50051"
DEFAULT_CACHE_BYTES = 2 * 1024**3
DEFAULT_PLAN_CACHE_BYTES = 4 * 1024**3
COMMANDS = ("doctor",)
CONTROLLER_VARIABLE = "EFFICIENTQUANT_CONTROLLER"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_NAME_RULE = "1 to 63 letters, digits, dots, dashes or underscores, beginning with a letter or digit"


class Config(NamedTuple):
    """The checked configuration of one agent."""

    host: str
    port: int
    name: str
    state_dir: str
    cache_bytes: int
    backoff_max_s: float
    # The root of the board's own files: "/" except in containers and tests.
    board_root: str = "/"
    tegrastats: str = ""
    with_jtop: bool = False
    plan_cache_bytes: int = DEFAULT_PLAN_CACHE_BYTES
    # Whether the user named a controller. The default controller need not exist.
    names_controller: bool = False

    @property
    def address(self) -> str:
        """The controller's HOST:PORT, with an IPv6 address in brackets."""
        return "{}:{}".format("[" + self.host + "]" if ":" in self.host else self.host, self.port)


def build_parser() -> Parser:
    """Return the parser of the command `efficientquant-agent`."""
    parser = Parser(
        commands=COMMANDS,
        prog="efficientquant-agent",
        description="Benchmarks on this device what an EfficientQuant controller assigns, and reports every number. "
        "'efficientquant-agent doctor' says what this device can do, and what to fix.",
    )
    add_options(parser)
    parser.add_argument("--version", action="version", version="efficientquant-agent " + __version__)
    return parser


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the agent's options, which the doctor accepts too."""
    parser.add_argument(
        "--controller",
        metavar="HOST:PORT",
        help="where the controller listens (environment {}, default {})".format(
            CONTROLLER_VARIABLE, DEFAULT_CONTROLLER
        ),
    )
    parser.add_argument("--name", help="what people call this device (default: its host name)")
    parser.add_argument(
        "--state-dir", metavar="DIR", help="identity, cache and unsent results (default: under $XDG_STATE_HOME)"
    )
    parser.add_argument(
        "--cache-bytes",
        metavar="SIZE",
        type=size_of("--cache-bytes"),
        default=DEFAULT_CACHE_BYTES,
        help="how much disk downloaded artifacts may take, such as 500MB or 1.5GiB (default: 2GiB)",
    )
    parser.add_argument(
        "--plan-cache-bytes",
        metavar="SIZE",
        type=size_of("--plan-cache-bytes"),
        default=DEFAULT_PLAN_CACHE_BYTES,
        help="how much disk the engines built here may take (default: 4GiB)",
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
        help="path of tegrastats, for a Jetson whose sensors cannot be read as files (default: from PATH)",
    )
    parser.add_argument("--jtop", action="store_true", help="ask jetson-stats too, where it is installed")
    parser.add_argument(
        "--insecure", action="store_true", help="allow a controller beyond this machine over the unencrypted wire"
    )
    parser.add_argument(
        "--backoff-max-s",
        metavar="SECONDS",
        type=seconds_of("--backoff-max-s", 0.01, 3600.0),
        default=30.0,
        help="longest pause between two attempts to connect, at most 3600 (default: 30)",
    )


def load(arguments: Sequence[str], environment: Mapping[str, str]) -> Config:
    """Return the configuration of a command line and an environment.

    Raises UsageError with one sentence about the first invalid value.
    """
    return from_options(build_parser().parse(arguments), environment)


def from_options(options: argparse.Namespace, environment: Mapping[str, str]) -> Config:
    """Return the configuration of parsed options.

    Raises UsageError as `load` does.
    """
    address, named = options.controller, "controller"
    if address is None and environment.get(CONTROLLER_VARIABLE):
        address, named = environment[CONTROLLER_VARIABLE], CONTROLLER_VARIABLE
    names_controller = address is not None
    host, port = parse_address(address if names_controller else DEFAULT_CONTROLLER, named)
    if not options.insecure and not is_loopback(host):
        raise UsageError(
            "controller {} is not on this machine and the wire is not encrypted yet; pass --insecure to let anyone on "
            "the network read and change what is sent".format(address)
        )
    name = _name(options.name)
    return Config(
        host=host,
        port=port,
        name=name,
        state_dir=_state_dir(options.state_dir, name, environment),
        cache_bytes=options.cache_bytes,
        backoff_max_s=options.backoff_max_s,
        board_root=_board_root(options.board_root),
        tegrastats=_tegrastats(options.tegrastats),
        with_jtop=options.jtop,
        plan_cache_bytes=options.plan_cache_bytes,
        names_controller=names_controller,
    )


def default_state_dir(name: str, environment: Mapping[str, str]) -> str:
    """Return $XDG_STATE_HOME/efficientquant-agent/NAME, or the same below ~/.local/state."""
    base = environment.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
    return os.path.join(base, "efficientquant-agent", name)


def nearest_existing(path: str) -> str:
    """Return the path itself, or its nearest parent that exists."""
    path = os.path.abspath(path)
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    return path


def _name(value: Optional[str]) -> str:
    name = socket.gethostname() if value is None else value
    if _NAME.fullmatch(name):
        return name
    if value is None:
        raise UsageError(
            "this machine's host name {} cannot be a device's name; pass --name with {}".format(
                quoted(name), _NAME_RULE
            )
        )
    raise UsageError("--name {} cannot be used; pass {}".format(quoted(name), _NAME_RULE))


def _state_dir(value: Optional[str], name: str, environment: Mapping[str, str]) -> str:
    if value == "":
        raise UsageError("--state-dir '' is empty; pass a directory, which is created when it is missing")
    path = value or default_state_dir(name, environment)
    existing = nearest_existing(path)
    if not os.path.isdir(existing):
        raise UsageError(
            "state directory {} cannot be used: {} is not a directory; pass --state-dir with another".format(
                path, existing
            )
        )
    return path


def _board_root(path: str) -> str:
    if not os.path.isdir(path):
        raise UsageError("--board-root {} is not a directory; pass where the board's / is mounted".format(path or "''"))
    if not any(os.path.isdir(os.path.join(path, name)) for name in ("proc", "sys", "etc")):
        raise UsageError("--board-root {} has no proc, sys or etc; pass where the board's / is mounted".format(path))
    return path


def _tegrastats(value: Optional[str]) -> str:
    if value is None:
        return shutil.which("tegrastats") or ""
    path = shutil.which(value)
    if path is None:
        fault = "cannot be run" if os.path.exists(value) else "does not exist"
        raise UsageError("--tegrastats {} {}; pass the path of the executable".format(value or "''", fault))
    return path
