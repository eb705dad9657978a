"""The controller's address as HOST:PORT, checked before connecting."""

import ipaddress
import re
from typing import Tuple, Union

from efficientquant_agent.errors import UsageError
from efficientquant_agent.streams import quoted

EXAMPLE = "192.168.1.10:50051"
_ADDRESS = re.compile(r"(?:\[([^\[\]]*)\]|([^:\[\]]*)):([0-9]{1,5})")
# RFC 1123, plus underscores, which people use in the names of their boards.
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")


def parse_address(address: str, named: str = "controller") -> Tuple[str, int]:
    """Split "HOST:PORT" or "[IPV6]:PORT" into host and port.

    Raises UsageError when the address is invalid. The error calls it `named`.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None or not 0 < int(match.group(3)) < 65536:
        raise UsageError(
            "{} {} is not HOST:PORT; {}".format(named, quoted(address), _advice(address, match is not None))
        )
    bracketed, host, port = match.group(1), match.group(2), int(match.group(3))
    fault = _fault_of_ipv6(bracketed) if bracketed is not None else _fault_of_host(host)
    if fault:
        raise UsageError("{} {} has no usable host: {}".format(named, quoted(address), fault))
    return bracketed or host, port


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine, without a name server."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return _ip(host).is_loopback
    except ValueError:
        return False


def _advice(address: str, bad_port: bool) -> str:
    if bad_port:
        return "a port is a number from 1 to 65535"
    if "://" in address:
        return "leave out {}://".format(address.split("://", 1)[0])
    if address.count(":") > 1 and "[" not in address:
        return "an IPv6 address stands in brackets, for example [::1]:50051"
    return "pass a host name or address and a port from 1 to 65535, for example " + EXAMPLE


def _fault_of_ipv6(host: str) -> str:
    try:
        is_ipv6 = _ip(host).version == 6
    except ValueError:
        is_ipv6 = False
    if not is_ipv6:
        return "only an IPv6 address stands in brackets, for example [::1]:50051"
    return _fault_of_unspecified(host)


def _fault_of_host(host: str) -> str:
    name = host[:-1] if host.endswith(".") else host
    if re.fullmatch(r"[0-9.]+", name):
        try:
            ipaddress.IPv4Address(name)
        except ValueError:
            return "an IPv4 address is four numbers from 0 to 255, for example " + EXAMPLE
        return _fault_of_unspecified(name)
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in name.split(".")):
        return "a host name is made of letters, digits, dashes and dots, for example " + EXAMPLE
    return ""


def _fault_of_unspecified(host: str) -> str:
    if not _ip(host).is_unspecified:
        return ""
    return "{} is where a controller listens, not where it is; pass the controller's own address".format(host)


def _ip(host: str) -> Union[ipaddress.IPv4Address, ipaddress.IPv6Address]:
    """Return an IP address without its zone.

    Python parses zones only from 3.9 on. Raises ValueError when it is not an IP address.
    """
    address, separator, zone = host.partition("%")
    if separator and not re.fullmatch(r"[A-Za-z0-9_.-]+", zone):
        raise ValueError(host)
    return ipaddress.ip_address(address)
