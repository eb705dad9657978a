"""The cache of artifacts, with a fetch function that a test controls."""

import hashlib
import os
import threading
from pathlib import Path

import pytest
from efficientquant_agent.errors import ControllerBusyError, ControllerUnreachableError, RunFailedError
from efficientquant_agent.link.artifacts import ArtifactCache

CONTENT = bytes(range(256)) * 16


def name_of(content):
    return hashlib.sha256(content).hexdigest()


class Source:
    """A source of contents by their SHA-256 that records the requested offsets."""

    def __init__(self, *contents):
        self.contents = {name_of(content): content for content in contents}
        self.offsets = []

    def fetch(self, sha256, offset):
        """Yield chunks of 1,000 bytes from `offset` on."""
        self.offsets.append(offset)
        content = self.contents[sha256]
        for begin in range(offset, len(content), 1000):
            yield content[begin : begin + 1000]


def open_cache(tmp_path, fetch, limit_bytes=10**6, log=print):
    return ArtifactCache(str(tmp_path), limit_bytes, fetch, log, backoff_max_s=0.001)


def get(cache, content):
    return cache.get(name_of(content), threading.Event(), lambda _: None)


def test_partial_file_is_resumed(tmp_path):
    """A partial file of an earlier agent is hashed and continued, not fetched again."""
    source = Source(CONTENT)
    (tmp_path / (name_of(CONTENT) + ".partial")).write_bytes(CONTENT[:1500])

    artifact = get(open_cache(tmp_path, source.fetch), CONTENT)

    assert source.offsets == [1500]
    assert artifact.transfer.size_bytes == len(CONTENT) - 1500
    assert Path(artifact.path).read_bytes() == CONTENT


def test_damaged_partial_file(tmp_path):
    """A partial file with other bytes is thrown away and the artifact is fetched from the start."""
    source = Source(CONTENT)
    (tmp_path / (name_of(CONTENT) + ".partial")).write_bytes(b"x" * 1500)

    get(open_cache(tmp_path, source.fetch), CONTENT)

    assert source.offsets == [1500, 0]


def test_wrong_bytes_twice(tmp_path):
    """An artifact that arrives twice with other bytes is corrupt, and nothing of it stays."""
    source = Source()
    source.contents[name_of(CONTENT)] = b"something else"

    with pytest.raises(RunFailedError) as failure:
        get(open_cache(tmp_path, source.fetch), CONTENT)

    assert failure.value.failure_type == "artifact_corrupt"
    assert os.listdir(str(tmp_path)) == []


def test_source_that_fails(tmp_path):
    """A fetch that is refused repeatedly fails as artifact_unavailable."""
    attempts = []

    def fetch(_, offset):
        attempts.append(offset)
        raise ControllerUnreachableError("a broken disk", answered=True)

    with pytest.raises(RunFailedError, match="a broken disk") as failure:
        get(open_cache(tmp_path, fetch), CONTENT)

    assert failure.value.failure_type == "artifact_unavailable"
    assert len(attempts) == 6


@pytest.mark.parametrize("error", [ControllerUnreachableError("nobody there"), ControllerBusyError("it is restarting")])
def test_fetch_waits_for_the_controller(tmp_path, error):
    """A fetch waits for its controller and logs each reason once."""
    source, said, failures = Source(CONTENT), [], [error] * 50

    def fetch(sha256, offset):
        if failures:
            raise failures.pop()
        return source.fetch(sha256, offset)

    assert get(open_cache(tmp_path, fetch, log=said.append), CONTENT).transfer.size_bytes == len(CONTENT)
    assert said == ["fetch of {} broke off at byte 0: {}".format(name_of(CONTENT)[:12], error.reason)]


def test_waiting_fetch_is_cancelled(tmp_path):
    """A cancellation ends a fetch that waits for its controller."""
    cancelled = threading.Event()

    def fetch(_sha256, _offset):
        cancelled.set()
        raise ControllerUnreachableError("nobody there")

    cache = ArtifactCache(str(tmp_path), 10**6, fetch, print, backoff_max_s=3600.0)
    with pytest.raises(RunFailedError) as failure:
        cache.get(name_of(CONTENT), cancelled, print)

    assert failure.value.failure_type == "cancelled"


def test_interrupted_fetch_is_a_cancellation(tmp_path):
    """A call that a cancellation interrupts is not counted as the controller's answer."""
    cancelled, said = threading.Event(), []

    def fetch(_sha256, _offset):
        yield CONTENT[:10]
        cancelled.set()
        raise ControllerUnreachableError("the controller answered CANCELLED: ", answered=True)

    cache = ArtifactCache(str(tmp_path), 10**6, fetch, said.append)
    with pytest.raises(RunFailedError) as failure:
        cache.get(name_of(CONTENT), cancelled, print)

    assert (failure.value.failure_type, said) == ("cancelled", [])


def test_cancelled_fetch(tmp_path):
    """A fetch stops between two chunks when the run is cancelled, and keeps what it has."""
    cancelled = threading.Event()
    cache = open_cache(tmp_path, Source(CONTENT).fetch)

    with pytest.raises(RunFailedError) as failure:
        cache.get(name_of(CONTENT), cancelled, lambda _: cancelled.set())

    assert failure.value.failure_type == "cancelled"
    assert os.listdir(str(tmp_path)) == [name_of(CONTENT) + ".partial"]


def test_bound(tmp_path):
    """The least recently used artifact is removed first, and never the requested one."""
    contents = [bytes([number]) * 1000 for number in range(3)]
    cache = open_cache(tmp_path, Source(*contents).fetch, limit_bytes=2000)
    get(cache, contents[0])
    get(cache, contents[1])
    os.utime(str(tmp_path / name_of(contents[0])), (1, 1))

    get(cache, contents[2])

    assert sorted(os.listdir(str(tmp_path))) == sorted(name_of(content) for content in contents[1:])


def test_artifact_larger_than_the_cache(tmp_path):
    """An artifact that alone exceeds the limit is still kept for its run."""
    cache = open_cache(tmp_path, Source(CONTENT).fetch, limit_bytes=0)

    assert os.path.getsize(get(cache, CONTENT).path) == len(CONTENT)


@pytest.mark.parametrize("sha256", ["", "../../etc/passwd", "A" * 64, "0" * 63])
def test_name_that_is_no_hash(tmp_path, sha256):
    """A name that is not a SHA-256 never becomes a path."""
    with pytest.raises(RunFailedError, match="is not a SHA-256"):
        open_cache(tmp_path, Source().fetch).get(sha256, threading.Event(), print)
