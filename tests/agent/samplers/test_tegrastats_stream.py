"""A tegrastats process, its lines and its exit, which leaves no zombie."""

import contextlib
import os
import select
import signal
import time
from pathlib import Path

import pytest
from efficientquant_agent.errors import SensorError
from efficientquant_agent.samplers.tegrastats_stream import MAX_GARBAGE_LINES, Tegrastats

WAIT_S = 30.0


@pytest.fixture
def replay(boards, monkeypatch):
    """Start the replaying tegrastats with these settings, and close it after the test."""
    started = []

    def start(without=(), **settings):
        for name, value in settings.items():
            monkeypatch.setenv("TEGRASTATS_" + name, str(value))
        started.append(Tegrastats(str(boards / "tegrastats_replay"), 0.001, without))
        return started[-1]

    yield start
    for stream in started:
        stream.close()


@pytest.fixture
def script(tmp_path):
    """Start a tegrastats that is a few lines of shell, and close it after the test."""
    started = []

    def start(text):
        path = tmp_path / "tegrastats"
        path.write_text("#!/bin/sh\n" + text)
        path.chmod(0o755)
        started.append(Tegrastats(str(path), 0.001))
        return started[-1]

    yield start
    for stream in started:
        stream.close()


def read_some(stream, count):
    """Read until there are at least `count` readings."""
    readings = []
    while len(readings) < count:
        assert select.select([stream], [], [], WAIT_S)[0]
        readings += stream.read()
    return readings


def read_to_the_end(stream):
    """Read until the stream fails, and return the readings before it and the error."""
    readings = []
    try:
        while True:
            assert select.select([stream], [], [], WAIT_S)[0]
            readings += stream.read()
    except SensorError as error:
        return readings, error


def is_gone(pid):
    """Tell whether a process has exited and was reaped."""
    return not Path("/proc/{}".format(pid)).exists()


def wait_until_ended(pid):
    """Wait until another's child is gone or a zombie."""
    deadline_s = time.monotonic() + WAIT_S
    while not is_gone(pid):
        with contextlib.suppress(FileNotFoundError):
            if b") Z" in Path("/proc/{}/stat".format(pid)).read_bytes():
                return
        assert time.monotonic() < deadline_s
        os.sched_yield()


def test_lines(replay):
    """Each line gives the time of its arrival and its values, in the order of the repeated file."""
    readings = read_some(replay(), 6)

    times = [time_s for time_s, _ in readings]
    assert times == sorted(times)
    assert [values["power_pom_5v_in_w"] for _, values in readings[:6]] == [3.82, 5.28, 5.32, 5.24, 3.82, 5.28]


def test_first_sample(replay):
    """`first_sample` waits for the first line, and `read` still returns it."""
    stream = replay()

    assert sorted(stream.first_sample().rails) == ["POM_5V_CPU", "POM_5V_GPU", "POM_5V_IN"]
    assert read_some(stream, 1)[0][1]["power_pom_5v_in_w"] == 3.82


def test_without(replay):
    """A series that another sampler reads is left out."""
    stream = replay(without=["board_used_bytes", "load_gpu"])

    assert not {"board_used_bytes", "load_gpu"} & set(read_some(stream, 1)[0][1])


def test_vanishing(replay):
    """A process that exits is a SensorError with its exit code, after its earlier readings."""
    readings, error = read_to_the_end(replay(DIE_AFTER=3, DIE_CODE=7))

    assert len(readings) == 3
    assert error.reason == "ended with code 7"


def test_killed(replay):
    """A process that is killed is a SensorError that names the signal."""
    stream = replay()
    read_some(stream, 1)

    os.kill(stream._process.pid, signal.SIGKILL)

    assert read_to_the_end(stream)[1].reason == "was killed by signal 9"


def test_half_a_line(replay):
    """A line without an end gives no reading."""
    readings, error = read_to_the_end(replay(CUT_AFTER=2))

    assert len(readings) == 2
    assert error.reason == "ended with code 0"


def test_garbage(replay):
    """Bad lines in a row are a SensorError that shows the last of them."""
    readings, error = read_to_the_end(replay(GARBAGE_AFTER=2))

    assert len(readings) == 2
    count, _, rest = error.reason.partition(" ")
    assert int(count) >= MAX_GARBAGE_LINES  # one read may give more
    assert rest.startswith("lines in a row that are not tegrastats'")
    assert "the sensor has left the building" in error.reason


def test_a_slip_is_forgiven(script):
    """Fewer bad lines than MAX_GARBAGE_LINES between good ones are skipped."""
    readings, error = read_to_the_end(
        script("for n in 1 2 3; do echo RAM $n/8MB; for m in 1 2 3 4; do echo oops; done; done")
    )

    assert [values["board_used_bytes"] for _, values in readings] == [1 << 20, 2 << 20, 3 << 20]
    assert error.reason == "ended with code 0"


def test_a_line_in_pieces(script, tmp_path):
    """A line that arrives in pieces is one line."""
    pipe = str(tmp_path / "pipe")
    os.mkfifo(pipe)
    stream = script("exec cat '{}'".format(pipe))

    with open(pipe, "wb", buffering=0) as writer:
        writer.write(b"RAM 3/")
        assert select.select([stream], [], [], WAIT_S)[0]
        assert stream.read() == []
        writer.write(b"8MB\nRAM 4/8MB\n")
        readings = read_some(stream, 2)

    assert [values["board_used_bytes"] for _, values in readings] == [3 << 20, 4 << 20]


def test_endless_line(script):
    """A line that is too long is not kept in memory, and is skipped when it ends."""
    readings, error = read_to_the_end(script("head -c 300000 /dev/zero; echo; echo RAM 4/8MB"))

    assert len(readings) == 1
    assert error.reason == "ended with code 0"


def test_heating(replay):
    """The replayed temperatures rise with every line when the replay is set to heat up."""
    readings = read_some(replay(HEAT_C=2.5), 3)

    assert [values["temperature_gpu_c"] for _, values in readings[:3]] == [38.5, 41.5, 44.5]


def test_silence(script):
    """Waiting for a process that prints nothing ends with a SensorError after the timeout."""
    with pytest.raises(SensorError, match=r"said nothing within 0\.05 s"):
        script("exec sleep 60").first_sample(0.05)


def test_not_there(tmp_path):
    """An executable that does not exist is a SensorError that names it."""
    with pytest.raises(SensorError, match="nowhere/tegrastats: no such file or directory"):
        Tegrastats(str(tmp_path / "nowhere" / "tegrastats"))


@pytest.mark.parametrize("stubborn", ["0", "1"])
def test_close(replay, stubborn):
    """Closing terminates the process, by SIGKILL if necessary, and reaps it, and can be repeated."""
    stream = replay(STUBBORN=stubborn)
    read_some(stream, 1)

    stream.close()
    stream.close()

    assert is_gone(stream._process.pid)
    assert stream.cpu_s > 0


def test_close_takes_the_whole_family(script):
    """Closing also terminates the processes that it started."""
    stream = script("(while :; do :; done) & echo RAM $!/9999999MB; wait")
    helper = int(read_some(stream, 1)[0][1]["board_used_bytes"]) >> 20

    stream.close()

    assert is_gone(stream._process.pid)
    wait_until_ended(helper)
