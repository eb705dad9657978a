"""Addresses (HOST:PORT) as people type them."""

import socket

import pytest
from efficientquant_controller.addresses import (
    is_loopback,
    is_own,
    join_address,
    require_free,
    split_address,
    usable_address,
)
from efficientquant_controller.errors import UserError


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("127.0.0.1:1", ("127.0.0.1", 1)),
        ("[::1]:50051", ("::1", 50051)),
        ("[fe80::1%eth0]:65535", ("fe80::1%eth0", 65535)),
        ("nano-3:1", ("nano-3", 1)),
        ("nano_3.lab.example.:1", ("nano_3.lab.example.", 1)),
    ],
)
def test_an_address_is_host_and_port(address, parts):
    """IPv4, IPv6 in brackets and names are parsed, and formatted as they were."""
    assert split_address(address) == parts
    assert join_address(*parts) == address


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("", "is not an address"),
        ("50051", "is not an address"),
        (":50051", "has no host name"),
        ("host:", "is not an address"),
        ("host:http", "is not an address"),
        ("host:²", "is not an address"),
        ("host:99999", "has no port from 1 to 65535"),
        ("host:0", "has no port from 1 to 65535"),
        ("host:" + "9" * 5000, "has no port from 1 to 65535"),
        ("http://host:50051", "is a URL"),
        (" host:1", "has no host name"),
        ("a b:1", "has no host name"),
        ("::1:50051", r"stands in brackets, for example \[::1\]:50051"),
        ("[host]:1", "has no IPv6 address in its brackets"),
        ("[]:1", "has no IPv6 address in its brackets"),
        ("300.0.0.1:1", "has no IPv4 address of four numbers"),
    ],
)
def test_anything_else_is_refused(address, sentence):
    """The sentence repeats what was given and shows what an address looks like."""
    with pytest.raises(UserError, match=sentence) as refused:
        split_address(address)
    assert f"'{address}'" in str(refused.value)
    assert ":50051" in str(refused.value)


def test_port_zero_is_for_listening():
    """Port 0 is accepted for listening only."""
    assert split_address("[::1]:0", listening=True) == ("::1", 0)
    with pytest.raises(UserError, match="from 0 to 65535"):
        split_address("[::1]:65536", listening=True)


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_every_interface_becomes_one_that_can_be_used(host):
    """A host that means all interfaces becomes an address of this machine."""
    shown, port = split_address(usable_address(host, 50051))

    assert shown not in ("0.0.0.0", "::")
    assert is_own(shown)
    assert port == 50051


def test_own_addresses_are_known():
    """An address is this machine's own when this machine could listen on it."""
    assert is_own("127.0.0.1")
    assert not is_own("192.0.2.123")
    assert not is_own("nosuch.invalid")
    assert is_loopback("localhost")


def test_a_port_in_use_is_refused():
    """A port that another program listens on is refused by name."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(UserError, match=f"cannot listen on {address}: another program uses port"):
            require_free(address)
    require_free(address)


@pytest.mark.parametrize(
    ("address", "sentence"),
    [("192.0.2.123:0", "is no address of this machine"), ("nosuch.invalid:0", "cannot be found")],
)
def test_an_address_of_another_machine_is_refused(address, sentence):
    """An address of another machine cannot be listened on."""
    with pytest.raises(UserError, match=sentence):
        require_free(address)
