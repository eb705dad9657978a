"""The tests of controllers' addresses."""

import pytest
from efficientquant_agent.address import is_loopback, parse_address
from efficientquant_agent.errors import UsageError


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("127.0.0.1:50051", "127.0.0.1", 50051),
        ("[::1]:1", "::1", 1),
        ("[fe80::1%eth0]:65535", "fe80::1%eth0", 65535),
        ("bench.local:50051", "bench.local", 50051),
        ("bench.local.:50051", "bench.local.", 50051),
        ("my_board:50051", "my_board", 50051),
    ],
)
def test_addresses(address, host, port):
    """A host is a name, an IPv4 address, or an IPv6 address in brackets with or without a zone."""
    assert parse_address(address) == (host, port)


@pytest.mark.parametrize(
    ("address", "advice"),
    [
        ("", "is not HOST:PORT; pass a host name or address and a port"),
        ("192.168.1.10", "is not HOST:PORT; pass a host name or address and a port"),
        ("http://192.168.1.10:50051", "leave out http://"),
        ("::1:50051", "an IPv6 address stands in brackets"),
        ("a:0", "a port is a number from 1 to 65535"),
        ("a:65536", "a port is a number from 1 to 65535"),
        ("a:-1", "is not HOST:PORT"),
        ("a:５００", "is not HOST:PORT"),
        ("[1:2]:3", "only an IPv6 address stands in brackets"),
        ("[bench]:3", "only an IPv6 address stands in brackets"),
        ("[10.0.0.1]:3", "only an IPv6 address stands in brackets"),
        ("999.1.1.1:50051", "an IPv4 address is four numbers"),
        ("127.1:50051", "an IPv4 address is four numbers"),
        ("a..b:50051", "a host name is made of"),
        ("b\xfcro:50051", "a host name is made of"),
        ("a b:50051", "a host name is made of"),
        ("a\nb:50051", "a host name is made of"),
        ("x" * 64 + ":1", "a host name is made of"),
        ("0.0.0.0:50051", "pass the controller's own address"),
        ("[::]:50051", "pass the controller's own address"),
    ],
)
def test_addresses_that_are_none(address, advice):
    """An invalid address is refused before anything connects, with what to change."""
    with pytest.raises(UsageError) as refusal:
        parse_address(address)

    assert advice in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("LOCALHOST.", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("10.0.0.1", False),
        ("::2", False),
    ],
)
def test_this_machine(host, expected):
    """A loopback address and the name localhost are this machine, without asking a name server."""
    assert is_loopback(host) is expected
