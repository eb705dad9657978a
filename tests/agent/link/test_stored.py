"""Stored results are read unchanged or reported as damaged."""

import io

import pytest
from efficientquant_agent.errors import DamagedResultError
from efficientquant_agent.link import stored
from efficientquant_agent.link.stored import describe, pack, unpack
from efficientquant_protos.v1 import fleet_pb2 as pb

PAYLOAD = pb.RunResult(run_id="run-1", attempt=3, latency_s=[0.25, 0.5]).SerializeToString()
STORED = describe(PAYLOAD, attempt=3, lease_id="lease-7")
CONTENT = pack("run-1", STORED)


def read(content, run_id="run-1"):
    return unpack(run_id, io.BytesIO(content))


def damage_of(content):
    """Return the reported damage, or None for an intact result."""
    try:
        result = read(content)
    except DamagedResultError as error:
        return error
    assert result == STORED
    return None


def test_result_is_read_as_it_was_stored():
    """A result comes back with its bytes, attempt, lease, length and SHA-256."""
    assert read(CONTENT) == STORED
    assert (STORED.size_bytes, STORED.attempt, STORED.lease_id) == (len(PAYLOAD), 3, "lease-7")


@pytest.mark.parametrize("bit", range(8))
def test_every_flipped_bit_is_seen(bit):
    """One flipped bit anywhere in a file is damage, never another result."""
    for position in range(len(CONTENT)):
        content = bytearray(CONTENT)
        content[position] ^= 1 << bit

        assert damage_of(bytes(content)) is not None, position


def test_every_truncation_is_seen():
    """A file that is cut off anywhere is damaged, never another result."""
    assert all(damage_of(CONTENT[:length]) is not None for length in range(len(CONTENT)))


@pytest.mark.parametrize("rest", [b"\0" * 5000, b"\n", CONTENT])
def test_bytes_behind_the_result_are_ignored(rest):
    """Bytes after the result are ignored."""
    assert read(CONTENT + rest) == STORED


def test_damage_keeps_the_lease():
    """A damaged payload keeps the attempt and the lease id."""
    damage = damage_of(CONTENT[:-1])

    assert (damage.attempt, damage.lease_id) == (3, "lease-7")
    assert str(damage) == "it has {} of {} bytes".format(len(PAYLOAD) - 1, len(PAYLOAD))


def test_damaged_header_has_no_lease():
    """A damaged header gives no attempt and no lease id."""
    damage = damage_of(CONTENT.replace(b"lease-7", b"lease-8"))

    assert (str(damage), damage.attempt, damage.lease_id) == ("its header is damaged", 0, "")


@pytest.mark.parametrize("run_id", ["run-1", "r" * 10, "r" * 127, "r" * 128, "r" * 200])
def test_result_of_an_earlier_release(run_id):
    """A file of an earlier release is read as unchecked."""
    payload = pb.RunResult(run_id=run_id, attempt=1, latency_s=[0.5]).SerializeToString()

    result = read(payload, run_id)

    assert (result.payload, result.size_bytes, result.is_checked) == (payload, len(payload), False)


def test_result_of_another_run():
    """A file under the name of another run is damaged."""
    with pytest.raises(DamagedResultError, match="it is the result of run run-1"):
        read(CONTENT, "run-2")


@pytest.mark.parametrize("lease_id", ["", "a b\nc", "Nº-7", "x" * 5000])
def test_lease_of_any_text(lease_id):
    """Any lease id survives in an ASCII header."""
    content = pack("run-1", describe(PAYLOAD, lease_id=lease_id))

    assert read(content).lease_id == lease_id
    content[: -len(PAYLOAD)].decode("ascii")


@pytest.mark.parametrize("fields", [b"[]", b"{}", b'{"run_id": "run-1", "size_bytes": "many"}', b"no JSON"])
def test_header_of_another_form(fields):
    """A header with a right SHA-256 and another content is damage."""
    with pytest.raises(DamagedResultError, match="its header is of another form"):
        read(stored._with_check(stored._MAGIC + fields))


def test_foreign_file_is_not_read_whole():
    """Of a file that is no result, only the first line is read."""
    stream = io.BytesIO(b"x" * 100 + b"\n" + b"y" * 10_000_000)

    with pytest.raises(DamagedResultError):
        unpack("run-1", stream)
    assert stream.tell() < 200
