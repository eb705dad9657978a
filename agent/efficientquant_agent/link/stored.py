"""A stored result: one line that describes the bytes, then the bytes.

The line has its own SHA-256 and that of the bytes. Whatever follows the bytes is ignored.
"""

import json
from typing import BinaryIO, NamedTuple, Optional

from efficientquant_agent.digests import new_sha256
from efficientquant_agent.errors import DamagedResultError

_MAGIC = b"efficientquant-result 1 "
_LONGEST_LINE_BYTES = 1 << 16


class StoredResult(NamedTuple):
    """A serialized result with the original length and SHA-256.

    `is_checked` is false for a file of an earlier release, which has no SHA-256.
    """

    payload: bytes
    size_bytes: int
    sha256: str
    attempt: int = 0
    lease_id: str = ""
    is_checked: bool = True


def describe(payload: bytes, attempt: int = 0, lease_id: str = "", is_checked: bool = True) -> StoredResult:
    """Return the record of a payload that has just been made."""
    return StoredResult(payload, len(payload), _sha256(payload), attempt, lease_id, is_checked)


def pack(run_id: str, result: StoredResult) -> bytes:
    """Return the content of a result's file."""
    fields = {
        "run_id": run_id,
        "attempt": result.attempt,
        "lease_id": result.lease_id,
        "size_bytes": result.size_bytes,
        "sha256": result.sha256,
    }
    line = _MAGIC + json.dumps(fields, sort_keys=True).encode("ascii")
    return _with_check(line) + result.payload


def unpack(run_id: str, stream: BinaryIO) -> StoredResult:
    """Return the result of a run from its file, verified.

    Raises DamagedResultError when the file has other bytes than were stored.
    """
    line = stream.readline(_LONGEST_LINE_BYTES)
    content, _, _ = line.rpartition(b" ")
    if not content.startswith(_MAGIC) or line != _with_check(content):
        result = _of_an_earlier_release(run_id, line, stream)
        if result is None:
            raise DamagedResultError("its header is damaged")
        return result
    try:
        fields = json.loads(content[len(_MAGIC) :].decode("ascii"))
        size_bytes, described = int(fields["size_bytes"]), str(fields["run_id"])
        result = StoredResult(
            stream.read(size_bytes), size_bytes, str(fields["sha256"]), int(fields["attempt"]), str(fields["lease_id"])
        )
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedResultError("its header is of another form") from error
    if described != run_id:
        raise DamagedResultError("it is the result of run {}".format(described))
    verify(result)
    return result


def verify(result: StoredResult) -> None:
    """Raise DamagedResultError when a payload is not what was stored."""
    if len(result.payload) != result.size_bytes:
        reason = "it has {} of {} bytes".format(len(result.payload), result.size_bytes)
    elif _sha256(result.payload) != result.sha256:
        reason = "its SHA-256 is another"
    else:
        return
    raise DamagedResultError(reason, result.attempt, result.lease_id)


def _of_an_earlier_release(run_id: str, start: bytes, stream: BinaryIO) -> Optional[StoredResult]:
    """Return a bare serialized result, None for any other file.

    It begins with the run id as protobuf's field 1. No single damaged byte makes a header look like that.
    """
    length = len(run_id)
    size = bytes([length]) if length < 128 else bytes([length & 127 | 128, length >> 7])
    prefix = b"\x0a" + size + run_id.encode("ascii")
    start += stream.read(max(0, len(prefix) - len(start)))
    if not start.startswith(prefix):  # not read whole: it may be of any size
        return None
    return describe(start + stream.read(), is_checked=False)


def _with_check(line: bytes) -> bytes:
    return line + b" " + _sha256(line).encode("ascii") + b"\n"


def _sha256(data: bytes) -> str:
    digest: str = new_sha256(data).hexdigest()
    return digest
