"""Memory samplers on captured trees: absent, broken and zero are three answers."""

import os

import pytest
from efficientquant_agent.errors import SensorError
from efficientquant_agent.runner import SeriesRecorder
from efficientquant_agent.samplers.base import Sampler
from efficientquant_agent.samplers.memory import BoardAvailable, ChildPss, SwapUsed

MEMINFO = """MemTotal:        4059220 kB
MemFree:          141424 kB
MemAvailable:    1987340 kB
SwapTotal:       2029600 kB
SwapFree:        2029600 kB
"""
ROLLUP = """00400000-7ffd1f5c8000 ---p 00000000 00:00 0                              [rollup]
Rss:               11248 kB
Pss:                7693 kB
Pss_Anon:           4000 kB
"""
SMAPS = """00400000-00401000 r-xp 00000000 08:01 1 /bin/a
Pss:                 100 kB
7ffd1f5a7000-7ffd1f5c8000 rw-p 00000000 00:00 0 [stack]
Pss:                  28 kB
"""


def write_proc(tmp_path, **files):
    """Write meminfo and the files of process 42; return the root."""
    (tmp_path / "42").mkdir()
    for name, content in files.items():
        (tmp_path / ("meminfo" if name == "meminfo" else "42/" + name)).write_text(content)
    return str(tmp_path)


def test_exact_values(tmp_path):
    """Every quantity is read in bytes; no swap in use is 0, not nothing."""
    proc = write_proc(tmp_path, meminfo=MEMINFO, smaps_rollup=ROLLUP)

    assert ChildPss(42, proc).sample() == 7693 * 1024
    assert BoardAvailable(proc).sample() == 1987340 * 1024
    assert SwapUsed(proc).sample() == 0.0


def test_kernel_before_smaps_rollup(tmp_path):
    """A Jetson Nano's kernel 4.9 has smaps alone: its mappings are added up."""
    assert ChildPss(42, write_proc(tmp_path, smaps=SMAPS)).sample() == 128 * 1024


def test_absent(tmp_path):
    """What does not exist is None."""
    proc = write_proc(tmp_path, meminfo="MemTotal: 4059220 kB\n")

    assert BoardAvailable(proc).sample() is None
    assert SwapUsed(proc).sample() is None
    assert ChildPss(42, proc).sample() is None
    assert BoardAvailable(str(tmp_path / "nowhere")).sample() is None


def test_process_that_ended(tmp_path):
    """A process that has let go of its memory has no PSS any more: None."""
    assert ChildPss(42, write_proc(tmp_path, smaps_rollup="")).sample() is None


@pytest.mark.parametrize(
    ("sampler", "files", "words"),
    [
        (lambda proc: ChildPss(42, proc), {"smaps_rollup": "Rss: 1 kB\n"}, "smaps_rollup: no Pss line"),
        (BoardAvailable, {"meminfo": "MemAvailable:   lots kB\n"}, "meminfo: MemAvailable is 'lots'"),
    ],
)
def test_broken(tmp_path, sampler, files, words):
    """What is there and makes no sense is a SensorError that names the file."""
    with pytest.raises(SensorError, match=words):
        sampler(write_proc(tmp_path, **files)).sample()


def test_unreadable(tmp_path):
    """What is there and cannot be read is a SensorError, too."""
    (tmp_path / "meminfo").mkdir()

    with pytest.raises(SensorError, match="meminfo: is a directory"):
        SwapUsed(str(tmp_path)).sample()


def test_own_process():
    """The PSS of a living process is between one page and all memory."""
    sampler = ChildPss(os.getpid())

    assert 4096 <= sampler.sample() <= 1e12
    sampler.close()


class Scripted(Sampler):
    """Answers what the test says, one after the other."""

    def __init__(self, name, *answers):
        self.name = name
        self._answers = list(answers)

    def sample(self):
        """Give the next answer."""
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self):
        """Give no more answers."""
        self._answers.clear()


def test_recorder():
    """Absent leaves no sample, broken ends its series with one log line, zero is a sample."""
    said = []
    recorder = SeriesRecorder(
        [
            Scripted("zero", 0.0, 0.0),
            Scripted("absent", None, None),
            Scripted("broken", 1.0, SensorError("/sys/x", "permission denied")),
        ],
        0.0,
        said.append,
    )

    recorder.sample()
    recorder.sample()

    assert [(series.name, series.value) for series in recorder.close()] == [("zero", [0.0, 0.0]), ("broken", [1.0])]
    assert said == ["no more broken in this run: /sys/x: permission denied"]
