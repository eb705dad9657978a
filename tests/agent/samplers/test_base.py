"""Files that stay open, and rate-limited samplers."""

import errno
import os

import pytest
from efficientquant_agent.errors import SensorError
from efficientquant_agent.samplers.base import Budgeted, Number, OpenFile, Sampler, Spaced, read_text


class Costly(Sampler):
    """A sampler that advances its own clock by a given cost."""

    name = "costly"
    closed = False

    def __init__(self, clock, cost_s):
        self._clock = clock
        self._cost_s = cost_s

    def sample(self):
        """Advance the clock."""
        self._clock[0] += self._cost_s
        return 1.0

    def close(self):
        """Record that it was closed."""
        self.closed = True


def test_budget(monkeypatch):
    """After a reading of 2 ms, a sampler with a share of 0.1 % pauses for two seconds."""
    clock = [0.0]
    monkeypatch.setattr("efficientquant_agent.samplers.base.time.clock_gettime", lambda _: clock[0])
    costly = Costly(clock, 0.002)
    sampler = Budgeted(costly, 0.001)

    assert sampler.due(50.0)
    assert sampler.sample() == 1.0
    assert [sampler.due(now_s) for now_s in (50.1, 51.9, 52.1)] == [False, False, True]
    sampler.close()
    assert (sampler.name, costly.closed) == ("costly", True)


def test_spaced():
    """Between two readings at least the interval passes."""
    costly = Costly([0.0], 0.0)
    sampler = Spaced(costly, 0.25)

    assert [sampler.due(now_s) for now_s in (50.0, 50.1, 50.2, 50.3, 50.4, 50.5)] == [True, False, False] * 2
    assert sampler.sample() == 1.0
    sampler.close()
    assert (sampler.name, costly.closed) == ("costly", True)


def test_cheap_samplers_are_always_due():
    """A sampler without a rate limit is due at any time."""
    assert Costly([0.0], 0.0).due(-1.0)


@pytest.mark.parametrize(
    ("text", "number"), [("0\n", 0.0), ("-392\n", -0.392), ("4521", 4.521), (" 7 \n", 0.007), ("9" * 20, 1e17)]
)
def test_number(tmp_path, text, number):
    """A whole number, zero included, is scaled to the unit of the name."""
    (tmp_path / "value").write_text(text)

    assert Number("power_x_w", str(tmp_path / "value"), over=1000).sample() == number


@pytest.mark.parametrize("text", ["", "\n", "4.5", "0x10", "12 13", "N/A"])
def test_not_a_number(tmp_path, text):
    """Content that is no whole number is a SensorError."""
    (tmp_path / "value").write_text(text)

    with pytest.raises(SensorError, match=r"value: .* is not a whole number"):
        Number("power_x_w", str(tmp_path / "value")).sample()


def failing_read(monkeypatch, number):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("efficientquant_agent.samplers.base.os.pread", fail)


def test_absent_by_the_caller(tmp_path, monkeypatch):
    """An errno means "absent" only for files that list it, else it is a SensorError."""
    (tmp_path / "value").write_text("1\n")
    failing_read(monkeypatch, errno.EAGAIN)

    assert OpenFile(str(tmp_path / "value"), absent=(errno.EAGAIN,)).read_number() is None
    with pytest.raises(SensorError, match="resource temporarily unavailable"):
        OpenFile(str(tmp_path / "value")).read_number()


def test_device_that_comes_back(tmp_path, monkeypatch):
    """A device that was removed is absent, and its new file is read when it is back."""
    (tmp_path / "value").write_text("1\n")
    file = OpenFile(str(tmp_path / "value"))
    seen = [file.read_number()]

    with monkeypatch.context() as patch:
        failing_read(patch, errno.ENODEV)
        seen.append(file.read_number())
    (tmp_path / "value").unlink()
    seen.append(file.read_number())
    (tmp_path / "value").write_text("2\n")
    seen.append(file.read_number())
    file.close()

    assert seen == [1, None, None, 2]


def test_read_text(tmp_path):
    """A label is returned without a device tree's zero byte and without the end of its line."""
    (tmp_path / "label").write_bytes(b"VDD_IN\n\0")

    assert read_text(str(tmp_path / "label")) == "VDD_IN"
    assert read_text(str(tmp_path / "nothing")) is None
