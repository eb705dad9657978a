"""Network addresses (HOST:PORT): parsing, formatting, and checks against this machine."""

import errno
import ipaddress
import re
import socket
from contextlib import closing

from efficientquant_controller.bounds import LISTEN_PORT, PORT
from efficientquant_controller.errors import UserError

EXAMPLE = "127.0.0.1:50051"
# Addresses reserved for documentation. No packet is sent: the kernel only says which interface would be used.
_ELSEWHERE = (("192.0.2.1", socket.AF_INET), ("2001:db8::1", socket.AF_INET6))
_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")


def split_address(address: str, *, listening: bool = False) -> tuple[str, int]:
    """Split HOST:PORT or [IPv6]:PORT.

    Raises UserError for anything else. Port 0 is allowed only with `listening`.
    """
    if "://" in address:
        raise UserError(f"'{address}' is a URL; give HOST:PORT, for example {EXAMPLE}")
    host, separator, port = address.rpartition(":")
    if separator and ":" in host and not host.startswith("["):
        raise UserError(f"'{address}': an IPv6 address stands in brackets, for example [::1]:50051")
    if not separator or not (port.isascii() and port.isdecimal()):
        raise UserError(f"'{address}' is not an address; give HOST:PORT, for example {EXAMPLE}")
    allowed = LISTEN_PORT if listening else PORT
    if len(port) > 5 or not allowed.low <= int(port) <= allowed.high:
        raise UserError(f"'{address}' has no port from {allowed.span}; give HOST:PORT, for example {EXAMPLE}")
    return _checked_host(host, address), int(port)


def join_address(host: str, port: int) -> str:
    """Return HOST:PORT, with an IPv6 address in brackets.

    It is the inverse of `split_address`.
    """
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def usable_address(host: str, port: int) -> str:
    """Return an address to connect to.

    A host that means every interface is replaced by an address of this machine.
    """
    if not _is_any(host):
        return join_address(host, port)
    return join_address(_own_address() or ("::1" if ":" in host else "127.0.0.1"), port)


def is_loopback(host: str) -> bool:
    """Tell whether every address of `host` is a loopback address.

    Raises UserError for a name that cannot be resolved.
    """
    return all(ipaddress.ip_address(address.split("%")[0]).is_loopback for address in _resolved(host))


def is_own(host: str) -> bool:
    """Tell whether this machine could listen on `host`."""
    try:
        addresses = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    return any(_bind_error(family, address) is None for family, _, _, _, address in addresses)


def require_free(address: str) -> None:
    """Raise UserError when this machine cannot listen on HOST:PORT now."""
    host, port = split_address(address, listening=True)
    _resolved(host)
    for family, _, _, _, socket_address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        error = _bind_error(family, socket_address)
        if error is not None:
            raise UserError(f"cannot listen on {address}: {_why(error, host, port)}")


def _why(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"another program uses port {port}; stop it, or pass another --listen HOST:PORT (port 0 takes a free one)"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{host} is no address of this machine; pass one of its own, or 0.0.0.0 with --insecure for all of them"
    if error.errno == errno.EACCES:
        return f"port {port} needs root; pass one above 1023"
    return f"{error.strerror}; pass another --listen HOST:PORT"


def _bind_error(family: int, socket_address: tuple[object, ...]) -> OSError | None:
    try:
        with closing(socket.socket(family, socket.SOCK_STREAM)) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(socket_address)
    except OSError as error:
        return error
    return None


def _resolved(host: str) -> set[str]:
    try:
        return {str(info[4][0]) for info in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError) as error:
        raise UserError(f"the host '{host}' cannot be found ({_reason(error)}); give a name or an address") from error


def _reason(error: Exception) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


def _checked_host(host: str, address: str) -> str:
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise UserError(f"'{address}' has no IPv6 address in its brackets; an example: [::1]:50051") from None
        return host
    if re.fullmatch(r"[0-9.]+", host):
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError:
            raise UserError(f"'{address}' has no IPv4 address of four numbers; an example: {EXAMPLE}") from None
    if not _NAME.fullmatch(host):
        raise UserError(f"'{address}' has no host name before its port; give HOST:PORT, for example {EXAMPLE}")
    return host


def _is_any(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def _own_address() -> str | None:
    """Return the address of the interface to other machines.

    Returns None without a network.
    """
    for elsewhere, family in _ELSEWHERE:
        try:
            with closing(socket.socket(family, socket.SOCK_DGRAM)) as probe:
                probe.connect((elsewhere, 9))
                return str(probe.getsockname()[0])
        except OSError:
            continue
    return None
