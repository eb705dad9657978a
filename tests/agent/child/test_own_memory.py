"""Tests of the memory that a run's process reads of itself."""

import mmap

import pytest
from efficientquant_agent.child.own_memory import OwnMemory

MIB = 1 << 20
STATUS = "Name:\tpython3\nVmPeak:\t  900 kB\nVmHWM:\t  512 kB\nVmRSS:\t  300 kB\n"
ROLLUP = "Rss: 300 kB\nPss: 200 kB\nPrivate_Clean: 40 kB\nPrivate_Dirty: 60 kB\n"
SMAPS = """00400000-00401000 r-xp 00000000 08:01 1 /bin/a
Pss:                 100 kB
Private_Clean:        10 kB
Private_Dirty:         0 kB
7ffd1f5a7000-7ffd1f5c8000 rw-p 00000000 00:00 0 [stack]
Pss:                  28 kB
Private_Clean:         0 kB
Private_Dirty:        28 kB
"""


@pytest.fixture
def process(tmp_path):
    """Return a function that writes the files of /proc/self and returns its memory."""
    folder = tmp_path / "self"
    folder.mkdir()
    (folder / "clear_refs").write_text("")

    def write(**files):
        for name, content in files.items():
            (folder / name).write_text(content)
        return OwnMemory(str(tmp_path))

    return write


def test_exact_values(process):
    """The peak RSS is VmHWM after its reset, and the USS the private memory."""
    memory = process(status=STATUS, smaps_rollup=ROLLUP)

    memory.reset_peak()
    memory.note(with_uss=True)

    assert memory.readings() == {"peak_rss_bytes": 512 * 1024, "uss_bytes": 100 * 1024}
    assert (memory.pss.value, memory.problems) == ([200 * 1024], [])


def test_the_larger_uss_counts(process):
    """Of several readings the largest USS is kept, and loading does not count."""
    memory = process(status=STATUS)
    for private, with_uss in (("900", False), ("50", True), ("70", True), ("60", True)):
        process(smaps_rollup=ROLLUP.replace("60 kB", private + " kB"))
        memory.note(with_uss)

    assert memory.readings() == {"uss_bytes": 110 * 1024}
    assert len(memory.pss.value) == 4


def test_kernel_before_smaps_rollup(process):
    """On a Jetson Nano's kernel 4.9, which has only smaps, the mappings are added up."""
    memory = process(status=STATUS, smaps=SMAPS)

    memory.note(with_uss=True)

    assert memory.readings() == {"uss_bytes": 38 * 1024}
    assert memory.pss.value == [128 * 1024]


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({"status": "Name: python3\n"}, "the peak RSS of the process is not known here: {}/self/status: no VmHWM line"),
        ({"smaps_rollup": "Pss: 1 kB\n"}, "the USS of the process is not known here: {}/self/smaps_rollup: no Private"),
    ],
)
def test_broken(process, tmp_path, files, problem):
    """A kind that cannot be read is missing, with one sentence that names the file."""
    memory = process(**dict({"status": STATUS, "smaps_rollup": ROLLUP}, **files))

    memory.reset_peak()
    memory.note(with_uss=True)
    memory.note(with_uss=True)

    assert len(memory.readings()) == 1
    (sentence,) = memory.problems
    assert sentence.startswith(problem.format(tmp_path))


def test_a_peak_that_cannot_be_reset_is_unknown(process, tmp_path):
    """Without the reset the peak RSS is unknown, for it may be from before the load."""
    memory = process(status=STATUS, smaps_rollup=ROLLUP)
    (tmp_path / "self" / "clear_refs").unlink()
    (tmp_path / "self" / "clear_refs").mkdir()

    memory.reset_peak()
    memory.note(with_uss=True)

    assert memory.readings() == {"uss_bytes": 100 * 1024}
    assert memory.problems == [
        "the peak RSS of the process is not known here: {}/self/clear_refs: is a directory".format(tmp_path)
    ]


def held(byte_count):
    """Return anonymous memory whose pages have all been written."""
    memory = mmap.mmap(-1, byte_count, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.write(b"x" * byte_count)
    return memory


def test_own_process():
    """Memory that was freed stays in the peak RSS until its reset, and is not in the USS."""
    memory = OwnMemory()
    memory.reset_peak()
    low_bytes = memory.readings()["peak_rss_bytes"]
    held(64 * MIB).close()
    high_bytes = memory.readings()["peak_rss_bytes"]
    memory.note(with_uss=True)
    uss_bytes = memory.readings()["uss_bytes"]
    memory.reset_peak()

    assert high_bytes > low_bytes + 48 * MIB
    assert memory.readings()["peak_rss_bytes"] < high_bytes - 48 * MIB
    assert 4096 <= uss_bytes < high_bytes
